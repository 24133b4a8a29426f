"""Folders of small street scenes, laid out as the published datasets are, and as a person's own."""

import csv
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scemae_jax.data.class_maps import CLASS_MAPS

SIZE = (48, 96)
"""Height and width."""


def noise(number: int, size=SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8))


def stripes(names: list[str], classes: str, size=SIZE) -> np.ndarray:
    """A mask of upright stripes, one for each class, in the values of a class map."""
    known = CLASS_MAPS[classes]
    value_of = {known.scheme.names[index]: value for value, index in known.classes.items()}
    values = np.array([value_of[name] for name in names], np.uint8)
    return np.broadcast_to(values[np.arange(size[1]) * len(values) // size[1]], size)


def save(path: Path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


NAMES = ["road", "building", "car", "bicycle"]


def own(root: Path, count: int = 4) -> Path:
    """images/, masks/ and classes.csv; the last image alone has a pond."""
    root.mkdir(parents=True)
    with (root / "classes.csv").open("w", newline="") as file:
        rows = [("0", "field", "ground"), ("1", "pond", "water"), ("2", "sea", "water")]
        csv.writer(file).writerows([("value", "name", "merge"), *rows])
    for number in range(count):
        save(root / "images" / f"{number}.jpg", noise(number))
        mask = np.zeros(SIZE, np.uint8)
        mask[:, 60:] = 1 if number == count - 1 else 2
        save(root / "masks" / f"{number}.png", mask)
    return root


def gta5(root: Path, count: int = 3) -> Path:
    """images/00001.png, labels/00001.png with a palette."""
    for number in range(1, count + 1):
        save(root / "images" / f"{number:05}.png", noise(number))
        mask = Image.fromarray(stripes(NAMES, "cityscapes19")).convert("P")
        mask.putpalette([value for index in range(256) for value in (index, 255 - index, 90)])
        save(root / "labels" / f"{number:05}.png", mask)
    return root


def synthia(root: Path, count: int = 4) -> Path:
    """RGB/0000000.png, GT/LABELS/0000000.png of three channels of 16 bits: class, instance, nothing."""
    for number in range(count):
        save(root / "RGB" / f"{number:07}.png", noise(number))
        path = root / "GT" / "LABELS" / f"{number:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        classes = stripes(NAMES + ["wall"], "synthia16").astype(np.uint16)
        cv2.imwrite(str(path), np.stack([0 * classes, 0 * classes + 700, classes], axis=-1))  # blue, green, red
    return root


def cityscapes(root: Path) -> Path:
    """leftImg8bit/SPLIT/CITY/X_leftImg8bit.png, gtFine/SPLIT/CITY/X_gtFine_labelIds.png; nothing is known of test."""
    for split, city in (("train", "aachen"), ("train", "bremen"), ("val", "lindau"), ("test", "bonn")):
        for number in range(2):
            stem = f"{city}_{number:06}_000019"
            save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", noise(number))
            mask = np.zeros(SIZE, np.uint8) if split == "test" else stripes(NAMES + ["terrain"], "cityscapes19")
            for kind in ("labelIds", "instanceIds"):
                save(root / "gtFine" / split / city / f"{stem}_gtFine_{kind}.png", mask)
    return root
