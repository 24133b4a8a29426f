"""Miniatures of the official datasets: trees of exactly their shape, filled with drawn faces.

Each maker writes below `root`, a manual directory, and returns what it wrote: file -> `Drawn`, in the official order.
`prepare` makes a dataset of a tree, and `resize` is the truth its pixels are held against.
"""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image

from scemae_jax.data import sources
from scemae_jax.faces.landmarks import five_points
from scemae_jax.synthetic_faces import draw_face


class Drawn(NamedTuple):
    """An image of a tree, as it was stored."""

    split: str
    """Where it belongs; train stands for train and validation."""
    image: np.ndarray
    """uint8 [h, w, 3], before any JPEG encoding."""
    points: np.ndarray
    """float64 [l, 2], (x, y), (0, 0) the centre of the top left pixel."""


def prepare(name: str, root: Path | str, data_dir: Path) -> dict[str, list]:
    """The dataset of that name, prepared from the manual directory `root`: the examples of each split."""
    config = SimpleNamespace(dataset=name, root=str(root), data_dir=str(data_dir), variant="default")
    dataset = sources.open_dataset(config)
    return {split: list(dataset.as_data_source(split)) for split in dataset.info.splits}


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Triangle-filter resampling in float64, the filter as wide as a pixel of the smaller image."""

    def weights(source: int, target: int) -> np.ndarray:
        scale = source / target
        centre = (np.arange(target)[:, None] + 0.5) * scale
        rows = np.clip(1 - np.abs(np.arange(source) + 0.5 - centre) / max(scale, 1), 0, None)
        return rows / rows.sum(1, keepdims=True)

    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, image, columns, optimize=True)


def celeba(root: Path, *, n: int = 40) -> dict[str, Drawn]:
    """CelebA with MAFL's lists: 60 % train, 10 % validation, 30 % test; MAFL has every other image of train and test.

    `split` is `train`, `validation` or `test` of CelebA, or `mafl train` and `mafl test`. Person i // 4 is on image i
    of MAFL.
    """
    tree = root / "celeba"
    for folder in ("Img/img_align_celeba", "Anno", "Eval", "MAFL"):
        (tree / folder).mkdir(parents=True)
    part = ["train" if i < 0.6 * n else "validation" if i < 0.7 * n else "test" for i in range(n)]
    drawn = {}
    for i in range(n):
        file = f"{i + 1:06d}.jpg"
        face, points = _face(i, 178)
        image = np.full((218, 178, 3), 128, np.uint8)
        image[30:208] = face
        points = np.rint(five_points(points) + (0, 30))  # the official coordinates are whole numbers
        Image.fromarray(image).save(tree / "Img/img_align_celeba" / file, quality=98, subsampling=0)
        is_mafl = i % 2 == 1 and part[i] != "validation"
        drawn[file] = Drawn(f"mafl {part[i]}" if is_mafl else part[i], image, points)
    columns = [f"{name}_{axis}" for name in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"]
    rows = [f"{file}  " + " ".join(f"{v:3.0f}" for v in face.points.ravel()) for file, face in drawn.items()]
    _write(tree / "Anno/list_landmarks_align_celeba.txt", [str(n), " ".join(columns), *rows])
    _write(tree / "Anno/identity_CelebA.txt", [f"{file} {1000 + i // 4}" for i, file in enumerate(drawn)])
    number = {"train": 0, "validation": 1, "test": 2}
    _write(tree / "Eval/list_eval_partition.txt", [f"{file} {number[p]}" for file, p in zip(drawn, part, strict=True)])
    for name, split in (("training", "mafl train"), ("testing", "mafl test")):
        _write(tree / f"MAFL/{name}.txt", [file for file, face in drawn.items() if face.split == split])
    return drawn


def aflw_m(root: Path, *, n: int = 24) -> dict[str, Drawn]:
    """Two thirds are training crops, the others MTFL's test; two of each photograph. The table lists all."""
    tree = root / "data/aflw-mtfl"
    for folder in ("aflw_cropped/cropped", "MTFL/AFLW"):
        (tree / folder).mkdir(parents=True)
    points_columns = [f"{axis}{number}" for number in range(1, 6) for axis in "xy"]
    table, test, drawn = [f"face_id,image_file,crop_file,set,{','.join(points_columns)},width"], [], {}
    for i in range(n):
        image, points = _face(i, 150)
        points = np.round(five_points(points), 6)
        one_based = points + 1
        is_test = i >= 2 * (n // 3)
        photograph = f"image{20_000 + i // 2:05d}.jpg"
        crop = f"cropped/{39_341 + i}.jpg"
        numbers = [f"{number:.6f}" for number in one_based.ravel()]
        table.append(",".join([f"{39_341 + i}", photograph, crop, "2" if is_test else "1", *numbers, "150"]))
        file = f"MTFL/AFLW/{i:04d}-{photograph}" if is_test else f"aflw_cropped/{crop}"
        if is_test:
            numbers = [f"{number:.6f}" for number in one_based.T.ravel()]  # five x, then five y
            test.append(" ".join(["", f"AFLW/{i:04d}-{photograph}", *numbers, "1 2 2 3"]))
        Image.fromarray(image).save(tree / file, quality=98, subsampling=0)
        drawn[file] = Drawn("test" if is_test else "train", image, points)
    _write(tree / "aflw_cropped/facedata_cropped.csv", table)
    _write(tree / "MTFL/testing.txt", test)
    return drawn


def aflw_r(root: Path, *, n: int = 24) -> dict[str, Drawn]:
    """Two thirds train, two crops of each photograph; their sizes vary."""
    tree = root / "data/aflw/aflw_release-2"
    drawn = {}
    for i in range(n):
        width, height = 100 + 5 * (i % 7), 120 + 7 * (i % 5)
        face, points = _face(i, 150)
        left, top = (150 - width) // 2, (158 - height) // 2
        image = np.pad(face, ((4, 4), (0, 0), (0, 0)), mode="edge")[top : top + height, left : left + width]
        file = f"{i % 3}/image{i // 2:05d}_{39_341 + i}.jpg"
        (tree / "output" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tree / "output" / file, quality=98, subsampling=0)
        points = five_points(points) + (0, 4) - (left, top)
        drawn[f"output/{file}"] = Drawn("train" if i < 2 * (n // 3) else "test", image, points)
    for split in ("train", "test"):
        faces = {file: face for file, face in drawn.items() if face.split == split}
        _write(tree / f"aflw_{split}_images.txt", [file.removeprefix("output/") for file in faces])
        gt = np.stack([face.points[:, ::-1] for face in faces.values()])  # (y, x)
        hw = np.array([face.image.shape[:2] for face in faces.values()])
        scipy.io.savemat(tree / f"aflw_{split}_keypoints.mat", {"gt": gt, "hw": hw})
    return drawn


def three_hundred_w(root: Path, *, n: int = 24) -> dict[str, Drawn]:
    """Half are train. The boxes fit the points; every other image is so small that the cut leaves it.

    IBUG's boxes also name a file that has no image, as the official ones do.
    """
    tree = root / "data/300w/300w"
    parts = {
        "afw": "{0}_1.jpg",
        "helen/trainset": "{0}_1.jpg",
        "lfpw/trainset": "image_{0:04d}.png",
        "helen/testset": "{0}_2.jpg",
        "lfpw/testset": "image_{0:04d}.png",
        "ibug": "image_{0:03d}.jpg",
    }
    boxes: dict[str, list] = {part: [] for part in parts}
    drawn = {}
    for i in sorted(range(n), key=lambda i: i % 6):  # one part after the other
        part = list(parts)[i % 6]
        face, points = _face(i, 272)
        if i % 12 < 6:
            left, top = np.floor(points.min(0)).clip(10).astype(int) - 10
            right, bottom = np.ceil(points.max(0)).astype(int) + 10
            image, points = face[top:bottom, left:right], np.round(points - (left, top), 3)
        else:
            image, points = np.pad(face, ((60, 60), (60, 60), (0, 0)), mode="edge"), np.round(points + 60, 3)
        file = f"{part}/{parts[part].format(i)}"
        path = tree / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=98, subsampling=0)
        rows = [f"{x:.3f} {y:.3f}" for x, y in points + 1]
        _write(path.with_suffix(".pts"), ["version: 1", "n_points:  68", "{", *rows, "}"])
        boxes[part].append((path.name, np.concatenate([points.min(0), points.max(0)]) + 1))
        drawn[file] = Drawn("train" if i % 6 < 3 else "test", image, points)
    boxes["ibug"].append(("face_with_no_image.jpg", np.array([1.0, 1, 2, 2])))
    (tree / "Bounding Boxes").mkdir()
    for part, faces in boxes.items():
        cells = np.empty((1, len(faces)), object)
        for column, (file, box) in enumerate(faces):
            cells[0, column] = {"imgName": file, "bb_detector": box[None] + 3, "bb_ground_truth": box[None]}
        path = tree / "Bounding Boxes" / f"bounding_boxes_{part.replace('/', '_')}.mat"
        scipy.io.savemat(path, {"bounding_boxes": cells})
    return drawn


@cache
def _drawn(index: int):
    return draw_face(seed=0, subject=index // 2, frame=index % 2)


def _face(index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face enlarged to a square, and its 68 points."""
    face = _drawn(index)
    scale = side / len(face.image)
    image = Image.fromarray(face.image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image), (face.landmarks.astype(float) + 0.5) * scale - 0.5


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
