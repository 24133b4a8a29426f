"""MAFL: 19,000 training and 1,000 test images of CelebA, named by two lists."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from scemae_jax.data.datasets import celeba_landmarks
from scemae_jax.data.datasets.celeba_landmarks import CelebaLandmarks
from scemae_jax.data.datasets.official import AnnotatedFace


class Mafl(CelebaLandmarks):
    """MAFL at 136x136, prepared as CelebA is, from the same files.

    `train` and `validation` are MAFL's training list, no person in both; `test` is its testing list. In the order of
    CelebA, as prior work reads them.
    """

    VERSION = tfds.core.Version("1.0.0")
    OFFICIAL_COUNTS: ClassVar[Mapping[str, int]] = {
        "train": celeba_landmarks.OFFICIAL_COUNTS["MAFL/training.txt"],
        "test": celeba_landmarks.OFFICIAL_COUNTS["MAFL/testing.txt"],
    }
    ABOUT = "MAFL: aligned faces of CelebA with five landmarks, in the split on which prior work evaluates."
    HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html"
    IN_OFFICIAL_ORDER = True

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        celeba = celeba_landmarks.read_lists(tree)
        return {
            split: [face for file, face in celeba.faces.items() if file in listed]
            for split, listed in zip(("train", "test"), celeba.mafl, strict=True)
        }
