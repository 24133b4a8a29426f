"""TFDS builder for CelebA's aligned images with their five landmarks, MAFL's images kept out of training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar

import tensorflow_datasets as tfds

from scemae_jax.data.datasets.celeba_landmarks import annotations
from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset


class CelebaLandmarks(OfficialDataset):
    """CelebA at 136x136: rows 30 to 208 of the aligned images, as prior work cuts them.

    Landmarks: left and right eye in the picture, nose, left and right corner of the mouth. `subject` is who it shows
    (`annotations.read_lists`). Splits: the official train and validation parts without MAFL's images, and the whole
    official test part (MAFL's images of it included).
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES = annotations.FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = annotations.NUM_LANDMARKS
    OFFICIAL_COUNTS: ClassVar[Mapping[str, int]] = {"test": annotations.OFFICIAL_COUNTS["test"]}
    ABOUT = "CelebA's aligned faces with five landmarks, MAFL's images kept out of training."
    HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    IN_OFFICIAL_ORDER = False

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return annotations.read_splits(tree)

    def open_images(self, tree: Path) -> tuple[Callable[[str], bool], Callable[[str], BinaryIO]]:
        return annotations.open_images(tree)
