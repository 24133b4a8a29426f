"""Datasets by name, prepared by TFDS, and their records."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from scemae_jax.data.datasets.aflw_m import AflwM
from scemae_jax.data.datasets.aflw_r import AflwR
from scemae_jax.data.datasets.celeba_landmarks import CelebaLandmarks
from scemae_jax.data.datasets.landmark_folder import LandmarkFolder, folder_config
from scemae_jax.data.datasets.mafl import Mafl
from scemae_jax.data.datasets.official import OfficialDataset
from scemae_jax.data.datasets.synthetic_faces import SyntheticFaces
from scemae_jax.data.datasets.three_hundred_w import ThreeHundredW
from scemae_jax.data.images import DatasetError
from scemae_jax.data.pipeline import in_memory
from scemae_jax.data.record import DTYPES, MASKS, Faces, Field

OFFICIAL: dict[str, type[OfficialDataset]] = {
    builder.name: builder for builder in (CelebaLandmarks, Mafl, AflwM, AflwR, ThreeHundredW)
}
"""The datasets of prior work, by name."""
DATASETS = ("synthetic_faces", "landmark_folder", *OFFICIAL)


def dataset_builder(
    name: str, *, root: str = "", data_dir: str | os.PathLike = "", variant: str = "default"
) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a dataset, not prepared yet.

    Args:
      name: one of `DATASETS`.
      root: the folder that `landmark_folder` is about.
      data_dir: where prepared datasets are kept; empty for TFDS's own choice.
      variant: of `synthetic_faces`.

    Raises:
      DatasetError: the name is unknown, or the folder not usable.
    """
    data_dir = Path(data_dir or constants.DATA_DIR).expanduser()
    if name == "synthetic_faces":
        if variant not in SyntheticFaces.builder_configs:
            known = ", ".join(SyntheticFaces.builder_configs)
            raise DatasetError(f"synthetic_faces has no variant {variant!r}: choose one of {known}")
        return SyntheticFaces(config=variant, data_dir=data_dir, file_format="array_record")
    if name == "landmark_folder":
        return LandmarkFolder(config=folder_config(root), data_dir=data_dir)
    if name not in OFFICIAL:
        raise DatasetError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    return OFFICIAL[name](data_dir=data_dir)


def prepare(builder: tfds.core.DatasetBuilder, root: str) -> None:
    """Prepares a dataset unless that was done before; `root` holds the files of an official one.

    Raises:
      DatasetError: the files are missing, damaged or disagree; the message says what to do.
    """
    manual_dir = Path(root).expanduser() if root else None
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))


def open_dataset(config: Any, dataset: str = "", root: str = "") -> tfds.core.DatasetBuilder:
    """The prepared TFDS builder of `config.dataset` (prepared now, unless that was done before).

    Args:
      config: `config.data`: dataset, variant, root (the folder of `landmark_folder`, and what holds the files of an
        official dataset), data_dir.
      dataset: another name to use instead of `config.dataset`.
      root: another folder to use instead of `config.root`.

    Raises:
      DatasetError: the name is unknown, or the dataset needs a folder that is not given or not usable.
    """
    name, root = dataset or config.dataset, root or config.root
    if name == "landmark_folder" and not root:
        raise DatasetError(f"{name} reads a folder of yours: name it with --config.data.root=FOLDER")
    builder = dataset_builder(name, root=root, data_dir=config.data_dir, variant=config.variant)
    if name in OFFICIAL and not root and not builder.info.initialized:
        raise DatasetError(
            f"{name} is prepared from its official files: name their folder with --config.data.root=FOLDER"
        )
    prepare(builder, root)
    return builder


@dataclasses.dataclass(frozen=True)
class Records:
    """Records of prepared splits, one split after the other; each is decoded when it is asked for."""

    splits: Sequence[Sequence]
    fields: tuple[Field, ...] = ()
    """What comes with the images."""

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        for split in self.splits:
            if index < len(split):
                example = split[index]
                return {"image": example["image"]} | {field: _value(field, example[field]) for field in self.fields}
            index -= len(split)
        raise IndexError(f"there are {len(self)} records")


def _value(field: Field, stored: Any) -> np.ndarray:
    value = np.asarray(stored, DTYPES[field])
    return value[..., 0] if field in MASKS else value  # TFDS's images have a channel


def fields_of(builder: tfds.core.DatasetBuilder, among: Sequence[Field] = tuple(DTYPES)) -> list[Field]:
    """Those of the fields that a dataset has."""
    features: Any = builder.info.features  # a FeaturesDict, which TFDS's types hide
    return [field for field in among if field in features]


def records(
    builder: tfds.core.DatasetBuilder,
    splits: Sequence[str],
    *,
    fields: Sequence[Field] = (),
    limit: int | None = None,
) -> Records:
    """The records of splits, those that the dataset lacks left out.

    Args:
      builder: of a prepared dataset.
      splits: one or more.
      fields: what is wanted beside the images; others are not decoded.
      limit: at most so many of each split.

    Raises:
      DatasetError: the dataset has none of the splits, or lacks a field.
    """
    name, sizes = builder.info.full_name, {split: info.num_examples for split, info in builder.info.splits.items()}
    present = [split for split in splits if split in sizes]
    if not present:
        raise DatasetError(f"{name} has no split {' or '.join(splits)}; it has: {', '.join(sizes)}")
    known = fields_of(builder)
    for field in fields:
        if field not in known:
            raise DatasetError(f"{name} has no field {field!r}; it has: {', '.join(sorted(known))}")
    features: Any = builder.info.features
    decoders = {feature: tfds.decode.SkipDecoding() for feature in features.keys() - {"image", *fields}}
    parts = present if limit is None else [f"{split}[:{min(limit, sizes[split])}]" for split in present]
    sources = [builder.as_data_source(part, decoders=decoders) for part in parts]  # pyright: ignore[reportCallIssue] - hidden by TFDS's decorator
    return Records(sources, tuple(fields))


def read_faces(
    builder: tfds.core.DatasetBuilder,
    splits: Sequence[str],
    limit: int | None = None,
    *,
    fields: Sequence[Field] | None = None,
) -> Faces:
    """Decodes `records` into memory, in their stored order; without `fields`, landmarks and subjects if there are any.

    Raises:
      DatasetError: as `records`.
    """
    fields = fields_of(builder, ("landmarks", "subject")) if fields is None else fields
    found = dict(in_memory(records(builder, splits, fields=fields, limit=limit)).arrays)
    names = {"image": "images", "subject": "subjects", "domain": "domains"}
    return Faces(**{names.get(field, field): values for field, values in found.items()})


def open_more_roots(config: Any) -> list[tfds.core.DatasetBuilder]:
    """The folders `config.more_roots`, prepared."""
    return [open_dataset(config, "landmark_folder", root) for root, _ in config.more_roots]


def unlabelled_images(
    config: Any, datasets: Sequence[tfds.core.DatasetBuilder], *, fields: Sequence[Field] = ()
) -> tuple[list[Records], list[float]]:
    """What self-supervised training draws images from, and the share of each source in the stream.

    An image of `config.more_roots` comes as often, for once of each image of the dataset, as its weight says. Synthetic
    faces take `config.synthetic_share` of the stream.

    Args:
      datasets: the dataset, `open_more_roots`, and last synthetic faces, if they have a share;
        `config.unlabelled_splits` of each are read.

    Raises:
      DatasetError: a dataset has none of these splits, or lacks a field.
    """
    sources = [records(dataset, config.unlabelled_splits, fields=fields) for dataset in datasets]
    often = [1.0, *(weight for _, weight in config.more_roots)]
    wanted = [len(source) * weight for source, weight in zip(sources, often, strict=False)]
    weights = [(1.0 - config.synthetic_share) * count / sum(wanted) for count in wanted]
    return sources, weights + ([float(config.synthetic_share)] if config.synthetic_share else [])
