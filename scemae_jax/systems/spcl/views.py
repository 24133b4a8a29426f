"""What SPCL's networks see of a batch beyond random crops: other colours, blur and noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from scemae_jax.config import Config
from scemae_jax.data import augment
from scemae_jax.ops.blur import gaussian_blur


def change_look(key: Key[Array, ""], images: Float[Array, "b h w 3"], settings: Config) -> Float[Array, "b h w 3"]:
    """Images in [0, 1] as another camera might have taken them.

    Args:
      settings: jitter, the strength of colour jitter; tint, by which each colour channel's brightness changes on its
        own; blur, the greatest deviation in pixels, and noise, the greatest deviation in [0, 1], each for half of the
        images.
    """
    jitter_key, tint_key, blur_key, noise_key = jax.random.split(key, 4)
    if settings.jitter:
        images = augment.colour_jitter(jitter_key, images, settings.jitter)
    if settings.tint:
        factors = jax.random.uniform(
            tint_key, (len(images), 1, 1, 3), minval=1 - settings.tint, maxval=1 + settings.tint
        )
        images = jnp.clip(images * factors, 0, 1)
    if settings.blur:
        images = gaussian_blur(images, _for_half(blur_key, len(images), settings.blur))
    if settings.noise:
        width_key, value_key = jax.random.split(noise_key)
        width = _for_half(width_key, len(images), settings.noise)
        images = jnp.clip(images + width[:, None, None, None] * jax.random.normal(value_key, images.shape), 0, 1)
    return images


def _for_half(key: Key[Array, ""], count: int, largest: float) -> Float[Array, " b"]:
    """For half of the images 0, for the others a number up to the largest."""
    value_key, chosen_key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, 0.5, (count,))
    return jnp.where(chosen, jax.random.uniform(value_key, (count,), maxval=largest), 0.0)
