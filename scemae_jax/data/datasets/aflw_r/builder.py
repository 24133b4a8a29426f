"""TFDS builder for AFLW in tighter crops of varying size with five landmarks."""

from pathlib import Path

import tensorflow_datasets as tfds

from scemae_jax.data.datasets.aflw_r import annotations
from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset


class AflwR(OfficialDataset):
    """AFLW_R at 136x136: crops of varying size, stretched to the square.

    Landmarks: left and right eye in the picture, nose, left and right corner of the mouth. `train` and `validation` are
    the training list, `test` is the test list, with the images that it names twice.
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES = annotations.FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = annotations.NUM_LANDMARKS
    OFFICIAL_COUNTS = annotations.OFFICIAL_COUNTS
    ABOUT = "AFLW in crops of varying size with five landmarks, in the split on which prior work evaluates."
    HOMEPAGE = "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/"

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return annotations.read_splits(tree)
