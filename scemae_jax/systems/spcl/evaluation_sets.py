"""Images with true masks that a parser is measured on, and the classes and groups of classes that count there."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from scemae_jax.data import sources
from scemae_jax.data.datasets.landmark_folder import LandmarkFolder, folder_config
from scemae_jax.data.datasets.mask_folder import MaskFolder, mask_folder_config
from scemae_jax.data.masks import has_masks
from scemae_jax.evaluation import segmentation
from scemae_jax.faces import part_polygons
from scemae_jax.faces.frame import Frame, WholeImage
from scemae_jax.faces.parts import IGNORED, PartScheme
from scemae_jax.systems.spcl.networks import Spcl, chunk_size, data_size
from scemae_jax.systems.spcl.settings import SOURCE, described


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouping:
    """Classes that count together: of each class its group, -1 for one that does not count."""

    name: str
    names: tuple[str, ...]
    groups: tuple[int, ...]


def groupings(parts: PartScheme, asked: tuple[str, ...]) -> list[Grouping]:
    """By name: "all" classes, "merge" (the groups of a classes.csv), or of faces "landmarks" (what landmarks tell) and
    "fasseg" (what FASSEG has).

    Raises:
      ValueError: a name is unknown, or is of faces and the classes are others.
    """
    merged = {
        "all": {name: name for name in parts.names},
        "merge": dict(zip(parts.names, parts.groups, strict=False)),
        "landmarks": {
            **dict.fromkeys(("background", "hair", "neck", "clothing"), "other"),
            **{name: name for name in part_polygons.PARTS[1:]},
        },
        "fasseg": {
            "background": "background", "clothing": "background", "skin": "skin", "neck": "skin", "hair": "hair",
            "brows": "brows", "eyes": "eyes", "nose": "nose", "lips": "lips", "inner_mouth": "lips",
        },
    }  # fmt: skip
    found = []
    for name in asked:
        if name not in merged:
            raise ValueError(f"no grouping is called {name!r}: choose {', '.join(merged)}")
        if not merged[name]:
            raise ValueError(f"grouping {name!r} needs the column merge in the source's classes.csv: fill it in")
        if missing := merged[name].keys() - set(parts.names):
            raise ValueError(f"grouping {name!r} needs the classes {', '.join(sorted(missing))}, which are not there")
        names = tuple(dict.fromkeys(merged[name].values()))
        groups = tuple(names.index(merged[name][part]) if part in merged[name] else -1 for part in parts.names)
        found.append(Grouping(name=name, names=names, groups=groups))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestSet:
    """Images, and what is true of their pixels."""

    name: str
    images: UInt8[np.ndarray, "n h w 3"]
    masks: UInt8[np.ndarray, "n h w"]
    """Classes, or with `polygons` those of `part_polygons.PARTS`; 255 does not count."""
    asked: tuple[str, ...]
    """Names of groupings."""
    polygons: bool = False
    classes: tuple[str, ...] = ()
    """Names of the classes, if the masks have classes."""

    def check_classes(self, parts: PartScheme) -> None:
        """Raises ValueError if the masks have other classes than the parser."""
        if self.classes and self.classes != parts.names:
            raise ValueError(
                f"config.measure.sets: {self.name} has the classes {', '.join(self.classes)}, and the parser "
                f"{', '.join(parts.names)}: write its classes.csv with the same names in the same order"
            )

    def confusions(
        self,
        find: Callable[[np.ndarray], Mapping[str, Float[np.ndarray, "b s s k"]]],
        frame: Frame | WholeImage,
        parts: PartScheme,
    ) -> dict[tuple[str, Grouping], Int[np.ndarray, "n m m"]]:
        """Of each image's centre window, by what `find` names and by grouping.

        `find` gives scores of the classes of uint8 windows, the highest of which decides; it may give several kinds by
        name. Classes that do not count are no choice.
        """
        self.check_classes(parts)
        found, chunk = collections.defaultdict(list), chunk_size(self.images)
        for start in range(0, len(self.images), chunk):
            windows = frame.centre_window(self.images[start : start + chunk])
            truth = self._windows_of_masks(frame)[start : start + chunk]
            for kind, scores in find(windows).items():
                for grouping in groupings(parts, self.asked):
                    groups = np.asarray(grouping.groups)
                    chosen = groups[np.where(groups >= 0, scores, -np.inf).argmax(axis=-1)]
                    count = len(grouping.names)
                    found[kind, grouping].append(segmentation.confusions(chosen, self._table(grouping)[truth], count))
        return {about: np.concatenate(counts) for about, counts in found.items()}

    def confusions_of_landmarks(
        self,
        detect: Callable[[np.ndarray], Float[np.ndarray, "b 68 2"]],
        frame: Frame | WholeImage,
        parts: PartScheme,
    ) -> dict[Grouping, Int[np.ndarray, "n m m"]]:
        """Of the polygons through the landmarks that `detect` finds in the images; in the grouping "landmarks" alone.

        Empty if the set is not measured in that grouping.
        """
        if "landmarks" not in self.asked:
            return {}
        (grouping,) = groupings(parts, ("landmarks",))
        size = (self.images.shape[1], self.images.shape[2])
        drawn = [part_polygons.part_mask(points, size, clearance=False) for points in detect(self.images)]
        predicted = frame.centre_window(np.stack(drawn)[..., None])[..., 0]
        truth = self._table(grouping)[self._windows_of_masks(frame)]
        table = _of_polygons(grouping)
        return {grouping: segmentation.confusions(table[predicted], truth, len(grouping.names))}

    def _windows_of_masks(self, frame: Frame | WholeImage) -> UInt8[np.ndarray, "n h w"]:
        return frame.centre_window(self.masks[..., None])[..., 0]

    def _table(self, grouping: Grouping) -> Int[np.ndarray, "256"]:
        """The group of each value of the masks, `IGNORED` where it does not count."""
        if self.polygons:
            return _of_polygons(grouping)
        groups, table = np.asarray(grouping.groups), np.full(256, IGNORED)
        table[: len(groups)] = np.where(groups >= 0, groups, IGNORED)
        return table


def _of_polygons(grouping: Grouping) -> Int[np.ndarray, "256"]:
    table = np.full(256, IGNORED)
    table[: len(part_polygons.PARTS)] = [grouping.names.index(part) for part in part_polygons.PARTS]
    return table


def open_set(description: str, experiment: Spcl) -> TestSet:
    """The set that an entry of `config.measure.sets` describes.

    Its folder has masks (`data.masks.LAYOUTS`), or a `landmarks.csv` with 68 landmarks, whose polygons then are the
    truth.

    Raises:
      ValueError: the description has another form, or the folder cannot be used.
    """
    name, folder, split, asked = described(description)
    config, root = experiment.config, Path(folder).expanduser()
    polygons = folder != SOURCE and not has_masks(root)
    data_dir = config.data.data_dir or None
    if polygons and set(asked) - {"landmarks"}:
        raise ValueError(
            f"config.measure.sets has {description!r}: {folder} has no masks, and the polygons of its landmarks have "
            "only the classes of the grouping landmarks"
        )
    if folder == SOURCE:
        builder = experiment.source_dataset
    elif polygons:
        builder = LandmarkFolder(config=folder_config(folder), data_dir=data_dir)
    else:
        builder = MaskFolder(config=mask_folder_config(folder, config.classes, data_size(config)), data_dir=data_dir)
    if folder != SOURCE:
        sources.prepare(builder, "")
    splits = [split] if split else list(builder.info.splits)
    if split and split not in builder.info.splits:
        raise ValueError(
            f"config.measure.sets has {description!r}: there is no split {split!r}, choose from "
            f"{', '.join(builder.info.splits)}"
        )
    if not polygons:
        faces = sources.read_faces(builder, splits, fields=("parts",))
        assert faces.parts is not None
        return TestSet(
            name=name, images=faces.images, masks=faces.parts, asked=asked or ("all",),
            classes=tuple((builder.info.metadata or {})["parts"]),
        )  # fmt: skip
    faces = sources.read_faces(builder, splits).annotated()
    if not len(faces) or faces.landmarks.shape[1] != 68:
        raise ValueError(f"{folder} has neither masks nor faces with 68 landmarks: add one of the two")
    size = (faces.images.shape[1], faces.images.shape[2])
    masks = np.stack([part_polygons.part_mask(points, size) for points in faces.landmarks])
    return TestSet(
        name=name, images=faces.images, masks=masks, asked=asked or ("landmarks",), polygons=True
    )  # fmt: skip
