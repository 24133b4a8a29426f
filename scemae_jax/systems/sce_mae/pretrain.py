"""Stage 1: the masked autoencoder learns from unlabelled faces."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array

from scemae_jax.config import Config
from scemae_jax.data.augment import random_views
from scemae_jax.models import mae, vit
from scemae_jax.models.architecture import Architecture
from scemae_jax.training import loop, optimizer
from scemae_jax.training.feed import Input


def initial_params(architecture: Architecture, seed: int) -> Any:
    """Random parameters of encoder and decoder."""
    network, backbone = architecture.build_mae(), architecture.backbone
    images = jnp.zeros((1, backbone.frame.window, backbone.frame.window, 3))
    noise = jnp.zeros((1, backbone.side**2))
    return jax.jit(network.init)(jax.random.key(seed), images, noise)["params"]


def task(
    config: Config,
    architecture: Architecture,
    params: Any,
    source: Input,
    steps: int,
) -> loop.Task:
    """The pretraining task; `config` is the whole config, `params` those to start from."""
    settings, backbone = config.pretrain, architecture.backbone
    network = architecture.build_mae(vit.LayerLoop(scan=settings.scan_layers, remat=settings.remat))
    augmentation = ml_collections.FrozenConfigDict(settings.augment)

    def loss(params: Any, _: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        view_key, noise_key = jax.random.split(key)
        views, _crops = random_views(view_key, batch["unlabelled"], augmentation, backbone.frame.window)
        images = backbone.normalise(views["image"])
        noise = jax.random.uniform(noise_key, (len(images), backbone.side**2))
        output = cast(mae.MAEOutput, network.apply({"params": params}, images, noise))
        return output.loss, {}

    def next_average(state: Any, params: Any, _: Any) -> Any:
        """Exponential average of the weights; it forgets the first ones faster, so that nothing of them is left."""
        steps = state["steps"] + 1
        decay = jnp.minimum(settings.average, (1 + steps) / (10 + steps))
        return {"average": optax.incremental_update(params, state["average"], 1 - decay), "steps": steps}

    averaged: dict[str, Any] = {}
    if settings.average:
        first = {"average": params, "steps": jnp.zeros((), jnp.int32)}
        averaged = {"state": first, "next_state": next_average}
    return loop.Task(
        name="pretrain",
        loss=loss,
        outputs=(),
        params=params,
        constants={},
        inputs={"unlabelled": source},
        optimizer=optimizer.adamw(settings, steps),
        schedule=optimizer.learning_rate(settings, steps),
        steps=steps,
        seed=config.seed,
        **loop.pace(settings),
        **averaged,
    )
