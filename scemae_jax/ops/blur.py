"""Gaussian blur, of a width of its own for each image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

REACH = 4
"""Pixels on each side that the kernel has; beyond two of its deviations nothing of weight is left."""


def gaussian_blur(images: Float[Array, "b h w c"], sigma: Float[Array, " b"]) -> Float[Array, "b h w c"]:
    """Blurs along both axes; borders repeat their last pixel. A `sigma` of 0, in pixels, leaves an image as it is.

    Deviations above `REACH / 2` are those of a kernel that is cut off there.
    """
    offsets = jnp.arange(-REACH, REACH + 1)
    kernels = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    kernels /= kernels.sum(axis=1, keepdims=True)

    def along(axis: int, images: Array) -> Array:
        size = images.shape[axis]
        padding = [(REACH, REACH) if number == axis else (0, 0) for number in range(4)]
        padded = jnp.pad(images, padding, mode="edge")
        shifted = [jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(2 * REACH + 1)]
        return jnp.einsum("bk,kbhwc->bhwc", kernels, jnp.stack(shifted))

    return along(2, along(1, images))
