"""A folder of images with a mask for each: listed, checked, and read. `LAYOUTS` are those of published datasets."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from scemae_jax.data.class_maps import ClassMap, class_map
from scemae_jax.data.formats import EXTENSIONS
from scemae_jax.data.images import DatasetError
from scemae_jax.faces.parts import IGNORED

SPLIT_FILES = ("split.csv", "index.csv")
_INDEXED = ("L", "P", "1")
"""Pillow's modes of masks whose values are classes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a folder has its images and masks."""

    images: str
    masks: str
    image_end: str = ""
    """How names of images end, before their extension. What is before it names the mask too."""
    mask_end: str = ""
    nested: bool = False
    """Images and masks are in folders SPLIT/ANY; those of the split `test`, which has no masks, are left out."""
    values: str = ""
    """Whose values the masks have, by the names of `class_maps.CLASS_MAPS`; empty: those of the classes asked for."""
    red: bool = False
    """Classes may be in the first channel of 16-bit RGB."""


OWN = Layout(images="images", masks="masks")
LAYOUTS = (
    OWN,
    Layout(images="images", masks="labels", values="cityscapes"),  # GTA5
    Layout(images="RGB", masks="GT/LABELS", values="synthia", red=True),  # SYNTHIA-RAND-CITYSCAPES
    Layout(
        images="leftImg8bit", masks="gtFine", image_end="_leftImg8bit", mask_end="_gtFine_labelIds", nested=True,
        values="cityscapes",
    ),
)  # fmt: skip


def layout_of(root: Path) -> Layout:
    """The layout whose folders are there; without any, `OWN`."""
    return next((each for each in LAYOUTS if (root / each.images).is_dir() and (root / each.masks).is_dir()), OWN)


def has_masks(root: Path) -> bool:
    """Whether the folder has masks in any of the layouts."""
    return (root / layout_of(root).masks).is_dir()


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    stem: str
    """Of a nested layout with its folders."""
    image: Path
    mask: Path
    split: str


@dataclasses.dataclass(frozen=True)
class MaskFolder:
    """What a folder holds, checked but for the pixels."""

    root: Path
    pairs: tuple[Pair, ...]
    """Sorted by stem."""
    layout: Layout
    classes: ClassMap
    fingerprint: str
    """12 hexadecimal digits, of names, sizes and times of the files and of the classes."""


def read_mask_folder(root: str | os.PathLike, classes: str = "") -> MaskFolder:
    """Lists `images/*` and the mask `masks/STEM.png` of each, or the files of another of `LAYOUTS`.

    `split.csv` (or `index.csv`) may name the split of each `file` (its stem, or its name); without it, all are `train`.
    Those of a nested layout are of the split that their folder names.

    Args:
      root: the folder.
      classes: a name of `class_maps.CLASS_MAPS`; empty: the folder's `classes.csv`. Of street scenes the number counts:
        with "synthia16" the masks of Cityscapes are read as "cityscapes16".

    Raises:
      DatasetError: the folder lacks something, or two images have one stem; the message names it.
    """
    root = Path(root).expanduser()
    layout = layout_of(root)
    if not (root / layout.images).is_dir():
        raise DatasetError(f"{root} has no folder {OWN.images}: put the images there, and their masks into {OWN.masks}")
    listed = _list_images(root / layout.images, layout)
    splits = _read_splits(root, layout, listed)
    pairs = []
    for stem, image in listed.items():
        mask = root / layout.masks / f"{stem}{layout.mask_end}.png"
        if not mask.is_file():
            others = sorted(path.name for path in mask.parent.glob(f"{mask.stem}.*"))
            hint = f"; {others[0]} is no PNG, and other formats blur the values" if others else ""
            raise DatasetError(f"{image}: its mask {mask} does not exist{hint}: add it, or remove the image")
        pairs.append(Pair(stem, image, mask, splits.get(stem, "train")))
    known = class_map(classes, root, layout.values)
    digest = hashlib.sha256(repr((known.scheme.names, sorted(known.classes.items()), known.groups)).encode())
    for pair in pairs:
        for path in (pair.image, pair.mask):
            status = path.stat()
            digest.update(os.fsencode(f"\0{pair.split}/{path.name}\0{status.st_size}\0{status.st_mtime_ns}"))
    return MaskFolder(root, tuple(pairs), layout, known, digest.hexdigest()[:12])


def _list_images(folder: Path, layout: Layout) -> dict[str, Path]:
    """By stem."""
    listed: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*/*" if layout.nested else "*")):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith(".") or path.is_relative_to(folder / "test"):
            continue
        stem = (path.relative_to(folder).parent / path.stem.removesuffix(layout.image_end)).as_posix()
        if stem in listed:
            raise DatasetError(f"{listed[stem]} and {path.name} have one stem, and one mask: rename one of them")
        listed[stem] = path
    if not listed:
        raise DatasetError(f"{folder} holds no image: expected {', '.join(EXTENSIONS)}")
    return listed


def _read_splits(root: Path, layout: Layout, listed: Mapping[str, Path]) -> dict[str, str]:
    if layout.nested:
        return {stem: stem.split("/")[0] for stem in listed}
    path = next((root / name for name in SPLIT_FILES if (root / name).is_file()), None)
    if path is None:
        return {}
    splits = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            if not {"file", "split"} <= row.keys():
                raise DatasetError(f"{path} has the columns {', '.join(map(str, row))}: file and split are needed")
            name = row["file"] or ""
            stem = name if name in listed else Path(name).stem
            if stem not in listed:
                raise DatasetError(f"{path}, row {number}: no image of {root / layout.images} is called {name!r}")
            if not (row["split"] or "").isidentifier():
                raise DatasetError(
                    f"{path}, row {number}: the split is {row['split']!r}: write train, test or another word"
                )
            splits[stem] = row["split"]
    return splits


def read_mask(path: Path, classes: ClassMap, size: tuple[int, int], *, red: bool = False) -> UInt8[np.ndarray, "h w"]:
    """The class of each pixel, 255 where it is ignored.

    Args:
      path: a PNG whose values are classes, of 8-bit grey or with a palette.
      classes: which value is which.
      size: (width, height) of the upright image in pixels.
      red: a PNG in RGB has its classes in the first channel, of 16 bits or 8.

    Raises:
      DatasetError: the mask cannot be read, has another size or form, a value that is no class, or is all ignored.
    """
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            mode, there = opened.mode, opened.size
            values = np.asarray(opened)
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error and others
        raise DatasetError(f"{path}: cannot be read as PNG ({error}): write the mask anew") from error
    if red and mode == "RGB":
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # Pillow keeps the higher of two bytes only
        assert read is not None  # Pillow has read it
        mode, values = "L", read[..., 2]
    if mode not in _INDEXED:
        raise DatasetError(
            f"{path}: has the mode {mode}: a mask is a PNG of 8-bit grey or with a palette, whose values are classes; "
            "colours have to be turned into values first"
        )
    if there != size:
        raise DatasetError(
            f"{path}: has {there[0]}x{there[1]} pixels, and its image {size[0]}x{size[1]} when it is displayed upright "
            "(EXIF): draw the mask on the upright image, in its size"
        )
    found, table = np.minimum(values, IGNORED).astype(np.uint8), classes.table()
    if not classes.ignores_others:
        unknown = sorted(set(np.unique(found).tolist()) - set(classes.classes) - {IGNORED})
        if unknown:
            raise DatasetError(f"{path}: has the values {unknown}, which are no class: add them to classes.csv")
    labels = table[found]
    if (labels == IGNORED).all():
        raise DatasetError(f"{path}: every pixel is ignored: remove it and its image")
    return labels
