"""Images in the colours of others (Reinhard et al. 2001, by the channels of RGB)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def colour_transfer(images: Float[Array, "b h w 3"], colours_of: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Each image in [0, 1] with the mean and deviation of each channel that the other image has; cut to [0, 1]."""
    mean, other_mean = (x.mean(axis=(1, 2), keepdims=True) for x in (images, colours_of))
    deviation, other_deviation = (x.std(axis=(1, 2), keepdims=True) for x in (images, colours_of))
    return jnp.clip((images - mean) * other_deviation / jnp.maximum(deviation, 1e-3) + other_mean, 0, 1)
