"""A folder of face images and its optional `landmarks.csv`: listed, checked, and divided into splits."""

import csv
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from scemae_jax.data.datasets.splits import draw_held_out
from scemae_jax.data.images import DatasetError

ANNOTATIONS = "landmarks.csv"
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
SPLITS = ("train", "validation", "test", "unlabeled")
UNLABELED_VALIDATION = "unlabeled_validation"
"""Images of people of the validation split that nobody annotated."""
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.15


@dataclass(frozen=True, eq=False)
class Face:
    """One image of the folder and what `landmarks.csv` says of it."""

    file: str
    """Relative to the folder, with forward slashes."""
    name: str
    """What errors call it: its file, and the row that annotates it."""
    landmarks: Float[np.ndarray, "L 2"]
    """(x, y) in pixels of the image file, float64; NaN where not annotated."""
    subject: str | None = None
    """Who it shows; None where that is not said."""
    split: str | None = None
    """One of SPLITS; None leaves it to `assign_splits`."""

    @property
    def is_labeled(self) -> bool:
        return bool(np.isfinite(self.landmarks).any())


@dataclass(frozen=True)
class Folder:
    """What a folder holds, checked."""

    root: Path
    faces: tuple[Face, ...]
    """Sorted by file."""
    num_landmarks: int
    fingerprint: str
    """12 hexadecimal digits, of the images' names, sizes and times and the content of `landmarks.csv`."""


def read_folder(root: str | os.PathLike) -> Folder:
    """Lists the images below `root` (jpg, jpeg, png, webp, in any case) and reads its `landmarks.csv`.

    Hidden files and folders (a name that starts with a dot) are left out. Images are not opened.

    `landmarks.csv` is UTF-8, separated by commas, with the columns `file, subject, split, x0, y0, x1, y1,
    ...` in any order; `subject` and `split` may be left out. `file` is relative to the folder, or to its
    `images` sub-folder. Coordinates are pixels of the image as displayed, (0, 0) the centre of the top left one.
    A pair of empty cells is a landmark that is not annotated; a row without any coordinates is an unlabelled
    image, as is an image without a row.

    Raises:
      DatasetError: the folder or a row of its `landmarks.csv` cannot be used; the message names it.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(f"{str(root)!r} {what}; give a folder of images ({', '.join(EXTENSIONS)})")
    root = root.resolve()
    images = list_images(root)
    if not images:
        raise DatasetError(f"{str(root)!r} holds no image; expected {', '.join(EXTENSIONS)} in it or its sub-folders")

    annotations = root / ANNOTATIONS
    content = annotations.read_bytes() if annotations.is_file() else b""
    rows, num_landmarks = _read_annotations(content, images) if annotations.is_file() else ({}, 0)
    unknown = np.full((num_landmarks, 2), np.nan)
    faces = tuple(rows.get(file) or Face(file, name=repr(file), landmarks=unknown) for file in sorted(images))

    digest = hashlib.sha256(content)
    for file, size in sorted(images.items()):
        digest.update(os.fsencode(f"\0{file}\0{size}"))
    return Folder(root, faces, num_landmarks, digest.hexdigest()[:12])


def assign_splits(faces: Iterable[Face]) -> dict[str, list[Face]]:
    """Divides the faces into train, validation, test and unlabeled, the same way every time.

    What `landmarks.csv` says of labelled images is kept. Without a split column, they go to test (20 % of the
    people) or train. Where no row says validation, 15 % of the people in train become it, with all their
    labelled images. People are drawn by the hash of their name, so that no random state is involved; an image
    whose subject is not known counts as a person of its own.

    Images without landmarks, whatever split their row names, and labelled ones of split unlabeled follow their person:

    * of a person in test they are in no split: stages 1 and 2 must not have seen the people on whom errors are
      measured;
    * of a person in validation they are in a split of their own, `UNLABELED_VALIDATION`: where settings are
      chosen on validation, those people must not have been seen either; a config that trains on `validation`
      names this split too;
    * all others are in unlabeled.
    """
    splits = {name: [] for name in (*SPLITS, UNLABELED_VALIDATION)}
    undecided, unlabeled = [], []
    for face in faces:
        if not face.is_labeled or face.split == "unlabeled":
            unlabeled.append(face)
        elif face.split is None:
            undecided.append(face)
        else:
            splits[face.split].append(face)

    held_out = draw_held_out(map(_group, undecided), TEST_FRACTION, salt="test")
    for face in undecided:
        splits["test" if _group(face) in held_out else "train"].append(face)
    if not splits["validation"]:
        held_out = draw_held_out(map(_group, splits["train"]), VALIDATION_FRACTION, salt="validation")
        splits["validation"] = [face for face in splits["train"] if _group(face) in held_out]
        splits["train"] = [face for face in splits["train"] if _group(face) not in held_out]

    test, validation = ({_group(face) for face in splits[name]} for name in ("test", "validation"))
    for face in unlabeled:
        if (person := _group(face)) not in test:
            splits[UNLABELED_VALIDATION if person in validation else "unlabeled"].append(face)
    return splits


def number_subjects(faces: Iterable[Face]) -> tuple[Callable[[Face], int], list[str]]:
    """Numbers the people: named subjects by their sorted names, then every image whose subject is not known.

    Returns:
      A function from a face to its number, and the names of the subjects 0, 1, ...
    """
    faces = list(faces)
    names = sorted({face.subject for face in faces if face.subject is not None})
    people = [(True, name) for name in names]
    people += [_person(face) for face in faces if face.subject is None]
    numbers = {person: number for number, person in enumerate(people)}
    return lambda face: numbers[_person(face)], names


def _person(face: Face) -> tuple[bool, str]:
    """The subject, or the image itself where the subject is not known; never equal to one another."""
    return (False, face.file) if face.subject is None else (True, face.subject)


def _group(face: Face) -> str:
    is_named, name = _person(face)
    return f"{is_named}\0{name}"


def list_images(root: Path) -> dict[str, int]:
    """The images below a folder: relative file -> its size in bytes, for `root` resolved.

    Hidden files and folders (a name that starts with a dot) are left out.

    Raises:
      DatasetError: a folder cannot be listed, or is a link, or a file is a link that leaves `root`.
    """

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename!r} cannot be listed: {error.strerror}")

    images = {}
    for folder, subfolders, files in os.walk(root, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if os.path.islink(os.path.join(folder, name)):
                where = os.path.relpath(os.path.join(folder, name), root)
                raise DatasetError(
                    f"{where!r} is a link to a folder, which is not followed; move the folder itself here"
                )
        for name in files:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in EXTENSIONS or not path.is_file():
                continue
            file = path.relative_to(root).as_posix()
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise DatasetError(f"{file!r} is a link that leaves the folder; copy the image into it")
            images[file] = path.stat().st_size
    return images


def _read_annotations(content: bytes, images: Mapping[str, object]) -> tuple[dict[str, Face], int]:
    """Faces by file, and the number of landmarks."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DatasetError(f"{ANNOTATIONS} row {row}: is not UTF-8 text; save the table as UTF-8 CSV") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    faces: dict[str, Face] = {}
    columns, num_landmarks = None, 0
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            where = f"{ANNOTATIONS} row {reader.line_num}"
            if not any(cells):
                continue
            if columns is None:
                columns, num_landmarks = cells, _count_landmarks(cells)
                continue
            face = _read_row(columns, cells, num_landmarks, images, where)
            if face.file in faces:
                raise DatasetError(f"{face.name}: listed twice, before by {faces[face.file].name}; keep one row")
            faces[face.file] = face
    except csv.Error as error:
        raise DatasetError(f"{ANNOTATIONS} row {reader.line_num}: {error}") from error
    if columns is None:
        raise DatasetError(f"{ANNOTATIONS} is empty; expected a header: file, subject, split, x0, y0, x1, y1, ...")
    return faces, num_landmarks


def _count_landmarks(columns: list[str]) -> int:
    """Checks the header and returns the number of landmarks."""
    expected = "expected the columns file, subject, split, x0, y0, x1, y1, ..., separated by commas"
    if "file" not in columns:
        raise DatasetError(f"{ANNOTATIONS} row 1: no column 'file' in {columns[:6]}; {expected}")
    coordinates = [name for name in columns if name not in ("file", "subject", "split")]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DatasetError(f"{ANNOTATIONS} row 1: column {twice!r} appears twice; {expected}")
    if not coordinates:
        raise DatasetError(f"{ANNOTATIONS} row 1: no coordinate columns; {expected}")
    if len(coordinates) % 2:
        raise DatasetError(f"{ANNOTATIONS} row 1: {len(coordinates)} coordinate columns, an odd number; {expected}")
    known = {f"{axis}{index}" for index in range(len(coordinates) // 2) for axis in "xy"}
    for name in coordinates:
        if name not in known:
            raise DatasetError(f"{ANNOTATIONS} row 1: unexpected column {name!r}; {expected}")
    return len(coordinates) // 2


def _read_row(
    columns: list[str], cells: list[str], num_landmarks: int, images: Mapping[str, object], where: str
) -> Face:
    if len(cells) != len(columns):
        raise DatasetError(
            f"{where}: {len(cells)} cells where the header has {len(columns)} ({num_landmarks} landmarks); "
            "leave cells empty, commas kept, for what is not annotated"
        )
    row = dict(zip(columns, cells, strict=True))
    file = _find_image(row["file"], images, where)
    name = f"{file!r} ({where})"
    landmarks = np.array(
        [[_read_number(row[f"{axis}{i}"], f"{axis}{i}", name) for axis in "xy"] for i in range(num_landmarks)]
    )
    half = np.isnan(landmarks).sum(axis=1) == 1
    if half.any():
        raise DatasetError(f"{name}: landmark {int(np.argmax(half))} has only one of x and y; give both or neither")

    split = row.get("split") or None
    if split not in (None, *SPLITS):
        raise DatasetError(f"{name}: unknown split {split!r}; expected one of {', '.join(SPLITS)}, or nothing")
    face = Face(file, name, landmarks, subject=row.get("subject") or None, split=split)
    if face.is_labeled and "split" in row and split is None:
        raise DatasetError(f"{name}: has landmarks but no split; fill the column, or leave it out of the whole table")
    if split in ("validation", "test") and not face.is_labeled:
        raise DatasetError(f"{name}: a {split} image without landmarks; annotate it or set its split to unlabeled")
    return face


def _find_image(file: str, images: Mapping[str, object], where: str) -> str:
    """The image that a row names, relative to the folder; only what was listed in the folder can be found."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where}: file {file!r} leaves the folder; name images relative to {ANNOTATIONS}")
    for candidate in (path, "images" / path):
        if str(candidate) in images:
            return str(candidate)
    raise DatasetError(
        f"{where}: there is no image {file!r} in the folder or in its sub-folder 'images' "
        f"({', '.join(EXTENSIONS)}); add it or remove the row"
    )


def _read_number(cell: str, column: str, name: str) -> float:
    if not cell:
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        raise DatasetError(f"{name}: column {column} holds {cell!r} where a number belongs") from None
    if not math.isfinite(number):
        raise DatasetError(f"{name}: column {column} holds {cell!r}; leave x and y empty if it is not annotated")
    return number
