"""A person's own folder of face images, with or without landmarks (read by `data.formats`)."""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import cast

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from scemae_jax.data import formats
from scemae_jax.data.formats import Face
from scemae_jax.data.images import DatasetError, UnreadableImage, in_threads, prepare_face
from scemae_jax.faces.frame import FRAME

MAX_SKIPPED_FRACTION = 0.1
MAX_SKIPPED_ALWAYS = 3
"""Unreadable images are skipped if they are at most 10 % of the folder, or at most 3, and not all of it."""


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """One state of one folder: `name` ends with the fingerprint of its listing and annotations."""

    root: str = ""
    num_landmarks: int = 0
    fingerprint: str = ""


def folder_config(root: str | os.PathLike) -> FolderConfig:
    """Reads and checks the folder (not its pixels).

    Raises:
      DatasetError: as `formats.read_folder`.
    """
    folder = formats.read_folder(root)
    label = re.sub(r"[^a-z0-9]+", "_", folder.root.name.lower()).strip("_")
    return FolderConfig(
        name=f"{label or 'folder'}-{folder.fingerprint}",
        root=str(folder.root),
        num_landmarks=folder.num_landmarks,
        fingerprint=folder.fingerprint,
    )


class LandmarkFolder(tfds.core.GeneratorBasedBuilder):
    """Faces of one folder at 136x136, as `LandmarkFolder(config=folder_config(root), data_dir=...)`.

    Features: `image` uint8 [136, 136, 3]; `landmarks` float32 [L, 2], (x, y) in pixels of that image, NaN where not
    annotated (L = 0 without a `landmarks.csv`); `subject` int64, where an image whose subject is not known
    counts as a person of its own. Splits that would be empty are absent. Images of people in `test` that nobody
    annotated are left out (`formats.assign_splits`). `info.metadata` holds the `fingerprint`, the names of the
    `subjects` by number, `num_landmarks`, `num_images` found, `num_left_out` of them and the list of files `skipped` as
    unreadable.

    A folder in which something changed (an image's name, size or time, or `landmarks.csv`) is prepared anew.
    An interrupted preparation leaves nothing that a later one would take for a dataset.
    """

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0: unlabelled images of people in test and validation were in unlabeled

    def __init__(self, *, config: FolderConfig, file_format: str = "array_record", **kwargs):
        super().__init__(config=config, file_format=file_format, **kwargs)

    @property
    def builder_config(self) -> FolderConfig:
        return cast(FolderConfig, super().builder_config)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="A folder of face images, with the landmarks of its landmarks.csv.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(FRAME.image_size, FRAME.image_size, 3), encoding_format="jpeg"),
                    "landmarks": tfds.features.Tensor(shape=(self.builder_config.num_landmarks, 2), dtype=np.float32),
                    "subject": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        del dl_manager  # nothing to download
        self._folder = formats.read_folder(self.builder_config.root)
        if self._folder.fingerprint != self.builder_config.fingerprint:
            raise DatasetError(f"{self.builder_config.root!r} changed while it was read; run again")
        self._number, self._subjects = formats.number_subjects(self._folder.faces)
        self._skipped: list[str] = []
        splits = formats.assign_splits(self._folder.faces)
        self._num_used = sum(map(len, splits.values()))
        trained, tested = ({self._number(face) for face in splits[name]} for name in ("train", "test"))
        if trained & tested:
            logging.warning(
                "%d people are in train and in test: errors on test will look better than on new people",
                len(trained & tested),
            )
        examples = {name: _unless_empty(self._generate_examples(faces)) for name, faces in splits.items()}
        self._check_skipped()
        return {name: generator for name, generator in examples.items() if generator is not None}

    def _generate_examples(self, faces: Iterable[Face]) -> Iterator[tuple[bytes, dict]]:
        for face, prepared in in_threads(self._prepare, faces):
            if isinstance(prepared, UnreadableImage):
                logging.warning("skipped %s", prepared)
                self._skipped.append(face.file)
                continue
            jpeg, landmarks = prepared
            yield (
                os.fsencode(face.file),
                {"image": jpeg, "landmarks": landmarks, "subject": self._number(face)},
            )

    def _prepare(self, face: Face):
        try:
            with open(self._folder.root / face.file, "rb") as source:
                return face, prepare_face(source, face.landmarks, name=face.name)
        except UnreadableImage as error:
            return face, error
        except OSError as error:
            return face, UnreadableImage(f"{face.name}: {error.strerror}")

    def _check_skipped(self) -> None:
        total = self._num_used
        allowed = min(max(MAX_SKIPPED_ALWAYS, int(MAX_SKIPPED_FRACTION * total)), total - 1)
        if len(self._skipped) > allowed:
            raise DatasetError(
                f"{self.builder_config.root!r}: {len(self._skipped)} of {total} images cannot be read, "
                f"at most {allowed} may be skipped; the first are {', '.join(map(repr, self._skipped[:3]))}"
            )

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # Only now, with every image opened; an error here still discards what was written.
        self._check_skipped()
        assert self.info.metadata is not None  # `_info` made it
        self.info.metadata.update(
            fingerprint=self._folder.fingerprint,
            num_landmarks=self._folder.num_landmarks,
            num_images=len(self._folder.faces),
            num_left_out=len(self._folder.faces) - self._num_used,
            subjects=self._subjects,
            skipped=sorted(self._skipped),
        )


def _unless_empty(examples: Iterator) -> Iterator | None:
    """TFDS cannot write a split without examples, and only reading them tells which images can be read."""
    first = next(examples, None)
    return None if first is None else chain([first], examples)
