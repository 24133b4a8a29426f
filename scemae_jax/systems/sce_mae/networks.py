"""The networks of a run of SCE-MAE: what its stages start from, and what they have trained so far."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from absl import logging

from scemae_jax import config as configuration
from scemae_jax.data.record import AnnotatedFaces, AnyFaces, Faces
from scemae_jax.experiment import Experiment
from scemae_jax.faces.frame import Frame
from scemae_jax.model import CHUNK, Model, as_square_images, placement
from scemae_jax.model_file import load
from scemae_jax.models.architecture import Architecture, Carb
from scemae_jax.models.heads import Which
from scemae_jax.systems.sce_mae import pretrain


class SceMae(Experiment):
    """An experiment of SCE-MAE."""

    def faces(self, *splits: str) -> AnnotatedFaces:
        """As the networks take them: the images of the data, resized to `config.model.image_size`."""
        return in_frame(super().faces(*splits), self.architecture.backbone.frame)

    def some_unlabelled_faces(self) -> Faces:
        return in_frame(super().some_unlabelled_faces(), self.architecture.backbone.frame)

    @functools.cached_property
    def architecture(self) -> Architecture:
        return configuration.architecture(self.config)

    @functools.cached_property
    def initial(self) -> Model | None:
        """The model that `config.init` names, checked to be of the config's encoder and position codes."""
        if not self.config.init:
            return None
        model = load(self.config.init)
        there, here = model.architecture.backbone, self.architecture.backbone
        for field in ("encoder", "positions"):
            a, b = getattr(there, field), getattr(here, field)
            if a != b:
                raise ValueError(
                    f"config.init: {self.config.init} has {field} {a!r}, config.model.{field} is {b!r}: make them agree"
                )
        if there.frame != here.frame:
            raise ValueError(
                f"config.init: {self.config.init} has images of {there.frame.image_size} pixels and windows of "
                f"{there.frame.window}, the config {here.frame.image_size} and {here.frame.window}: make "
                "config.model.image_size and config.model.window agree with it"
            )
        if (there.mean, there.std) != (here.mean, here.std):
            raise ValueError(
                f"config.init: {self.config.init} was trained with mean {there.mean} and std {there.std}, "
                f"config.data.normalisation {self.config.data.normalisation!r} has {here.mean} and {here.std}: choose "
                "the other normalisation"
            )
        return model

    def initial_params(self) -> Any:
        """What stage 1 starts from: random, or `config.init` (its decoder too, where it has one that fits)."""
        params = pretrain.initial_params(self.architecture, self.config.seed)
        if self.initial is None:
            return params
        taken = {name: value for name, value in self.initial.params.items() if name in params}
        if not _same_shapes(taken.get("decoder"), params["decoder"]):
            taken.pop("decoder", None)
        print(
            f"stage 1 starts from {self.config.init}: {' and '.join(taken)} taken from it; "
            "its terms of use hold for what comes of it"
        )
        return {**params, **taken}

    def mae(self) -> Model:
        """The backbone after stage 1.

        Raises:
          FileNotFoundError: stage 1 did not run here, and `config.init` names no model to use instead.
        """
        params = self._pretrained()
        if params is not None and "pretrain" not in self.results():
            logging.warning("stage 1 has not finished in %s: its newest checkpoint is used", self.workdir)
        params = params or (self.initial and self.initial.params)
        if params is None:
            raise FileNotFoundError(
                f"no backbone in {self.workdir}: put 'pretrain' among config.stages, or set config.init to a model"
            )
        kept = {name: params[name] for name in ("encoder", "decoder") if name in params}
        return Model(architecture=self.architecture, params=kept)

    def untrained(self) -> Model:
        """The same network with random weights."""
        encoder = pretrain.initial_params(self.architecture, self.config.seed)["encoder"]
        return Model(architecture=self.architecture, params={"encoder": encoder})

    def model(self) -> Model:
        """Backbone and projector, as far as the stages have come."""
        mae = self.mae()
        params = {"encoder": mae.params["encoder"]}
        projector = self.trained("refine")
        if projector is None and self._pretrained() is None and self.initial is not None:
            projector = self.initial.params.get("projector")
            if projector is not None:
                self._check_projector(self.initial.architecture.carb)
        if projector is not None:
            params["projector"] = projector
        return dataclasses.replace(mae, params=params)

    def _check_projector(self, there: Carb | None) -> None:
        for field in ("projection", "projector_hidden", "projector_normalise"):
            a, b = getattr(there, field), getattr(self.architecture.carb, field)
            if a != b:
                raise ValueError(
                    f"config.init: the projector of {self.config.init} has {field} {a!r}, config.model.{field} is "
                    f"{b!r}: make them agree, or put 'refine' among config.stages to train another"
                )

    def _pretrained(self) -> Any | None:
        """What stage 1 has trained: its last weights, or their average where the config asks for one."""
        if not self.config.pretrain.average:
            return self.trained("pretrain")
        state = self.trained("pretrain", "state")
        return state and state["average"]

    def final_model(self) -> Model:
        """Backbone, projector and the detectors that were trained."""
        model = self.model()
        for path in sorted((self.workdir / "detectors").glob("*.msgpack")):
            for name, head in load(path).heads.items():
                model = model.with_head(head, name)
        return model

    def measured_networks(self, baselines: bool) -> dict[str, tuple[Model, Which]]:
        """The networks that are compared, with which of their features, by the names that the results have for them."""
        networks: dict[str, tuple[Model, Which]] = {}
        if baselines:
            networks["untrained"] = (self.untrained(), "backbone")
        networks["MAE only"] = (self.mae(), "backbone")
        if (model := self.model()).refined:
            networks["SCE-MAE"] = (model, "projected")
        return networks


def in_frame(faces: AnyFaces, frame: Frame) -> AnyFaces:
    """Faces whose images have the frame's size; those of another are resized, and their landmarks with them.

    Raises:
      ValueError: there are masks, which would not be resized.
    """
    size = frame.image_size
    if faces.images.shape[1:3] == (size, size):
        return faces
    if faces.parts is not None or faces.occluder is not None:
        raise ValueError(f"faces with masks cannot be resized to {size} pixels: read them without masks")
    images = [np.zeros((0, size, size, 3), np.uint8)]
    for start in range(0, len(faces), CHUNK):
        squares = as_square_images(faces.images[start : start + CHUNK], frame)
        images.append(np.rint(255 * np.asarray(squares)).astype(np.uint8))
    resized: dict[str, Any] = {"images": np.concatenate(images)}
    if faces.landmarks is not None:
        resized["landmarks"] = placement(faces.images, frame).to_square(faces.landmarks)
    return dataclasses.replace(faces, **resized)


def _same_shapes(a: Any, b: Any) -> bool:
    return jax.tree.map(np.shape, a) == jax.tree.map(np.shape, b)
