"""The data of one run: datasets are opened once, images decoded once, for all of its stages."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jax.sharding import Mesh

from scemae_jax.config import Config
from scemae_jax.data import sources
from scemae_jax.data.formats import UNLABELED_VALIDATION
from scemae_jax.data.record import AnnotatedFaces, Faces, Field
from scemae_jax.faces.frame import FRAME
from scemae_jax.training import processes, sharding
from scemae_jax.training.feed import Input, Kept, keep

SOME_IMAGES = 256
"""Images of a split, where a part is enough: for mean features of positions, and for where attentive patches are."""


@dataclasses.dataclass(frozen=True)
class RunData:
    """What the stages of a config read, and the devices that they train on."""

    config: Config
    """The whole config."""

    @functools.cached_property
    def mesh(self) -> Mesh:
        return sharding.make_mesh(data=self.config.mesh.data, fsdp=self.config.mesh.fsdp)

    def prepare_data(self) -> None:
        """Prepares the datasets in the first process while the others wait: all call this at the same place."""
        self.first_prepares(lambda: self.unlabelled_datasets, "dataset prepared")

    def first_prepares(self, prepare: Callable[[], Any], name: str) -> Any:
        """What `prepare` gives; of several processes, the others call it once the first one has."""
        failed = None
        if processes.is_first():
            try:
                prepare()
            except Exception as error:
                failed = error
        processes.fail_together(failed, name)
        return prepare()

    @functools.cached_property
    def dataset(self) -> tfds.core.DatasetBuilder:
        """Opened once, so that a run sees no changes of a folder. Several processes call `prepare_data` first."""
        return sources.open_dataset(self.config.data)

    @functools.cached_property
    def more_folders(self) -> list[tfds.core.DatasetBuilder]:
        """The folders of `config.data.more_roots`; opened once, too."""
        return sources.open_more_roots(self.config.data)

    @functools.cached_property
    def unlabelled_datasets(self) -> list[tfds.core.DatasetBuilder]:
        """What self-supervised training draws images from: the dataset, more folders, and last synthetic faces."""
        synthetic = ["synthetic_faces"] if self.config.data.synthetic_share else []
        drawn = [sources.open_dataset(self.config.data, name) for name in synthetic]
        return [self.dataset, *self.more_folders, *drawn]

    @functools.cached_property
    def unlabelled_images(self) -> tuple[list[sources.Records], list[float]]:
        return sources.unlabelled_images(self.config.data, self.unlabelled_datasets)

    @property
    def data_version(self) -> str:
        """Names and versions of the prepared data; that of a folder changes with its files and annotations."""
        return " and ".join(dataset.info.full_name for dataset in (self.dataset, *self.more_folders))

    @property
    def num_images(self) -> int:
        return sum(len(source) for source in self.unlabelled_images[0])

    @property
    def left_out(self) -> dict[str, int]:
        """Number of unannotated images that training does not see, by the split of their people.

        Those of people in `test` are in no split; those of people in `validation` in one that the config may name.
        """
        counts = {"test": 0, "validation": 0}
        for dataset in (self.dataset, *self.more_folders):
            splits, held_out = dataset.info.splits, UNLABELED_VALIDATION
            counts["test"] += (dataset.info.metadata or {}).get("num_left_out", 0)
            if held_out in splits and held_out not in self.config.data.unlabelled_splits:
                counts["validation"] += splits[held_out].num_examples
        return {split: count for split, count in counts.items() if count}

    def training_input(
        self,
        batch_size: int,
        seed: int,
        *,
        dataset: str = "",
        splits: Sequence[str] = (),
        fields: Sequence[Field] = (),
    ) -> Input:
        """Batches {"image": uint8 `[b, 136, 136, 3]`, ...} for an input of a task, with the fields asked for.

        Without `dataset` and `splits` they are of what self-supervised training sees: `config.data.unlabelled_splits`
        of the dataset and of `more_roots`, and the share of synthetic faces. Images are decoded once for all stages
        that ask for the same. Of several processes, all call this at the same place.

        Args:
          batch_size: over all processes.
          seed: of the order.
          dataset: a name of `sources.DATASETS`, to read this one alone; empty: `config.data.dataset`.
          splits: those to read of it; empty: `config.data.unlabelled_splits`.
          fields: what comes with each image (`data.record.Field`), e.g. `("parts",)` for uint8 `[b, 136, 136]`.

        Raises:
          DatasetError: a dataset has none of the splits, or lacks a field; it is named.
        """
        asked, data = (dataset, tuple(splits), tuple(fields)), self.config.data
        if asked not in self._kept:
            images, weights = self._training_images(*asked)
            self._kept[asked] = keep(images, cache=data.cache, mesh=self.mesh), weights
        kept, weights = self._kept[asked]
        return kept.batches(weights, batch_size=batch_size, seed=seed, workers=data.workers)

    def _training_images(
        self, dataset: str, splits: Sequence[str], fields: Sequence[Field]
    ) -> tuple[list[sources.Records], list[float]]:
        """What `training_input` draws from, with each source's share."""
        if not dataset and not splits:
            return sources.unlabelled_images(self.config.data, self.unlabelled_datasets, fields=fields)
        name = dataset or self.config.data.dataset
        if name not in self._opened:
            open_it = functools.partial(sources.open_dataset, self.config.data, name)
            same = name == self.config.data.dataset
            self._opened[name] = self.dataset if same else self.first_prepares(open_it, f"{name} prepared")
        splits = splits or self.config.data.unlabelled_splits
        return [sources.records(self._opened[name], splits, fields=fields)], [1.0]

    @functools.cached_property
    def _opened(self) -> dict[str, tfds.core.DatasetBuilder]:
        return {}

    @functools.cached_property
    def _kept(self) -> dict[tuple, tuple[Kept, list[float]]]:
        return {}

    def forget_training_images(self) -> None:
        """Frees the memory that `training_input` keeps decoded images in."""
        self._kept.clear()

    def faces(self, *splits: str) -> AnnotatedFaces:
        """Faces with landmarks of the dataset's splits, decoded once; none if it lacks them all.

        Faces with missing landmarks are left out, with a warning.
        """
        if splits not in self._read:
            if set(splits) & set(self.dataset.info.splits):
                faces = sources.read_faces(self.dataset, splits)
            else:
                faces = Faces(images=np.zeros((0, FRAME.image_size, FRAME.image_size, 3), np.uint8))
            self._read[splits] = annotated = faces.annotated()
            if left_out := len(faces) - len(annotated):
                logging.warning("%d of %d faces of %s lack landmarks: left out", left_out, len(faces), splits)
        return cast(AnnotatedFaces, self._read[splits])

    def some_unlabelled_faces(self) -> Faces:
        """Some of the faces that training sees, without landmarks; decoded once."""
        splits = tuple(self.config.data.unlabelled_splits)
        if ("some", *splits) not in self._read:
            known = sources.fields_of(self.dataset, ("subject",))
            self._read["some", *splits] = sources.read_faces(self.dataset, splits, SOME_IMAGES, fields=known)
        return self._read["some", *splits]

    @functools.cached_property
    def _read(self) -> dict[tuple[str, ...], Faces]:
        return {}
