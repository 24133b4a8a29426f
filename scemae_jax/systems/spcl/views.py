"""What SPCL's networks see of a batch: random crops, and for the student stronger colours and blur."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from scemae_jax.config import Config
from scemae_jax.data import augment
from scemae_jax.ops.blur import gaussian_blur


def strengthen(key: Key[Array, ""], images: Float[Array, "b h w 3"], settings: Config) -> Float[Array, "b h w 3"]:
    """Strong colour jitter (`settings.jitter`), and for half of them blur, up to `settings.blur` pixels wide."""
    colour_key, blur_key, blurred_key = jax.random.split(key, 3)
    if settings.jitter:
        images = augment.colour_jitter(colour_key, images, settings.jitter)
    if settings.blur:
        sigma = jax.random.uniform(blur_key, (len(images),), maxval=settings.blur)
        blurred = jax.random.bernoulli(blurred_key, 0.5, (len(images),))
        images = gaussian_blur(images, jnp.where(blurred, sigma, 0.0))
    return images
