"""AFLW in MTFL's crops, five landmarks: training crops in a table, MTFL's test crops in a text file."""

import csv
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from scemae_jax.data.datasets import official
from scemae_jax.data.datasets.archives import OfficialFiles
from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset
from scemae_jax.data.images import Cut, DatasetError

_TRAIN = "aflw_cropped/facedata_cropped.csv"
_TEST = "MTFL/testing.txt"
FILES = OfficialFiles(
    title="AFLW as MTFL crops it",
    archive="aflw-mtfl.tar.gz",
    size="252 MiB",
    sha1=None,  # its page repeats another archive's
    folders=("data/aflw-mtfl", "aflw-mtfl"),
    marker=_TRAIN,
    layout="""\
  aflw-mtfl/aflw_cropped/facedata_cropped.csv
  aflw-mtfl/aflw_cropped/cropped/39341.jpg ...
  aflw-mtfl/MTFL/testing.txt
  aflw-mtfl/MTFL/AFLW/0001-image20056.jpg ...""",
)

NUM_LANDMARKS = 5
OFFICIAL_COUNTS = {"train": 10_122, "test": 2_995}
CUT = Cut(size=(150, 150), box=(0, 0, 150, 150))

_FIRST_POINT = 4
"""Column of the table where x and y of the five points begin."""


def read_splits(tree: Path) -> dict[str, list[AnnotatedFace]]:
    """Rows of the table whose `set` is 1, and the rows of MTFL's test list, in their order.

    Coordinates are 1-based in both files. Who is shown is not known, so that every crop counts as a person of its own.
    Crops of one photograph are of one `group`.

    Raises:
      DatasetError: a file is missing, a row is malformed, the counts are not the official ones, or a photograph is in
        both parts.
    """
    train, photographs = _read_table(tree)
    test = _read_test(tree, subject=len(train))
    trained = {face.group: face for face in train}
    for face in test:
        # Without this, other names for the same photographs would hide that they are in both parts.
        if face.group not in photographs:
            raise DatasetError(
                f"{face.name}: {_TRAIN} does not list its photograph {face.group!r}; download them again"
            )
        if face.group in trained:
            raise DatasetError(f"{face.name}: its photograph is also in training, as {trained[face.group].name}")
    official.check_counts({"train": len(train), "test": len(test)}, OFFICIAL_COUNTS, what="AFLW_M's lists")
    return {"train": train, "test": test}


def _read_table(tree: Path) -> tuple[list[AnnotatedFace], set[str]]:
    """The training crops, and the photographs of all rows, of other sets too."""
    rows = csv.reader(official.read_lines(tree, _TRAIN, FILES))
    header = next(rows, [])
    columns = {name.strip(): column for column, name in enumerate(header)}
    for name in ("image_file", "crop_file", "set"):
        if name not in columns:
            raise DatasetError(f"{_TRAIN} row 1: no column {name!r} in {header[:6]}; download it again")
    faces, photographs = [], set()
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        where = f"{_TRAIN} row {number}"
        if len(row) != len(header):
            raise DatasetError(f"{where}: {len(row)} cells where the header has {len(header)}")
        photograph = row[columns["image_file"]].strip()
        photographs.add(photograph)
        if row[columns["set"]].strip() != "1":
            continue
        file = row[columns["crop_file"]].strip()
        points = row[_FIRST_POINT : _FIRST_POINT + 2 * NUM_LANDMARKS]
        face = AnnotatedFace(
            file=f"aflw_cropped/{file}",
            name=f"{file!r} ({where})",
            landmarks=official.read_points(points, NUM_LANDMARKS, where) - 1,
            subject=len(faces),
            group=photograph,
            cut=CUT,
        )
        faces.append(face)
    return faces, photographs


def _read_test(tree: Path, *, subject: int) -> list[AnnotatedFace]:
    """A row holds a file, five x, five y and attributes, separated by spaces; people are numbered from `subject`."""
    faces = []
    for number, line in enumerate(official.read_lines(tree, _TEST, FILES), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{_TEST} row {number}"
        file = PurePosixPath(words[0].replace("\\", "/"))
        points = official.read_points(words[1 : 1 + 2 * NUM_LANDMARKS], NUM_LANDMARKS, where)
        face = AnnotatedFace(
            file=f"MTFL/{file}",
            name=f"{str(file)!r} ({where})",
            landmarks=points.reshape(2, NUM_LANDMARKS).T - 1,
            subject=subject + len(faces),
            group=file.name.rpartition("-")[2],
            cut=CUT,
        )
        faces.append(face)
    return faces


class AflwM(OfficialDataset):
    """AFLW_M at 136x136: crops of 150x150, resized.

    Landmarks: left and right eye in the picture, nose, left and right corner of the mouth. `train` and `validation` are
    AFLW's crops without the photographs of MTFL's test, `test` is that test.
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES = FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = NUM_LANDMARKS
    OFFICIAL_COUNTS = OFFICIAL_COUNTS
    ABOUT = "AFLW in MTFL's crops with five landmarks, in the split on which prior work evaluates."
    HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html"

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return read_splits(tree)
