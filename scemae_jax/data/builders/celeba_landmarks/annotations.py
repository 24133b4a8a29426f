"""The official CelebA files and MAFL's two lists: found or unpacked, checked, and divided into splits."""

import hashlib
import io
import math
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from scemae_jax.data.images import Cut, DatasetError

ARCHIVE = "celeba.tar.gz"
ARCHIVE_SHA1 = "f6872ab0f2df8e5843abe99dc6d6100dd4fea29f"
INSTRUCTIONS = f"""\
CelebA is not downloaded for you. Put into the manual directory either {ARCHIVE} (9.0 GiB) from
  www.robots.ox.ac.uk/~vgg/research/DVE/data/datasets/{ARCHIVE}
or the official files, as
  celeba/Img/img_align_celeba/000001.jpg ...   (or the archive celeba/Img/img_align_celeba.zip)
  celeba/Anno/list_landmarks_align_celeba.txt
  celeba/Anno/identity_CelebA.txt              (optional: who is who)
  celeba/Eval/list_eval_partition.txt
  celeba/MAFL/training.txt
  celeba/MAFL/testing.txt"""

NUM_LANDMARKS = 5
CUT = Cut(size=(178, 218), box=(0, 30, 178, 208))
"""Rows 30 to 208 of the aligned image (Thewlis et al., ICCV 2019)."""

_IMAGES = "img_align_celeba"
_LANDMARKS = "Anno/list_landmarks_align_celeba.txt"
_IDENTITIES = "Anno/identity_CelebA.txt"
_PARTITION = "Eval/list_eval_partition.txt"
_MAFL = ("MAFL/training.txt", "MAFL/testing.txt")
_SPLITS = {"0": "train", "1": "validation", "2": "test"}

_ALL_IMAGES = 202_599
_OFFICIAL_COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}
_MAFL_COUNTS = (19_000, 1_000)


@dataclass(frozen=True, eq=False)
class Portrait:
    """One aligned image of CelebA."""

    file: str
    name: str
    """What errors call it: its file, and the row of its landmarks."""
    landmarks: Float[np.ndarray, "5 2"]
    """(x, y) in pixels of the aligned 178x218 image."""
    subject: int


def find_tree(manual_dir: str | os.PathLike) -> Path:
    """The `celeba` folder in `manual_dir`; where only `celeba.tar.gz` is, that is unpacked (9 GiB more).

    Raises:
      DatasetError: neither is there, or the archive is not the one whose SHA-1 is known.
    """
    manual_dir = Path(manual_dir).expanduser()
    if tree := _tree_in(manual_dir):
        return tree
    archive = manual_dir / ARCHIVE
    if not archive.is_file():
        raise DatasetError(f"no CelebA in {str(manual_dir)!r}. {INSTRUCTIONS}")
    with archive.open("rb") as file:
        sha1 = hashlib.file_digest(file, "sha1").hexdigest()
    if sha1 != ARCHIVE_SHA1:
        raise DatasetError(
            f"{str(archive)!r} has SHA-1 {sha1}, expected {ARCHIVE_SHA1}; download it again, or unpack it "
            f"yourself if you trust it. {INSTRUCTIONS}"
        )
    unpacking = manual_dir / "celeba.unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)  # of an earlier, interrupted run
    try:
        with tarfile.open(archive) as members:
            members.extractall(unpacking, filter="data")
    except tarfile.TarError as error:
        raise DatasetError(f"{str(archive)!r} cannot be unpacked ({error})") from error
    tree = _tree_in(unpacking)
    if tree is None:
        raise DatasetError(f"{str(archive)!r} does not hold {_LANDMARKS}. {INSTRUCTIONS}")
    tree.rename(manual_dir / "celeba")
    shutil.rmtree(unpacking, ignore_errors=True)
    return manual_dir / "celeba"


def read_splits(tree: Path) -> dict[str, list[Portrait]]:
    """CelebA's official parts, train and validation without the images of MAFL's two lists.

    `subject` is the number of `identity_CelebA.txt`; without that file, every image counts as a person of its
    own and has its row's number (from 0).

    The paper gives 162,770 training images "without MAFL". That is the size of the official train part with
    MAFL's images still in it, which is therefore what is checked, before they are taken out, on the full list
    of 202,599.

    Raises:
      DatasetError: a file is missing, a row is malformed, or the lists disagree with one another or with the
        official counts.
    """
    landmarks = _read_landmarks(tree)
    partition = _read_pairs(tree, _PARTITION)
    if (tree / _IDENTITIES).is_file():
        identities = _read_pairs(tree, _IDENTITIES)
    else:
        identities = {file: str(index) for index, file in enumerate(landmarks)}
    for path, listed in ((_PARTITION, partition), (_IDENTITIES, identities)):
        if listed.keys() != landmarks.keys():
            odd = min(listed.keys() ^ landmarks.keys())
            raise DatasetError(f"{path} and {_LANDMARKS} list different images: {odd!r} is only in one of them")

    splits = {split: [] for split in _SPLITS.values()}
    for file, (row, points) in landmarks.items():
        if partition[file] not in _SPLITS:
            raise DatasetError(f"{_PARTITION}: {file!r} is in part {partition[file]!r}; expected 0, 1 or 2")
        if not identities[file].isdecimal():
            raise DatasetError(f"{_IDENTITIES}: {file!r} has identity {identities[file]!r}; expected a number")
        portrait = Portrait(file, f"{file!r} ({_LANDMARKS} row {row})", points, int(identities[file]))
        splits[_SPLITS[partition[file]]].append(portrait)

    mafl = [_read_mafl(tree, path, landmarks) for path in _MAFL]
    if len(landmarks) == _ALL_IMAGES:
        found = {split: len(portraits) for split, portraits in splits.items()}
        if found != _OFFICIAL_COUNTS:
            raise DatasetError(f"{_PARTITION}: the parts have {found} images, officially {_OFFICIAL_COUNTS}")
        for path, files, expected in zip(_MAFL, mafl, _MAFL_COUNTS, strict=True):
            if len(files) != expected:
                raise DatasetError(f"{path}: lists {len(files)} images, officially {expected}")
    kept_out = set.union(*mafl)
    for split in ("train", "validation"):
        splits[split] = [portrait for portrait in splits[split] if portrait.file not in kept_out]
    return splits


def open_images(tree: Path) -> tuple[Collection[str], Callable[[str], BinaryIO]]:
    """The names of the aligned images, and a function that opens one; from the folder, else from the zip."""
    folder, archive = tree / "Img" / _IMAGES, tree / "Img" / f"{_IMAGES}.zip"
    if folder.is_dir():
        return set(os.listdir(folder)), lambda file: (folder / file).open("rb")
    if not archive.is_file():
        raise DatasetError(f"{str(tree)!r} has neither Img/{_IMAGES} nor Img/{archive.name}. {INSTRUCTIONS}")
    try:
        members = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{str(archive)!r} is damaged ({error}); download it again") from error
    by_name = {Path(member).name: member for member in members.namelist() if not member.endswith("/")}

    def open_member(file: str) -> BinaryIO:
        try:
            return io.BytesIO(members.read(by_name[file]))
        except (zipfile.BadZipFile, zlib.error) as error:
            raise DatasetError(f"{str(archive)!r}: {file!r} is damaged ({error}); download it again") from error

    return by_name.keys(), open_member


def _tree_in(folder: Path) -> Path | None:
    candidates = (folder / "celeba", folder / "data" / "celeba", folder)
    return next((tree for tree in candidates if (tree / _LANDMARKS).is_file()), None)


def _read_rows(tree: Path, path: str) -> list[list[str]]:
    try:
        text = (tree / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError(f"{str(tree)!r} has no {path}. {INSTRUCTIONS}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not text; download it again") from error
    return [line.split() for line in text.splitlines()]


def _read_landmarks(tree: Path) -> dict[str, tuple[int, Float[np.ndarray, "5 2"]]]:
    """File -> (row, landmarks). Row 1 holds the number of images, row 2 the names of the columns."""
    rows = _read_rows(tree, _LANDMARKS)
    if len(rows) < 2 or len(rows[0]) != 1 or not rows[0][0].isdecimal():
        raise DatasetError(f"{_LANDMARKS} row 1: expected the number of images")
    landmarks = {}
    for number, row in enumerate(rows[2:], start=3):
        if len(row) != 1 + 2 * NUM_LANDMARKS:
            raise DatasetError(f"{_LANDMARKS} row {number}: {len(row)} words; expected a file and 5 pairs of x and y")
        try:
            points = [float(word) for word in row[1:]]
        except ValueError as error:
            raise DatasetError(f"{_LANDMARKS} row {number} ({row[0]!r}): {error}") from None
        if not all(map(math.isfinite, points)):
            raise DatasetError(f"{_LANDMARKS} row {number} ({row[0]!r}): a coordinate is not finite")
        if row[0] in landmarks:
            raise DatasetError(f"{_LANDMARKS} row {number}: {row[0]!r} is listed twice")
        landmarks[row[0]] = (number, np.array(points).reshape(NUM_LANDMARKS, 2))
    if len(landmarks) != int(rows[0][0]):
        raise DatasetError(f"{_LANDMARKS}: {len(landmarks)} rows where row 1 announces {rows[0][0]}; download it again")
    return landmarks


def _read_pairs(tree: Path, path: str) -> dict[str, str]:
    pairs = {}
    for number, row in enumerate(_read_rows(tree, path), start=1):
        if len(row) != 2:
            raise DatasetError(f"{path} row {number}: {len(row)} words; expected a file and a number")
        pairs[row[0]] = row[1]
    return pairs


def _read_mafl(tree: Path, path: str, known: Collection[str]) -> set[str]:
    files = set()
    for number, row in enumerate(_read_rows(tree, path), start=1):
        if len(row) != 1 or row[0] not in known:
            raise DatasetError(f"{path} row {number}: {' '.join(row)!r} is not an image of {_LANDMARKS}")
        files.add(row[0])
    return files
