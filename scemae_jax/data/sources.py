"""Datasets by name: prepared by TFDS, decoded into memory or read from disk as they are asked for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
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
from scemae_jax.data.pipeline import load_range
from scemae_jax.data.record import Faces, Field

OFFICIAL: dict[str, type[OfficialDataset]] = {
    builder.name: builder for builder in (CelebaLandmarks, Mafl, AflwM, AflwR, ThreeHundredW)
}
"""The datasets of prior work, by name."""
DATASETS = ("synthetic_faces", "landmark_folder", *OFFICIAL)


@dataclasses.dataclass(frozen=True)
class ImagesOnDisk:
    """The images of prepared splits, one split after the other, decoded as they are asked for."""

    splits: Sequence[Sequence]

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        for split in self.splits:
            if index < len(split):
                return {"image": split[index]["image"]}
            index -= len(split)
        raise IndexError(f"there are {len(self)} images")


@dataclasses.dataclass(frozen=True)
class ImagesInMemory:
    """Decoded images."""

    images: UInt8[np.ndarray, "n h w 3"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self.images[index]}


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


def open_dataset(config: Any, dataset: str | None = None) -> tfds.core.DatasetBuilder:
    """The prepared TFDS builder of `config.dataset` (prepared now, unless that was done before).

    Args:
      config: `config.data`: dataset, variant, root (the folder of `landmark_folder`, and what holds the files of an
        official dataset), data_dir.
      dataset: another name to use instead of `config.dataset`.

    Raises:
      DatasetError: the name is unknown, or the dataset needs a folder that is not given or not usable.
    """
    name = dataset or config.dataset
    if name == "landmark_folder" and not config.root:
        raise DatasetError(f"{name} reads a folder of yours: name it with --config.data.root=FOLDER")
    builder = dataset_builder(name, root=config.root, data_dir=config.data_dir, variant=config.variant)
    if name in OFFICIAL and not config.root and not builder.info.initialized:
        raise DatasetError(
            f"{name} is prepared from its official files: name their folder with --config.data.root=FOLDER"
        )
    prepare(builder, config.root)
    return builder


def _present(builder: tfds.core.DatasetBuilder, splits: Sequence[str]) -> list[str]:
    """Those of the splits that the dataset has.

    Raises:
      DatasetError: it has none of them.
    """
    present = [split for split in splits if split in builder.info.splits]
    if not present:
        known = ", ".join(builder.info.splits)
        raise DatasetError(f"{builder.info.full_name} has no split {' or '.join(splits)}; it has: {known}")
    return present


def _only(builder: tfds.core.DatasetBuilder, *names: str) -> dict[str, Any]:
    """Decoders that leave all features but these as they are stored."""
    features = builder.info.features
    assert isinstance(features, tfds.features.FeaturesDict)
    return {name: tfds.decode.SkipDecoding() for name in features.keys() - set(names)}


def _check_fields(builder: tfds.core.DatasetBuilder, fields: Sequence[Field]) -> None:
    """Raises DatasetError where the dataset lacks one of the fields."""
    features = builder.info.features
    assert isinstance(features, tfds.features.FeaturesDict)
    for field in fields:
        if field not in features:
            known = ", ".join(sorted(features.keys()))
            raise DatasetError(f"{builder.info.full_name} has no field {field!r}; it has: {known}")


def read_faces(
    builder: tfds.core.DatasetBuilder,
    splits: Sequence[str],
    limit: int | None = None,
    *,
    fields: Sequence[Field] = ("landmarks", "subject"),
) -> Faces:
    """Decodes splits into memory, one after the other, in their stored order; those the dataset lacks are left out.

    Args:
      builder: of a prepared dataset.
      splits: one or more.
      limit: at most so many faces of each split.
      fields: what is wanted beside the images; others are not decoded.

    Raises:
      DatasetError: the dataset has none of the splits, or lacks a field.
    """
    present = _present(builder, splits)
    _check_fields(builder, fields)
    decoders = _only(builder, "image", *fields)
    examples = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for split in present:
            source = builder.as_data_source(split, decoders=decoders)  # pyright: ignore[reportCallIssue] - hidden by TFDS's decorator
            count = len(source) if limit is None else min(limit, len(source))
            examples += threads.map(source.__getitem__, range(count))

    def stacked(field: Field) -> np.ndarray | None:
        return np.stack([example[field] for example in examples]) if field in fields else None

    landmarks, subjects, domains = stacked("landmarks"), stacked("subject"), stacked("domain")
    parts, occluder = stacked("parts"), stacked("occluder")
    return Faces(
        images=np.stack([example["image"] for example in examples]),
        landmarks=np.zeros((len(examples), 0, 2), np.float32) if landmarks is None else landmarks.astype(np.float32),
        subjects=np.arange(len(examples)) if subjects is None else subjects.astype(np.int64),
        visible=stacked("visible"),
        parts=None if parts is None else parts[..., 0],
        occluder=None if occluder is None else occluder[..., 0],
        domains=None if domains is None else domains.astype(np.int64),
    )


def unlabelled_images(config: Any, dataset: tfds.core.DatasetBuilder) -> tuple[list[ImagesOnDisk], list[float]]:
    """What self-supervised training draws images from, with each source's share.

    `config.unlabelled_splits` of `dataset`; synthetic faces take `config.synthetic_share` of the stream.

    Raises:
      DatasetError: the dataset has none of these splits.
      ValueError: the share is not in [0, 1).
    """
    if not 0 <= config.synthetic_share < 1:
        raise ValueError(f"config.data.synthetic_share is {config.synthetic_share}: choose a share from 0 up to 1")

    def of(builder: tfds.core.DatasetBuilder) -> ImagesOnDisk:
        decoders, splits = _only(builder, "image"), _present(builder, config.unlabelled_splits)
        return ImagesOnDisk([builder.as_data_source(split, decoders=decoders) for split in splits])  # pyright: ignore[reportCallIssue] - hidden by TFDS's decorator

    sources, weights = [of(dataset)], [1.0 - config.synthetic_share]
    if config.synthetic_share:
        sources.append(of(open_dataset(config, "synthetic_faces")))
        weights.append(float(config.synthetic_share))
    return sources, weights


def in_memory(source: ImagesOnDisk) -> ImagesInMemory:
    """The same images, decoded once."""
    return ImagesInMemory(load_range([source], 0, len(source))["image"])
