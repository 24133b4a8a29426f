"""AFLW in tighter crops of varying size, five landmarks: names of images in text files, the rest in MATLAB files."""

from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow_datasets as tfds

from scemae_jax.data.datasets import official
from scemae_jax.data.datasets.archives import OfficialFiles
from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset
from scemae_jax.data.images import Cut, DatasetError

FILES = OfficialFiles(
    title="AFLW as Zhang et al. (CVPR 2018) crop it",
    archive="aflw-recrop.tar.gz",
    size="1.1 GiB",
    sha1="939fdce0e6262a14159832c71d4f84a9d516de5e",
    folders=("data/aflw/aflw_release-2", "aflw/aflw_release-2", "aflw_release-2"),
    marker="aflw_train_images.txt",
    layout="""\
  aflw_release-2/aflw_train_images.txt
  aflw_release-2/aflw_train_keypoints.mat
  aflw_release-2/aflw_test_images.txt
  aflw_release-2/aflw_test_keypoints.mat
  aflw_release-2/output/0/image00002_39341.jpg ...""",
)

NUM_LANDMARKS = 5
OFFICIAL_COUNTS = {"train": 10_122, "test": 2_991}


def read_splits(tree: Path) -> dict[str, list[AnnotatedFace]]:
    """The two lists, in their order. Unlike those of AFLW_M, coordinates are taken as they are, as prior work does.

    The official test list names some images twice, which is kept. Every image counts as a person of its own. Crops of
    one photograph (`image00002_39341.jpg` is of `image00002`) are of one `group`.

    Raises:
      DatasetError: a file is missing or malformed, the files disagree, or the counts are not the official ones.
    """
    subjects: dict[str, int] = {}
    splits = {split: _read_split(tree, split, subjects) for split in OFFICIAL_COUNTS}
    found = {split: len(faces) for split, faces in splits.items()}
    official.check_counts(found, OFFICIAL_COUNTS, what="AFLW_R's lists")
    return splits


def _read_split(tree: Path, split: str, subjects: dict[str, int]) -> list[AnnotatedFace]:
    images, keypoints = f"aflw_{split}_images.txt", f"aflw_{split}_keypoints.mat"
    files = [line.strip() for line in official.read_lines(tree, images, FILES)]
    while files and not files[-1]:  # blank lines at the end
        files.pop()
    gt, hw = (np.asarray(array) for array in official.read_matlab(tree, keypoints, ("gt", "hw"), FILES))
    expected = (len(files), NUM_LANDMARKS, 2), (len(files), 2)
    if (gt.shape, hw.shape) != expected:
        raise DatasetError(
            f"{keypoints}: gt {gt.shape} and hw {hw.shape} for the {len(files)} images of {images}; expected "
            f"{expected[0]} and {expected[1]}"
        )
    if not (hw > 0).all():
        raise DatasetError(f"{keypoints}: hw holds {hw.min()}, which is no size; download it again")
    faces = []
    for number, (file, points, size) in enumerate(zip(files, gt, hw, strict=True), start=1):
        where = f"{keypoints} row {number}"
        height, width = map(int, size)
        face = AnnotatedFace(
            file=f"output/{file}",
            name=f"{file!r} ({where})",
            landmarks=official.read_points(points[:, ::-1].ravel(), NUM_LANDMARKS, where),  # (y, x) in the file
            subject=subjects.setdefault(file, len(subjects)),
            group=PurePosixPath(file).name.partition("_")[0],
            cut=Cut(size=(width, height), box=(0, 0, width, height)),
        )
        faces.append(face)
    return faces


class AflwR(OfficialDataset):
    """AFLW_R at 136x136: crops of varying size, stretched to the square.

    Landmarks: left and right eye in the picture, nose, left and right corner of the mouth. `train` and `validation` are
    the training list, `test` is the test list, with the images that it names twice.
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES = FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = NUM_LANDMARKS
    OFFICIAL_COUNTS = OFFICIAL_COUNTS
    ABOUT = "AFLW in crops of varying size with five landmarks, in the split on which prior work evaluates."
    HOMEPAGE = "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/"

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return read_splits(tree)
