"""Augmentation on the accelerator: random resized crop, flip, colour jitter. Pure, jit-able, batched."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from scemae_jax.faces.landmarks import scheme_of

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Crops(NamedTuple):
    """Boxes of the source image, in its pixels, that were stretched to the output; some mirrored."""

    corner: Float[Array, "b 2"]
    """(x, y) of the box's top left corner."""
    size: Float[Array, "b 2"]
    """Width and height of the box."""
    mirrored: Num[Array, "b"]
    output: int
    """Side of the output in pixels."""

    def to_source(self, points: Float[Array, "b l 2"]) -> Float[Array, "b l 2"]:
        """Points (x, y) of the output, in pixels, as points of the source image."""
        points = points + 0.5
        x = jnp.where(self.mirrored[:, None], self.output - points[..., 0], points[..., 0])
        points = jnp.stack([x, points[..., 1]], axis=-1)
        return points * (self.size / self.output)[:, None] + self.corner[:, None] - 0.5

    def to_output(self, points: Float[Array, "b l 2"]) -> Float[Array, "b l 2"]:
        """Points of the source image as points of the output; landmarks of mirrored images are renumbered."""
        points = (points + 0.5 - self.corner[:, None]) * (self.output / self.size)[:, None]
        flipped = jnp.stack([self.output - points[..., 0], points[..., 1]], axis=-1)
        scheme = scheme_of(points.shape[1])
        if scheme.mirror is not None:
            flipped = flipped[:, scheme.mirrored_order()]
        return jnp.where(self.mirrored[:, None, None], flipped, points) - 0.5


def sample_crops(
    key: Key[Array, ""],
    batch: int,
    *,
    source: int,
    output: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = False,
) -> Crops:
    """Boxes for a random resized crop.

    Args:
      source: side of the square source images, in pixels.
      output: side of the crops after resizing.
      scale: least and greatest area of the box, as a share of the image.
      ratio: least and greatest width over height.
      flip: mirror half of the crops.
    """
    area_key, ratio_key, corner_key, flip_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (batch,), minval=scale[0], maxval=scale[1]) * source**2
    aspect = jnp.exp(jax.random.uniform(ratio_key, (batch,), minval=np.log(ratio[0]), maxval=np.log(ratio[1])))
    size = jnp.minimum(jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], axis=1), float(source))
    corner = jax.random.uniform(corner_key, (batch, 2)) * (source - size)
    mirrored = jax.random.bernoulli(flip_key, 0.5 if flip else 0.0, (batch,))
    return Crops(corner, size, mirrored, output)


def resize_crops(images: Float[Array, "b h w c"], crops: Crops) -> Float[Array, "b o o c"]:
    """Cuts and resizes, bilinear and anti-aliased."""

    def one(image: Array, corner: Array, size: Array) -> Array:
        zoom = crops.output / size
        return jax.image.scale_and_translate(
            image, (crops.output, crops.output, image.shape[-1]), (0, 1), zoom[::-1], (-corner * zoom)[::-1], "linear"
        )

    resized = jax.vmap(one)(images, crops.corner, crops.size)
    return jnp.where(crops.mirrored[:, None, None, None], resized[:, :, ::-1], resized)


def colour_jitter(key: Key[Array, ""], images: Float[Array, "b h w 3"], strength: float) -> Float[Array, "b h w 3"]:
    """Brightness, contrast and saturation, each multiplied by a factor in `1 +- strength`; images in [0, 1]."""
    factors = 1 + jax.random.uniform(key, (3, len(images), 1, 1, 1), minval=-strength, maxval=strength)
    images = images * factors[0]
    mean = (images @ LUMA).mean(axis=(1, 2))[:, None, None, None]
    images = mean + (images - mean) * factors[1]
    grey = (images @ LUMA)[..., None]
    return jnp.clip(grey + (images - grey) * factors[2], 0, 1)
