"""Which value of a mask is which class: of drawn faces, of the street scenes of prior work, or by a `classes.csv`."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from scemae_jax.data.images import DatasetError
from scemae_jax.faces.parts import DRAWN, IGNORED, PartScheme

CLASSES = "classes.csv"


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """The classes of a set of masks."""

    scheme: PartScheme
    classes: Mapping[int, int]
    """By the value in a mask, the class; other values are mistakes, unless `ignores_others`."""
    ignores_others: bool = False
    groups: tuple[str, ...] = ()
    """Of each class, the group that it is also measured in; empty: no groups."""

    def table(self) -> UInt8[np.ndarray, "256"]:
        """Class of each value, `IGNORED` where it has none."""
        table = np.full(256, IGNORED, np.uint8)
        for value, index in self.classes.items():
            table[value] = index
        return table


_CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
_SYNTHIA = {
    "road": 3, "sidewalk": 4, "building": 2, "wall": 21, "fence": 5, "pole": 7, "traffic light": 15, "traffic sign": 9,
    "vegetation": 6, "sky": 1, "person": 10, "rider": 17, "car": 8, "bus": 19, "motorcycle": 12, "bicycle": 11,
}  # fmt: skip
"""Values of SYNTHIA-RAND-CITYSCAPES, in the order of Cityscapes."""


def _scenes(values: Mapping[str, int], among: Mapping[str, int], without: tuple[str, ...] = ()) -> ClassMap:
    names = tuple(name for name in among if name not in without)
    classes = {values[name]: index for index, name in enumerate(names)}
    return ClassMap(PartScheme(names=names), classes, ignores_others=True)


_THIN = ("wall", "fence", "pole")
CLASS_MAPS = {
    "faces": ClassMap(DRAWN, {index: index for index in range(len(DRAWN.names))}),
    "cityscapes19": _scenes(_CITYSCAPES, _CITYSCAPES),
    "cityscapes16": _scenes(_CITYSCAPES, _SYNTHIA),
    "cityscapes13": _scenes(_CITYSCAPES, _SYNTHIA, _THIN),
    "synthia16": _scenes(_SYNTHIA, _SYNTHIA),
    "synthia13": _scenes(_SYNTHIA, _SYNTHIA, _THIN),
}
"""By name. GTA5's masks have Cityscapes' values; "cityscapes16" and "cityscapes13" are SYNTHIA's classes there."""


def read_classes(path: Path) -> ClassMap:
    """Reads a `classes.csv`: columns `value` (0 to 254), `name`, and `merge` if classes are measured in groups too.

    Values of one name are one class; a row without a name is ignored. Classes are numbered in the order of the file.

    Raises:
      DatasetError: the file is missing or a row of it is wrong; the message names the row.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist: write it with the columns value, name, and merge if you want groups"
        )
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := {"value", "name"} - set(reader.fieldnames or ()):
            raise DatasetError(
                f"{path} lacks the column {', '.join(sorted(missing))}: its columns are value, name, merge"
            )
        rows = list(reader)
    names: dict[str, int] = {}
    classes: dict[int, int] = {}
    groups: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        text, name, group = (str(row.get(column) or "").strip() for column in ("value", "name", "merge"))
        if not text.isdigit() or int(text) >= IGNORED:
            raise DatasetError(f"{where}: the value is {text!r}: write a number from 0 to {IGNORED - 1}")
        if int(text) in classes:
            raise DatasetError(f"{where}: the value {text} has a row already: keep one of them")
        if groups.setdefault(name, group) != group:
            raise DatasetError(f"{where}: {name!r} is merged into {groups[name]!r} and into {group!r}: choose one")
        classes[int(text)] = names.setdefault(name, len(names)) if name else IGNORED
    if not names:
        raise DatasetError(f"{path} names no class: write a row for each value of the masks")
    merged = tuple(groups[name] for name in names)
    if any(merged) and not all(merged):
        lacking = ", ".join(name for name in names if not groups[name])
        raise DatasetError(f"{path}: some classes are merged and {lacking} not: fill in the column for all of them")
    return ClassMap(PartScheme(names=tuple(names)), classes, groups=merged if any(merged) else ())


def class_map(name: str, root: Path, values: str = "") -> ClassMap:
    """One of `CLASS_MAPS` by its name; without a name, that of the `classes.csv` in `root`.

    With `values`, "cityscapes" or "synthia", the same classes by the values of that dataset.

    Raises:
      DatasetError: there is no such map, or as `read_classes`.
    """
    if not name:
        return read_classes(root / CLASSES)
    count = name.removeprefix("cityscapes").removeprefix("synthia")
    if values and count.isdigit():
        name = f"{values}{count}"
    if name not in CLASS_MAPS:
        raise DatasetError(f"no classes are called {name!r}: choose {', '.join(CLASS_MAPS)}, or write {CLASSES}")
    return CLASS_MAPS[name]
