"""CelebA with its five landmarks, MAFL's images kept out of training: the official files and MAFL's two lists."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from scemae_jax.data.datasets import official
from scemae_jax.data.datasets.archives import OfficialFiles
from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset
from scemae_jax.data.images import Cut, DatasetError

FILES = OfficialFiles(
    title="CelebA",
    archive="celeba.tar.gz",
    size="9.0 GiB",
    sha1="f6872ab0f2df8e5843abe99dc6d6100dd4fea29f",
    folders=("data/celeba", "celeba"),
    marker="Anno/list_landmarks_align_celeba.txt",
    layout="""\
  celeba/Img/img_align_celeba/000001.jpg ...   (or the archive celeba/Img/img_align_celeba.zip)
  celeba/Anno/list_landmarks_align_celeba.txt
  celeba/Anno/identity_CelebA.txt              (optional: who is who)
  celeba/Eval/list_eval_partition.txt
  celeba/MAFL/training.txt
  celeba/MAFL/testing.txt""",
)

NUM_LANDMARKS = 5
CUT = Cut(size=(178, 218), box=(0, 30, 178, 208))
"""Rows 30 to 208 of the aligned image (Thewlis et al., ICCV 2019)."""

_IMAGES = "img_align_celeba"
_LANDMARKS = FILES.marker
_IDENTITIES = "Anno/identity_CelebA.txt"
_PARTITION = "Eval/list_eval_partition.txt"
_MAFL = ("MAFL/training.txt", "MAFL/testing.txt")
_SPLITS = {"0": "train", "1": "validation", "2": "test"}

OFFICIAL_COUNTS = {
    "train": 162_770,
    "validation": 19_867,
    "test": 19_962,
    "MAFL/training.txt": 19_000,
    "MAFL/testing.txt": 1_000,
}
"""Images of CelebA's own parts, MAFL's among them, and of MAFL's lists."""


class Celeba(NamedTuple):
    """What the lists say, checked."""

    faces: dict[str, AnnotatedFace]
    """By file, in the order of the list of landmarks."""
    parts: dict[str, str]
    """File -> the split it belongs to."""
    mafl: tuple[set[str], set[str]]
    """Files of MAFL's training and testing lists."""


def read_lists(tree: Path) -> Celeba:
    """CelebA's lists and MAFL's.

    `subject` is the number of `identity_CelebA.txt`; without that file, every image counts as a person of its
    own and has its row's number (from 0).

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

    faces, parts = {}, {}
    for file, (row, points) in landmarks.items():
        if partition[file] not in _SPLITS:
            raise DatasetError(f"{_PARTITION}: {file!r} is in part {partition[file]!r}; expected 0, 1 or 2")
        if not identities[file].isdecimal():
            raise DatasetError(f"{_IDENTITIES}: {file!r} has identity {identities[file]!r}; expected a number")
        parts[file] = _SPLITS[partition[file]]
        faces[file] = AnnotatedFace(
            file=file,
            name=f"{file!r} ({_LANDMARKS} row {row})",
            landmarks=points,
            subject=int(identities[file]),
            group=identities[file],
            cut=CUT,
        )

    training, testing = (_read_mafl(tree, path, landmarks) for path in _MAFL)
    if both := training & testing:
        raise DatasetError(f"{min(both)!r} is in {_MAFL[0]} and in {_MAFL[1]}; download them again")
    found = {split: list(parts.values()).count(split) for split in _SPLITS.values()}
    found |= {path: len(files) for path, files in zip(_MAFL, (training, testing), strict=True)}
    official.check_counts(found, OFFICIAL_COUNTS, what="CelebA's lists")
    return Celeba(faces, parts, (training, testing))


def read_splits(tree: Path) -> dict[str, list[AnnotatedFace]]:
    """CelebA's official parts, train and validation without the images of MAFL's two lists.

    The paper gives 162,770 training images "without MAFL". That is the size of the official train part with
    MAFL's images still in it, which is therefore what is checked, before they are taken out.

    Raises:
      DatasetError: as `read_lists`.
    """
    celeba = read_lists(tree)
    kept_out = set.union(*celeba.mafl)
    splits = {split: [] for split in _SPLITS.values()}
    for file, face in celeba.faces.items():
        if celeba.parts[file] == "test" or file not in kept_out:
            splits[celeba.parts[file]].append(face)
    return splits


def open_images(tree: Path) -> tuple[Callable[[str], bool], Callable[[str], BinaryIO]]:
    """Whether an aligned image is there, and a function that opens it; from the folder, else from the zip."""
    folder, archive = tree / "Img" / _IMAGES, tree / "Img" / f"{_IMAGES}.zip"
    if folder.is_dir():
        return set(os.listdir(folder)).__contains__, lambda file: (folder / file).open("rb")
    if not archive.is_file():
        raise DatasetError(f"{str(tree)!r} has neither Img/{_IMAGES} nor Img/{archive.name}. {FILES.instructions}")
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

    return by_name.__contains__, open_member


def _read_rows(tree: Path, path: str) -> list[list[str]]:
    return [line.split() for line in official.read_lines(tree, path, FILES)]


def _read_landmarks(tree: Path) -> dict[str, tuple[int, Float[np.ndarray, "5 2"]]]:
    """File -> (row, landmarks). Row 1 holds the number of images, row 2 the names of the columns."""
    rows = _read_rows(tree, _LANDMARKS)
    if len(rows) < 2 or len(rows[0]) != 1 or not rows[0][0].isdecimal():
        raise DatasetError(f"{_LANDMARKS} row 1: expected the number of images")
    landmarks = {}
    for number, row in enumerate(rows[2:], start=3):
        if len(row) != 1 + 2 * NUM_LANDMARKS:
            raise DatasetError(f"{_LANDMARKS} row {number}: {len(row)} words; expected a file and 5 pairs of x and y")
        if row[0] in landmarks:
            raise DatasetError(f"{_LANDMARKS} row {number}: {row[0]!r} is listed twice")
        points = official.read_points(row[1:], NUM_LANDMARKS, f"{_LANDMARKS} row {number} ({row[0]!r})")
        landmarks[row[0]] = (number, points)
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


class CelebaLandmarks(OfficialDataset):
    """CelebA at 136x136: rows 30 to 208 of the aligned images, as prior work cuts them.

    Landmarks: left and right eye in the picture, nose, left and right corner of the mouth. `subject` is who it shows
    (`read_lists`). Splits: the official train and validation parts without MAFL's images, and the whole
    official test part (MAFL's images of it included).
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES = FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = NUM_LANDMARKS
    OFFICIAL_COUNTS: ClassVar[Mapping[str, int]] = {"test": OFFICIAL_COUNTS["test"]}
    ABOUT = "CelebA's aligned faces with five landmarks, MAFL's images kept out of training."
    HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    IN_OFFICIAL_ORDER = False

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return read_splits(tree)

    def open_images(self, tree: Path) -> tuple[Callable[[str], bool], Callable[[str], BinaryIO]]:
        return open_images(tree)
