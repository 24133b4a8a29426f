"""TFDS builder for 300-W with 68 landmarks."""

from pathlib import Path

import tensorflow_datasets as tfds

from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset
from scemae_jax.data.datasets.three_hundred_w import annotations


class ThreeHundredW(OfficialDataset):
    """300-W at 136x136: the ground-truth box 52 pixels wide in a cut of 100x100 (`annotations.face_cut`), enlarged.

    Landmarks: the usual 68, outer corners of the eyes 36 and 45. `train` and `validation` are AFW and the training
    parts of Helen and LFPW, `test` is the test parts of both and IBUG.
    """

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0: the first resize was bilinear
    FILES = annotations.FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = annotations.NUM_LANDMARKS
    OFFICIAL_COUNTS = annotations.OFFICIAL_COUNTS
    ABOUT = "300-W: faces in the wild with 68 landmarks, in the split on which prior work evaluates."
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/300-W/"

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return annotations.read_splits(tree)
