"""What the official datasets share: annotated faces, checked counts, validation carved from train, the TFDS builder."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import Float

from scemae_jax.data.datasets.archives import OfficialFiles
from scemae_jax.data.datasets.splits import draw_held_out
from scemae_jax.data.images import Cut, DatasetError, in_threads, prepare_face
from scemae_jax.faces.frame import FRAME

VALIDATION_FRACTION = 0.1
MINIATURE = 0.1
"""A tree with less than this share of the official images is meant to be small, such as those of tests."""


@dataclass(frozen=True, eq=False)
class AnnotatedFace:
    """One image of an official dataset."""

    file: str
    """Relative to the tree, or as the dataset lists it."""
    name: str
    """What errors call it: its file, and where its landmarks are."""
    landmarks: Float[np.ndarray, "L 2"]
    """(x, y) in pixels of the image file, (0, 0) the centre of the top left one."""
    subject: int
    group: str
    """The person, or the photograph, that is not to be in train and in validation."""
    cut: Cut


class OfficialDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset that prior work evaluates on, prepared from its official files at 136x136.

    Features: `image` uint8 [136, 136, 3]; `landmarks` float32 [L, 2], (x, y) in pixels of that image; `subject`
    int64. Where the official parts are only train and test, 10 % of train (whole persons or photographs, by the hash
    of their names) are the split `validation`, so that nothing need be chosen on test; `train` and `validation`
    together are the official training part. Splits that would be empty are absent.

    The official files are complete and sound, so that an image that cannot be read is an error and not skipped.
    """

    FILES: ClassVar[OfficialFiles]
    NUM_LANDMARKS: ClassVar[int]
    OFFICIAL_COUNTS: ClassVar[Mapping[str, int]]
    """Images of `train` (with `validation` where it is carved from that) and `test`, where they are published."""
    ABOUT: ClassVar[str]
    HOMEPAGE: ClassVar[str]
    IN_OFFICIAL_ORDER: ClassVar[bool] = True
    """Test images are matched two by two in this order; shuffled (by TFDS) where that needs too much memory."""

    def __init__(self, *, file_format: str = "array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)

    @abc.abstractmethod
    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        """The official parts, checked, in their official order."""

    def open_images(self, tree: Path) -> tuple[Callable[[str], bool], Callable[[str], BinaryIO]]:
        """Whether an image is there, and a function that opens it, both by `AnnotatedFace.file`."""
        return lambda file: (tree / file).is_file(), lambda file: (tree / file).open("rb")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.ABOUT,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(FRAME.image_size, FRAME.image_size, 3), encoding_format="jpeg"),
                    "landmarks": tfds.features.Tensor(shape=(self.NUM_LANDMARKS, 2), dtype=np.float32),
                    "subject": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            homepage=self.HOMEPAGE,
            disable_shuffling=self.IN_OFFICIAL_ORDER,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        try:
            manual_dir = Path(dl_manager.manual_dir)
        except AssertionError as error:  # it does not exist or is empty
            raise DatasetError(str(error)) from None
        tree = self.FILES.find(manual_dir)
        splits = self.read_splits(tree)
        if "validation" not in splits:
            splits = carve_validation(splits)
        is_present, self._open = self.open_images(tree)
        wanted = [face.file for faces in splits.values() for face in faces]
        missing = sorted({file for file in wanted if not is_present(file)})
        if missing:
            raise DatasetError(
                f"{str(tree)!r}: {len(missing)} of {len(wanted)} images are missing, first {missing[0]!r}"
            )
        return {name: self._generate_examples(faces) for name, faces in splits.items() if faces}

    def _generate_examples(self, faces: Iterable[AnnotatedFace]) -> Iterator[tuple[str | int, dict]]:
        for row, (face, (jpeg, landmarks)) in enumerate(in_threads(self._prepare, faces)):
            key = row if self.IN_OFFICIAL_ORDER else face.file  # numbers are what TFDS orders by
            yield key, {"image": jpeg, "landmarks": landmarks, "subject": face.subject}

    def _prepare(self, face: AnnotatedFace):
        with self._open(face.file) as source:
            return face, prepare_face(source, face.landmarks, name=face.name, cut=face.cut)


def carve_validation(splits: Mapping[str, list[AnnotatedFace]]) -> dict[str, list[AnnotatedFace]]:
    """The splits with 10 % of train's groups, drawn by the hash of their names, as `validation`."""
    held_out = draw_held_out((face.group for face in splits["train"]), VALIDATION_FRACTION, salt="validation")
    return {
        **splits,
        "train": [face for face in splits["train"] if face.group not in held_out],
        "validation": [face for face in splits["train"] if face.group in held_out],
    }


def check_counts(found: Mapping[str, int], official: Mapping[str, int], *, what: str) -> None:
    """Holds the number of images in each list against the official one.

    A tree with less than a tenth of the official images in all is taken for a miniature: it is allowed, with a warning
    in the log. Anything larger must have every official count, so that a list that was cut off is noticed.

    Raises:
      DatasetError: the tree is no miniature and a count differs.
    """
    if found == official:
        return
    if sum(found.values()) < MINIATURE * sum(official.values()):
        logging.warning("%s: a miniature with %s images, officially %s", what, dict(found), dict(official))
        return
    raise DatasetError(f"{what}: found {dict(found)} images, officially {dict(official)}; download it again")


def read_lines(tree: Path, path: str, files: OfficialFiles) -> list[str]:
    """The lines of a text file of the tree.

    Raises:
      DatasetError: it is not there, or not text.
    """
    try:
        return (tree / path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{str(tree)!r} has no {path}. {files.instructions}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not text; download it again") from error


def read_matlab(tree: Path, path: str, variables: Iterable[str], files: OfficialFiles) -> tuple[Any, ...]:
    """Variables of a MATLAB file of the tree, cells and structs as lists and dicts.

    Raises:
      DatasetError: it is not there, no MATLAB file, or has no such variable.
    """
    try:
        with (tree / path).open("rb") as file:
            content = scipy.io.loadmat(file, simplify_cells=True)
    except FileNotFoundError:
        raise DatasetError(f"{str(tree)!r} has no {path}. {files.instructions}") from None
    except Exception as error:  # SciPy's parser raises ValueError, TypeError, zlib.error and others
        raise DatasetError(f"{path}: cannot be read as a MATLAB file ({error}); download it again") from error
    for name in variables:
        if name not in content:
            known = ", ".join(sorted(key for key in content if not key.startswith("__")))
            raise DatasetError(f"{path}: has no variable {name!r}, only {known or 'none'}; download it again")
    return tuple(content[name] for name in variables)


def read_points(words: Iterable[Any], count: int, where: str) -> Float[np.ndarray, "L 2"]:
    """`count` points of x, y, x, y, ...

    Raises:
      DatasetError: there are more or fewer numbers, or one is not finite.
    """
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from None
    if len(numbers) != 2 * count:
        raise DatasetError(f"{where}: {len(numbers)} numbers; expected x and y of {count} points")
    if not np.isfinite(numbers).all():
        raise DatasetError(f"{where}: a coordinate is not finite")
    return numbers.reshape(count, 2)
