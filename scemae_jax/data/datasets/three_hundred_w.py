"""300-W, 68 landmarks: images of five folders, their boxes from MATLAB files, their 68 points from a text file each."""

import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float
from PIL import Image

from scemae_jax.data.datasets import official
from scemae_jax.data.datasets.archives import OfficialFiles
from scemae_jax.data.datasets.official import AnnotatedFace, OfficialDataset
from scemae_jax.data.images import Cut, DatasetError

_BOXES = "Bounding Boxes/bounding_boxes_{}.mat"
FILES = OfficialFiles(
    title="300-W",
    archive="300w.tar.gz",
    size="3.0 GiB",
    sha1="885b09159c61fa29998437747d589c65cfc4ccd3",
    folders=("data/300w/300w", "300w/300w", "300w"),
    marker=_BOXES.format("afw"),
    layout="""\
  300w/Bounding Boxes/bounding_boxes_afw.mat   (and of helen_trainset, helen_testset, lfpw_trainset, lfpw_testset, ibug)
  300w/afw/134212_1.jpg, 134212_1.pts ...
  300w/helen/trainset/..., testset/...
  300w/lfpw/trainset/image_0001.png, image_0001.pts ..., testset/...
  300w/ibug/image_003_1.jpg, image_003_1.pts ...""",
)

NUM_LANDMARKS = 68
OFFICIAL_COUNTS = {"train": 3_148, "test": 689}

_PARTS = {"train": ("afw", "helen/trainset", "lfpw/trainset"), "test": ("helen/testset", "lfpw/testset", "ibug")}
_FACE, _CUT = 52, 100
"""Pixels: width of the face's box, and of the cut around it."""
_RAISED = 2
"""Pixels by which the cut is higher than centred on the box."""
_POINTS = re.compile(r"\s*version:\s*1\s+n_points:\s*68\s*\{([^{}]*)\}\s*")


def read_splits(tree: Path) -> dict[str, list[AnnotatedFace]]:
    """Train: AFW and the training parts of Helen and LFPW; test: the test parts of both and IBUG (Ren et al., 2014).

    Of IBUG's boxes, only those of files named `image...` have an image. Who is shown is not known, so that every face
    counts as a person of its own. Faces of one photograph (AFW's and Helen's `134212_1.jpg`, `134212_2.jpg`) are of one
    `group`.

    Raises:
      DatasetError: a file is missing or malformed, or the counts are not the official ones.
    """
    splits, subject = {}, 0
    for split, parts in _PARTS.items():
        splits[split] = []
        for part in parts:
            for file, box in _read_boxes(tree, part):
                splits[split].append(_read_face(tree, f"{part}/{file}", box, subject))
                subject += 1
    found = {split: len(faces) for split, faces in splits.items()}
    official.check_counts(found, OFFICIAL_COUNTS, what="300-W's boxes")
    return splits


def face_cut(box: Sequence[float]) -> Cut:
    """The cut around a face, as DVE (Thewlis et al., 2019) computes it.

    The image is resized until the box is 52 pixels wide, and 100x100 pixels around the box's centre are cut, 2 pixels
    higher than centred.

    The first resize is bicubic, as ContrastLandmark (Cheng et al., 2021) has it: Pillow's default of its day. DVE's was
    nearest.

    Args:
      box: (left, top, right, bottom) in pixels counted from 1, the last ones included.
    """
    left, top, right, bottom = box
    width, height = right - left + 1, bottom - top + 1
    zoom = _FACE / width
    x = math.floor(zoom * (left + (width + 1) / 2)) - _CUT // 2
    y = math.floor(zoom * (top + (height + 1) / 2)) - _CUT // 2 - _RAISED
    return Cut(size=None, box=(x, y, x + _CUT, y + _CUT), zoom=zoom, zoom_filter=Image.Resampling.BICUBIC)


def _read_boxes(tree: Path, part: str) -> list[tuple[str, Float[np.ndarray, "4"]]]:
    """File and ground-truth box of each face of a part."""
    path = _BOXES.format(part.replace("/", "_"))
    (cells,) = official.read_matlab(tree, path, ("bounding_boxes",), FILES)
    boxes = []
    for number, cell in enumerate(cells if isinstance(cells, list) else [cells], start=1):  # a single cell is no list
        try:
            file, box = str(cell["imgName"]), np.asarray(cell["bb_ground_truth"], float)
        except (KeyError, TypeError, ValueError, IndexError):
            raise DatasetError(f"{path} cell {number}: expected imgName and bb_ground_truth") from None
        if part == "ibug" and not file.startswith("image"):
            continue
        if box.shape != (4,) or not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
            raise DatasetError(f"{path} cell {number} ({file!r}): {box.tolist()} is not left, top, right, bottom")
        boxes.append((file, box))
    return boxes


def _read_face(tree: Path, file: str, box: Float[np.ndarray, "4"], subject: int) -> AnnotatedFace:
    path = PurePosixPath(file)
    points = str(path.with_suffix(".pts"))
    found = _POINTS.fullmatch("\n".join(official.read_lines(tree, points, FILES)))
    if found is None:
        raise DatasetError(f"{points}: expected 'version: 1', 'n_points: 68' and the points in braces")
    cut = face_cut(box.tolist())
    has_siblings = path.parts[0] in ("afw", "helen")
    return AnnotatedFace(
        file=file,
        name=f"{file!r} ({points})",
        # Counted from 1. Prior work scales them so, and subtracts the 1 afterwards, from pixels of the scaled image.
        landmarks=official.read_points(found[1].split(), NUM_LANDMARKS, points) - 1 / cut.zoom,
        subject=subject,
        group=file.rpartition("_")[0] if has_siblings else file,
        cut=cut,
    )


class ThreeHundredW(OfficialDataset):
    """300-W at 136x136: the ground-truth box 52 pixels wide in a cut of 100x100 (`face_cut`), enlarged.

    Landmarks: the usual 68, outer corners of the eyes 36 and 45. `train` and `validation` are AFW and the training
    parts of Helen and LFPW, `test` is the test parts of both and IBUG.
    """

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0: the first resize was bilinear
    FILES = FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = FILES.instructions
    NUM_LANDMARKS = NUM_LANDMARKS
    OFFICIAL_COUNTS = OFFICIAL_COUNTS
    ABOUT = "300-W: faces in the wild with 68 landmarks, in the split on which prior work evaluates."
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/300-W/"

    def read_splits(self, tree: Path) -> dict[str, list[AnnotatedFace]]:
        return read_splits(tree)
