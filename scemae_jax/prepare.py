"""Prepares one dataset, and verifies it.

  python -m scemae_jax.prepare --dataset mafl --manual_dir FOLDER
  python -m scemae_jax.prepare --dataset three_hundred_w --manual_dir FOLDER --download
  python -m scemae_jax.prepare --dataset mafl --check

FOLDER holds the official files or the archive of prior work (or is the folder that landmark_folder is about);
--download fetches that archive into it first, and nothing is fetched without. --check verifies what was prepared
before. Exit status: 0 prepared and sound, 1 not; of an official dataset, images that are in two splits are a warning.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from scemae_jax.command_line import DONE, FAILED, exit_status, start
from scemae_jax.data import sources
from scemae_jax.data.datasets.landmark_folder import LandmarkFolder
from scemae_jax.data.datasets.official import OfficialDataset, check_counts
from scemae_jax.data.images import DatasetError, in_threads
from scemae_jax.faces.frame import FRAME

DATASET = flags.DEFINE_enum("dataset", None, sources.DATASETS, "What to prepare.")
MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "Folder of the official files, or of your own faces.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Where prepared datasets are kept; empty: TFDS_DATA_DIR, or ~/tensorflow_datasets."
)
VARIANT = flags.DEFINE_string("variant", "default", "Of synthetic_faces.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Fetch the archive of prior work into --manual_dir first.")
CHECK = flags.DEFINE_bool("check", False, "Verify what was prepared before, and prepare nothing.")

_MOST_SHOWN = 5


class Findings(NamedTuple):
    """What `verify` found."""

    images: dict[str, int]
    """Images of each split that are as they should be."""
    problems: list[str]
    shared: list[str]
    """Images whose pixels another split has too."""


def verify(splits: Mapping[str, Sequence[dict[str, Any]]], *, landmarks: int, missing_allowed: bool) -> Findings:
    """Reads every example of every split.

    An image must decode to uint8 [136, 136, 3]; there must be `landmarks` points, all finite (or, with
    `missing_allowed`, NaN where not annotated). The same pixels should not be in two splits.

    Args:
      splits: the examples, dicts with `image` and `landmarks`, of each split; reading one may raise anything.
    """

    def read(task: tuple[str, int]) -> tuple[str, int, bytes, str]:
        split, index = task
        try:
            example = splits[split][index]
        except Exception as error:  # whatever decoders and file formats raise is what is looked for
            return split, index, b"", f"cannot be decoded ({error})"
        image, points = example["image"], example["landmarks"]
        size = FRAME.image_size
        if image.shape != (size, size, 3) or image.dtype != np.uint8:
            return split, index, b"", f"is {image.dtype}{list(image.shape)}, expected uint8[{size}, {size}, 3]"
        digest = hashlib.sha256(image.tobytes()).digest()
        if points.shape != (landmarks, 2):
            return split, index, digest, f"has landmarks {list(points.shape)}, expected [{landmarks}, 2]"
        if np.isinf(points).any() or (np.isnan(points).any() and not missing_allowed):
            return split, index, digest, "has landmarks that are not finite"
        return split, index, digest, ""

    tasks = [(split, index) for split, examples in splits.items() for index in range(len(examples))]
    images, problems, shared, seen = dict.fromkeys(splits, 0), [], [], {}
    progress = tqdm(in_threads(read, tasks), total=len(tasks), desc="verifying", unit="image")
    for split, index, digest, problem in progress:
        if problem:
            problems.append(f"{split} image {index} {problem}")
            continue
        images[split] += 1
        first, first_index = seen.setdefault(digest, (split, index))
        if first != split:
            shared.append(f"{split} image {index} is also {first} image {first_index}")
    return Findings(images, problems, shared)


def _tell(kind: str, lines: Sequence[str]) -> None:
    """The first of them, to standard error."""
    for line in lines[:_MOST_SHOWN]:
        print(f"{kind}: {line}", file=sys.stderr)
    if len(lines) > _MOST_SHOWN:
        print(f"{kind}: and {len(lines) - _MOST_SHOWN} more", file=sys.stderr)


def verify_dataset(builder: tfds.core.DatasetBuilder) -> list[str]:
    """Verifies a prepared dataset and prints a table of its splits.

    Images in two splits of an official dataset are a warning: its parts are as they were published.

    Returns:
      What is wrong with it, a line for each problem.
    """
    expected = {name: split.num_examples for name, split in builder.info.splits.items()}
    features: Any = builder.info.features  # a FeaturesDict, which TFDS's types hide
    others = features.keys() - {"image", "landmarks"}
    decoders = {name: tfds.decode.SkipDecoding() for name in others}
    splits = {name: builder.as_data_source(name, decoders=decoders) for name in expected}  # pyright: ignore[reportCallIssue] - hidden by TFDS's decorator
    landmarks = features["landmarks"].shape[0]
    found = verify(splits, landmarks=landmarks, missing_allowed=isinstance(builder, LandmarkFolder))
    is_official = isinstance(builder, OfficialDataset)
    problems = found.problems if is_official else found.problems + found.shared
    official = dict(builder.OFFICIAL_COUNTS) if is_official else {}
    if official:
        counts = {name: expected.get(name, 0) for name in official}
        if "train" in counts:
            counts["train"] += expected.get("validation", 0)
        try:
            check_counts(counts, official, what=builder.name)
        except DatasetError as error:
            problems.append(str(error))

    table = Table("split", title=f"{builder.info.full_name}: {landmarks} landmarks")
    for column in ("images", "sound", "officially"):
        table.add_column(column, justify="right")
    for name, count in expected.items():
        with_validation = " with validation" if name == "train" and name in official else ""
        published = f"{official[name]:,}{with_validation}" if name in official else ""
        table.add_row(name, f"{count:,}", f"{found.images[name]:,}", published)
    Console().print(table)
    if is_official and found.shared:
        _tell("warning", [f"{builder.name}: images in two splits: {len(found.shared):,}", *found.shared])
    return problems


def prepare(
    name: str, *, manual_dir: str, data_dir: str, variant: str = "default", download: bool = False, check: bool = False
) -> list[str]:
    """Prepares a dataset (with `check`: not), and verifies it.

    Returns:
      What is wrong with the prepared dataset, a line for each problem.

    Raises:
      DatasetError: it cannot be prepared, or with `check`, was not.
    """
    needs_folder = name == "landmark_folder" or (name in sources.OFFICIAL and not check)
    if needs_folder and not manual_dir:
        raise DatasetError(f"{name} is prepared from files: name their folder with --manual_dir")
    if download and name not in sources.OFFICIAL:
        raise DatasetError(f"there is nothing to download for {name}: leave out --download")
    if download and check:
        raise DatasetError("--check only looks at what was prepared before: leave out --download")
    builder = sources.dataset_builder(name, root=manual_dir, data_dir=data_dir, variant=variant)
    is_prepared = builder.info.initialized
    if check and not is_prepared:
        raise DatasetError(f"{builder.info.full_name} is not prepared in {builder.data_dir}: leave out --check")
    if download and not is_prepared:
        sources.OFFICIAL[name].FILES.download(manual_dir)
    if not check:
        sources.prepare(builder, manual_dir)
    return verify_dataset(builder)


def main() -> None:
    with exit_status():
        problems = prepare(
            str(DATASET.value),  # `start` asks for it
            manual_dir=MANUAL_DIR.value,
            data_dir=DATA_DIR.value,
            variant=VARIANT.value,
            download=DOWNLOAD.value,
            check=CHECK.value,
        )
        _tell("error", problems)
        sys.exit(FAILED if problems else DONE)


if __name__ == "__main__":
    start(main, "dataset")
