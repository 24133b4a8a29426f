"""What stage 2 is compared with: the same training without CARB's reduction of the tokens."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array

from scemae_jax.config import Config
from scemae_jax.model import WINDOW, Architecture
from scemae_jax.models import carb
from scemae_jax.ops.lcr import lcr_loss
from scemae_jax.training import loop
from scemae_jax.training.pretrain import random_views

HYPERCOLUMN_LAYERS = 4
"""The last ones, whose tokens are concatenated."""


def all_tokens(task: loop.Task, config: Config, architecture: Architecture) -> loop.Task:
    """`task` of stage 2, where every patch goes through the whole encoder, the projector and the loss."""

    def tokens(encoder: Any, images: Array) -> Array:
        return cast(Array, architecture.build_encoder().apply({"params": encoder}, images))[:, 1:]

    return dataclasses.replace(task, loss=_loss(config, architecture, tokens))


def hypercolumns(task: loop.Task, config: Config, architecture: Architecture) -> loop.Task:
    """`all_tokens`, where the projector reads the tokens of several layers side by side."""
    depth = architecture.variant.depth

    def tokens(encoder: Any, images: Array) -> Array:
        output = architecture.build_encoder().apply({"params": encoder}, images, intermediates=True)
        _, seen = cast(tuple[Array, dict[str, Array]], output)
        layers = range(depth - HYPERCOLUMN_LAYERS + 1, depth + 1)
        return jnp.concatenate([seen[f"layer_{layer}"][:, 1:] for layer in layers], axis=-1)

    projector, width = architecture.build_carb().projector, HYPERCOLUMN_LAYERS * architecture.variant.width
    params = projector.init(jax.random.key(0), jnp.zeros((1, width)))["params"]
    return dataclasses.replace(task, loss=_loss(config, architecture, tokens), params=params)


def _loss(config: Config, architecture: Architecture, tokens: Any) -> loop.LossFn:
    settings, projector = config.refine, architecture.build_carb().projector
    augmentation = ml_collections.FrozenConfigDict(settings.augment)
    side = WINDOW // architecture.variant.patch_size
    positions, attentive = jnp.asarray(carb.patch_positions(side, side)), jnp.ones(side**2, bool)

    def loss(params: Any, encoder: Any, batch: dict[str, Array], key: Array) -> tuple[Array, dict[str, Array]]:
        views, _ = random_views(key, batch["image"], augmentation)
        seen = jax.lax.stop_gradient(tokens(encoder, architecture.normalise(views)))
        features = projector.apply({"params": params}, seen)
        losses = jax.vmap(
            lambda one: lcr_loss(
                one, positions, attentive, temperature=settings.temperature, repellence=tuple(settings.repellence),
                locality=settings.locality,
            )
        )(features)  # fmt: skip
        return losses.mean(), {"mean_cosine": jnp.zeros(())}

    return loss
