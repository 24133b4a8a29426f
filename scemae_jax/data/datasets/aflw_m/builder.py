"""TFDS builder for AFLW in MTFL's crops with five landmarks."""

from pathlib import Path

import tensorflow_datasets as tfds

from scemae_jax.data.datasets.aflw_m import annotations
from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset


class AflwM(OfficialDataset):
    """AFLW_M at 136x136: crops of 150x150, resized.

    Landmarks: left and right eye in the picture, nose, left and right corner of the mouth. `train` and `validation` are
    AFLW's crops without the photographs of MTFL's test, `test` is that test.
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES = annotations.FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = annotations.NUM_LANDMARKS
    OFFICIAL_COUNTS = annotations.OFFICIAL_COUNTS
    ABOUT = "AFLW in MTFL's crops with five landmarks, in the split on which prior work evaluates."
    HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html"

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return annotations.read_splits(tree)
