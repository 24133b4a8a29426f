"""Stage `source`: the parser learns from labelled images, with an adversary of the domains if the config asks for one.

The adversary is that of AdaptSegNet (Tsai et al. 2018), which SPCL warms up with.
"""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float

from scemae_jax.config import Config
from scemae_jax.data import augment
from scemae_jax.models.parsing import ParsingNetwork, enlarge
from scemae_jax.systems.spcl import losses
from scemae_jax.systems.spcl.networks import parser_optimizer
from scemae_jax.systems.spcl.views import change_look
from scemae_jax.training import loop, optimizer
from scemae_jax.training.feed import Input


class Discriminator(nn.Module):
    """Tells the domain of an output map, place by place: a logit that is positive for source."""

    @nn.compact
    def __call__(self, probabilities: Float[Array, "b h w k"]) -> Float[Array, "b h2 w2 1"]:
        x = probabilities
        for width in (64, 128, 256, 512):
            x = nn.leaky_relu(nn.Conv(width, (4, 4), strides=2, padding=1)(x), 0.2)
        return nn.Conv(1, (4, 4), strides=2, padding=1)(x)


def task(
    config: Config,
    network: ParsingNetwork,
    params: Any,
    inputs: dict[str, Input],
    *,
    weights: np.ndarray,
    steps: int,
) -> loop.Task:
    """The supervised task; `inputs` has "source" (images and "parts"), with an adversary also "target" (images).

    `weights` are of the classes, in the cross-entropy.
    """
    settings, window = config.source, network.window
    views: Config = ml_collections.FrozenConfigDict(settings.augment)
    look: Config = ml_collections.FrozenConfigDict(settings.look)
    discriminator = Discriminator()
    if settings.adversary:
        maps = jnp.zeros((1, window, window, len(network.parts.names)))
        there = jax.jit(discriminator.init)(jax.random.key(config.seed), maps)["params"]
        params = {**params, "discriminator": there}

    def domain_losses(params: Any, on_source: Array, on_target: Array) -> tuple[Array, Array]:
        """(What the parser gains by target maps that look like source maps, what the discriminator is to lower)."""

        def said(weights: Any, logits: Array) -> Array:
            return cast(Array, discriminator.apply({"params": weights}, jax.nn.softmax(logits)))

        frozen, own = jax.lax.stop_gradient(params["discriminator"]), params["discriminator"]
        fooled = _domain_loss(said(frozen, on_target), 1.0)
        told_source, told_target = (
            _domain_loss(said(own, jax.lax.stop_gradient(logits)), domain)
            for logits, domain in ((on_source, 1.0), (on_target, 0.0))
        )
        return fooled, (told_source + told_target) / 2

    def loss(params: Any, _: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        source_key, look_key, target_key = jax.random.split(key, 3)
        source, _crops = augment.random_views(source_key, batch["source"], views, window, network.parts)
        source["image"] = change_look(look_key, source["image"], look)
        logits = enlarge(network.apply(params, source["image"]).logits, (window, window))
        segmentation = losses.cross_entropy(logits / settings.logit_temperature, source["parts"], weights)
        if not settings.adversary:
            return segmentation, {}
        target, _crops = augment.random_views(target_key, batch["target"], views, window, network.parts)
        on_target = enlarge(network.apply(params, target["image"]).logits, (window, window))
        fooled, told = domain_losses(params, logits, on_target)
        return segmentation + settings.adversary * fooled + told, {"adversary": fooled, "discriminator": told}

    trained = parser_optimizer(settings, steps)
    if settings.adversary:
        rate = optax.polynomial_schedule(1e-4, 0.0, 0.9, steps)
        kinds = {"encoder": "parser", "head": "parser", "discriminator": "discriminator"}
        trained = optax.multi_transform({"parser": trained, "discriminator": optax.adam(rate, 0.9, 0.99)}, kinds)
    return loop.Task(
        name="source",
        loss=loss,
        outputs=("adversary", "discriminator") if settings.adversary else (),
        params=params,
        constants={},
        inputs=inputs,
        optimizer=trained,
        schedule=optimizer.learning_rate(settings, steps),
        steps=steps,
        seed=config.seed,
        **loop.pace(settings),
    )


def _domain_loss(logits: Array, domain: float) -> Array:
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, domain)).mean()
