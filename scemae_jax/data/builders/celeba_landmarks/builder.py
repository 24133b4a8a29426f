"""TFDS builder for CelebA's aligned images with their five landmarks, MAFL's images kept out of training."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from scemae_jax.data.builders.celeba_landmarks import annotations
from scemae_jax.data.builders.celeba_landmarks.annotations import Portrait
from scemae_jax.data.images import SIZE, DatasetError, in_threads, prepare_face


class CelebaLandmarks(tfds.core.GeneratorBasedBuilder):
    """CelebA at 136x136: rows 30 to 208 of the aligned images, as prior work cuts them.

    Features: `image` uint8 [136, 136, 3]; `landmarks` float32 [5, 2], (x, y) in pixels of that image (left and right
    eye in the picture, nose, left and right corner of the mouth); `subject` int64 (`annotations.read_splits`).
    Splits: the official train and validation parts without MAFL's images, and the whole official test part (MAFL's
    images of it included). Splits that would be empty are absent.

    The official files are complete and sound, so that an image that cannot be read is an error and not
    skipped.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = annotations.INSTRUCTIONS

    def __init__(self, *, file_format: str = "array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="CelebA's aligned faces with five landmarks, MAFL's images kept out of training.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="jpeg"),
                    "landmarks": tfds.features.Tensor(shape=(annotations.NUM_LANDMARKS, 2), dtype=np.float32),
                    "subject": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            homepage="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        try:
            manual_dir = Path(dl_manager.manual_dir)
        except AssertionError as error:  # it does not exist or is empty
            raise DatasetError(str(error)) from None
        tree = annotations.find_tree(manual_dir)
        splits = annotations.read_splits(tree)
        present, self._open = annotations.open_images(tree)
        wanted = [portrait.file for portraits in splits.values() for portrait in portraits]
        missing = sorted(set(wanted).difference(present))
        if missing:
            raise DatasetError(
                f"{str(tree)!r}: {len(missing)} of {len(wanted)} images are missing, first {missing[0]!r}"
            )
        return {name: self._generate_examples(portraits) for name, portraits in splits.items() if portraits}

    def _generate_examples(self, portraits: Iterable[Portrait]) -> Iterator[tuple[str, dict]]:
        for portrait, (jpeg, landmarks) in in_threads(self._prepare, portraits):
            yield portrait.file, {"image": jpeg, "landmarks": landmarks, "subject": portrait.subject}

    def _prepare(self, portrait: Portrait):
        with self._open(portrait.file) as source:
            return portrait, prepare_face(source, portrait.landmarks, name=portrait.name, cut=annotations.CUT)


def celeba_landmarks(manual_dir: str | os.PathLike, *, data_dir: str | os.PathLike) -> CelebaLandmarks:
    """CelebA, prepared below `data_dir` from the official files in `manual_dir` unless that was done before.

    Args:
      manual_dir: holds the folder `celeba` or `celeba.tar.gz`; not looked at once the dataset is prepared.
      data_dir: where TFDS keeps prepared datasets.

    Returns:
      The builder, ready for `as_data_source`.

    Raises:
      DatasetError: files are missing, damaged, or disagree; the message says where to get them and how to lay
        them out.
    """
    builder = CelebaLandmarks(data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return builder
