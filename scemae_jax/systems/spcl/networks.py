"""The network of SPCL: a parser on the backbone, and how it is trained."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow_datasets as tfds

from scemae_jax import config as configuration
from scemae_jax.config import Config
from scemae_jax.data import sources
from scemae_jax.data.datasets.image_folder import ImageFolder, image_folder_config
from scemae_jax.data.datasets.mask_folder import MaskFolder, mask_folder_config
from scemae_jax.data.masks import has_masks
from scemae_jax.data.record import Faces
from scemae_jax.experiment import Experiment
from scemae_jax.faces.frame import FRAME
from scemae_jax.faces.parts import DRAWN, PartScheme
from scemae_jax.model import Model
from scemae_jax.model_file import load
from scemae_jax.models.architecture import Architecture
from scemae_jax.models.parsing import ParsingNetwork, PartParser
from scemae_jax.systems.spcl import losses, sampling
from scemae_jax.training import optimizer
from scemae_jax.training.feed import Input, Kept, keep

SOME, SOME_SCENES = 2000, 200
"""Images of a split, where a part is enough: for the first prototypes."""


def chunk_size(images: np.ndarray) -> int:
    """How many images `[n, h, w, ...]` go through the network at a time where it is not trained: 64 faces."""
    return max(1, 64 * FRAME.image_size**2 // (images.shape[1] * images.shape[2]))


def parser_optimizer(settings: Config, steps: int) -> optax.GradientTransformation:
    """AdamW; the encoder's rate is `settings.encoder_rate` of the head's."""
    slower = optax.scale(settings.encoder_rate)

    def of_encoder(params: Any) -> Any:
        return {name: name == "encoder" for name in params}

    return optax.chain(optimizer.adamw(settings, steps), optax.masked(slower, of_encoder))


def data_size(config: Config) -> tuple[int, int]:
    """(height, width) of the images of folders."""
    height, width = config.scene_size or (FRAME.image_size, FRAME.image_size)
    return height, width


class Spcl(Experiment):
    """An experiment of SPCL."""

    @functools.cached_property
    def dataset(self) -> tfds.core.DatasetBuilder:
        """The unlabelled images."""
        data = self.config.data
        if data.dataset == "mask_folder":
            return self._mask_folder(data.root)
        if data.dataset != "image_folder":
            return super().dataset
        config = image_folder_config(data.root, data_size(self.config))
        builder = ImageFolder(config=config, data_dir=data.data_dir or None)
        sources.prepare(builder, "")
        return builder

    @functools.cached_property
    def source_dataset(self) -> tfds.core.DatasetBuilder:
        """The labelled images."""
        data = self.config.source_data
        if data.dataset == "mask_folder":
            return self._mask_folder(data.root)
        builder = sources.dataset_builder(data.dataset, data_dir=self.config.data.data_dir, variant=data.variant)
        sources.prepare(builder, data.root)
        return builder

    @functools.cached_property
    def more_folders(self) -> list[tfds.core.DatasetBuilder]:
        """Those with masks are read as the source's kind of folder; their masks are not used."""
        data = self.config.data
        return [
            self._mask_folder(root)
            if has_masks(Path(root).expanduser())
            else sources.open_dataset(data, "landmark_folder", root)
            for root, _ in data.more_roots
        ]

    def _mask_folder(self, root: str) -> tfds.core.DatasetBuilder:
        config = mask_folder_config(root, self.config.classes, data_size(self.config))
        builder = MaskFolder(config=config, data_dir=self.config.data.data_dir or None)
        sources.prepare(builder, root)
        return builder

    def prepare_data(self) -> None:
        super().prepare_data()
        self.first_prepares(lambda: self.source_dataset, "source dataset prepared")

    @property
    def data_version(self) -> str:
        return f"{self.source_dataset.info.full_name} and {super().data_version}"

    @functools.cached_property
    def network(self) -> ParsingNetwork:
        metadata = self.source_dataset.info.metadata or {}
        names, groups = tuple(metadata["parts"]), tuple(metadata.get("groups", ()))
        scheme = DRAWN if (names, groups) == (DRAWN.names, ()) else PartScheme(names=names, groups=groups)
        backbone = configuration.architecture(self.config).backbone
        whole = bool(self.config.scene_size)
        return ParsingNetwork(backbone=backbone, parts=scheme, width=self.config.head_width, whole=whole)

    def initial_params(self) -> Any:
        """A random head on the encoder of `config.init`, or on a random one."""
        config, backbone = self.config, self.network.backbone
        if config.init:
            model = load(config.init)
            there = dataclasses.replace(model.architecture.backbone, dtype=backbone.dtype)
            if there.positions == "sincos":  # a function of the place, for windows of any size
                there = dataclasses.replace(there, frame=backbone.frame)
            if there != backbone:
                raise ValueError(f"config.init: {config.init} has {there}, the config has {backbone}: make them agree")
            encoder = model.params["encoder"]
            print(f"the parser starts from the encoder of {config.init}; its terms of use hold for what comes of it")
        else:
            windows = jnp.zeros((1, self.network.window, self.network.window, 3))
            encoder = jax.jit(backbone.build().init)(jax.random.key(config.seed), windows)["params"]
        return self.network.initial_params(config.seed, encoder)

    def labelled_input(self, batch_size: int, seed: int) -> Input:
        """Batches of source images with "parts"; all come as often, or those of rare classes more often."""
        weights, groups = self._balance if self.config.source_data.class_balance else ([1.0], None)
        workers = self.config.data.workers
        return self._source.batches(weights, batch_size=batch_size, seed=seed, workers=workers, groups=groups)

    @functools.cached_property
    def _balance(self) -> tuple[list[float], list[list[int]]]:
        """How often an image of each class is drawn, and the numbers of the images that have the class."""
        return sampling.by_class(self._source.sources, len(self.network.parts.names))

    @functools.cached_property
    def _source(self) -> Kept:
        records = sources.records(self.source_dataset, self.config.source_data.splits, fields=("parts",))
        return keep([records], cache=self.config.data.cache, mesh=self.mesh)

    def target_with_masks(self, batch_size: int, seed: int) -> Input:
        """Batches of target images (`config.data.train_splits`) with "parts", their true masks.

        Raises:
          ValueError: the masks have other classes than the source's.
        """
        here, there = tuple((self.dataset.info.metadata or {})["parts"]), self.network.parts.names
        if here != there:
            raise ValueError(
                f"config.data has masks of {', '.join(here)}, the source those of {', '.join(there)}: an oracle needs "
                "the same classes in the same order"
            )
        splits = self.config.data.train_splits
        return self.training_input(batch_size, seed, splits=splits, fields=("parts",))

    def some_source_images(self) -> Faces:
        """Some labelled images of each split, with their parts."""
        splits, count = self.config.source_data.splits, SOME_SCENES if self.network.whole else SOME
        return sources.read_faces(self.source_dataset, splits, count, fields=("parts",))

    def class_weights(self) -> np.ndarray:
        """Of the classes, by their share of the source's pixels, or all the same; classes that it lacks are said."""
        pixels = self._pixels()
        weights = losses.class_weights_of(pixels, self.network.parts.names)
        return weights if self.config.class_weights else (pixels > 0).astype(np.float32)

    def _pixels(self) -> np.ndarray:
        """Source pixels of each class: as counted when a folder was prepared, else in some images."""
        counted = (self.source_dataset.info.metadata or {}).get("pixels")
        if counted:
            return np.sum([counted[split] for split in self.config.source_data.splits if split in counted], axis=0)
        parts = self.some_source_images().parts
        assert parts is not None
        return losses.pixels_of(parts, self.network.parts.names)

    def parser(self, stage: str) -> Any:
        """The encoder and head that a stage left, None if it has not trained.

        After `adapt` those of the teacher, if the target's labels are its.
        """
        if stage == "adapt" and self.config.adapt.labels == "teacher":
            state = self.trained("adapt", "state")
            params = state and state["teacher"]
        else:
            params = self.trained(stage)
        return params and {name: params[name] for name in ("encoder", "head")}

    def final_stage(self) -> str:
        """The last stage that has trained.

        Raises:
          FileNotFoundError: none has.
        """
        for stage in ("self_train", "adapt", "source"):
            if self.parser(stage) is not None:
                return stage
        raise FileNotFoundError(f"no parser in {self.workdir}: put 'source' among config.stages")

    def final_parser(self) -> Any:
        """The parameters that it left; raises as `final_stage`."""
        return self.parser(self.final_stage())

    def final_model(self) -> Model:
        """The model of `config.init` with the parser of the last stage that has trained.

        Without one, or if it takes images of other sizes, the model has nothing else, and its encoder is the parser's.
        """
        params = self.final_parser()
        parser = PartParser(parts=self.network.parts, width=self.network.width, params=params)
        init = load(self.config.init) if self.config.init else None
        if init is not None and init.frame == self.network.backbone.frame:
            return dataclasses.replace(init, parser=parser)
        architecture = Architecture(backbone=self.network.backbone)
        return Model(architecture=architecture, params={"encoder": params["encoder"]}, parser=parser)
