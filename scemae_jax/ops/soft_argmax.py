"""Soft-argmax: the differentiable place of a heatmap's peak."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def soft_argmax(heatmaps: Float[Array, "*batch h w"], gain: float) -> Float[Array, "*batch 2"]:
    """Expected place under softmax(gain * heatmap), as the landmark head of DVE (ICCV 2019) reads its
    heatmaps.

    Args:
      heatmaps: any real values, h and w at least 2.
      gain: sharpness of the softmax; a large gain approaches the argmax.

    Returns:
      (x, y), normalised: pixel centres lie at 2x / (w - 1) - 1, hence the outer ones at -1 and 1.

    Raises:
      ValueError: h or w is below 2.
    """
    height, width = heatmaps.shape[-2:]
    if min(height, width) < 2:
        raise ValueError(f"heatmaps are {height}x{width}: normalised coordinates need 2 pixels a side or more")
    p = jax.nn.softmax(gain * heatmaps, axis=(-2, -1))
    x = jnp.sum(p.sum(axis=-2) * jnp.linspace(-1, 1, width, dtype=p.dtype), axis=-1)
    y = jnp.sum(p.sum(axis=-1) * jnp.linspace(-1, 1, height, dtype=p.dtype), axis=-1)
    return jnp.stack([x, y], axis=-1)
