"""Stage `self_train`: the adapted parser learns from its own labels of the target, made once (SPCL, third stage)."""

from __future__ import annotations

from typing import Any

import ml_collections
from jaxtyping import Array

from scemae_jax.config import Config
from scemae_jax.data import augment
from scemae_jax.models.parsing import ParsingNetwork, enlarge
from scemae_jax.systems.spcl import losses
from scemae_jax.systems.spcl.networks import parser_optimizer
from scemae_jax.training import loop, optimizer
from scemae_jax.training.feed import Input


def task(config: Config, network: ParsingNetwork, params: Any, target: Input, *, steps: int) -> loop.Task:
    """The task; `target` has images and "parts", the pseudo-labels."""
    settings, window = config.self_train, network.window
    views: Config = ml_collections.FrozenConfigDict(settings.augment)

    def loss(params: Any, _: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        target, _crops = augment.random_views(key, batch["target"], views, window, network.parts)
        logits = enlarge(network.apply(params, target["image"]).logits, (window, window))
        return losses.cross_entropy(logits, target["parts"]), {}

    return loop.Task(
        name="self_train",
        loss=loss,
        outputs=(),
        params=params,
        constants={},
        inputs={"target": target},
        optimizer=parser_optimizer(settings, steps),
        schedule=optimizer.learning_rate(settings, steps),
        steps=steps,
        seed=config.seed + 2,
        **loop.pace(settings),
    )
