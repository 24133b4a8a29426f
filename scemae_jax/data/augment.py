"""Augmentation on the accelerator: random resized crop, flip, colour jitter. Pure, jit-able, batched.

Images, landmarks and masks move together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Num, UInt8

from scemae_jax.data.record import MASKS
from scemae_jax.faces.landmarks import scheme_of
from scemae_jax.faces.parts import DRAWN, IGNORED, PartScheme

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
        return self._renumber(points, flipped) - 0.5

    def visible_in_output(self, visible: Bool[Array, "b l"]) -> Bool[Array, "b l"]:
        """Whether nothing hides each landmark; those of mirrored images are renumbered. The crop does not count."""
        return self._renumber(visible, visible)

    def _renumber(self, plain: Array, flipped: Array) -> Array:
        """Values by landmark: `plain` of an image that is not mirrored, else `flipped` in the mirror images' order."""
        scheme = scheme_of(plain.shape[1])
        if scheme.mirror is not None:
            flipped = flipped[:, scheme.mirrored_order()]
        return jnp.where(self.mirrored.reshape(-1, *[1] * (plain.ndim - 1)), flipped, plain)

    def masks_to_output(self, masks: UInt8[Array, "b h w"], parts: PartScheme | None = None) -> UInt8[Array, "b o o"]:
        """Masks of the source images as masks of the output: the nearest pixel, and outside the image `IGNORED`.

        With `parts`, left and right parts change places in mirrored images.
        """
        diagonal = jnp.broadcast_to(jnp.arange(self.output)[:, None], (self.output, 2))
        nearest = jnp.floor(self.to_source(jnp.broadcast_to(diagonal, (len(masks), *diagonal.shape))) + 0.5)
        columns, rows = jnp.moveaxis(nearest.astype(jnp.int32), -1, 0)
        found = jax.vmap(lambda mask, y, x: mask.at[y[:, None], x].get(mode="clip"))(masks, rows, columns)
        if parts is not None:
            mirrored = jnp.asarray(parts.mirrored_values())[found]
            found = jnp.where(self.mirrored[:, None, None], mirrored, found)
        inside = [(at >= 0) & (at < side) for at, side in ((rows, masks.shape[1]), (columns, masks.shape[2]))]
        return jnp.where(inside[0][:, :, None] & inside[1][:, None], found, IGNORED).astype(jnp.uint8)


def sample_crops(
    key: Key[Array, ""],
    batch: int,
    *,
    source: tuple[int, int],
    output: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = False,
) -> Crops:
    """Boxes for a random resized crop.

    Args:
      source: height and width of the source images, in pixels.
      output: side of the crops after resizing.
      scale: least and greatest area of the box, as a share of the image.
      ratio: least and greatest width over height.
      flip: mirror half of the crops.
    """
    area_key, ratio_key, corner_key, flip_key = jax.random.split(key, 4)
    whole = np.array(source[::-1], np.float32)
    area = jax.random.uniform(area_key, (batch,), minval=scale[0], maxval=scale[1]) * (source[0] * source[1])
    aspect = jnp.exp(jax.random.uniform(ratio_key, (batch,), minval=np.log(ratio[0]), maxval=np.log(ratio[1])))
    size = jnp.minimum(jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], axis=1), whole)
    corner = jax.random.uniform(corner_key, (batch, 2)) * (whole - size)
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


def move(batch: Mapping[str, Array], crops: Crops, parts: PartScheme = DRAWN) -> dict[str, Array]:
    """A batch as crops show it: images (float32, of the scale that they have), landmarks and masks.

    What has no place in the image stays as it is.

    Args:
      batch: by the names of `data.record.Field`, and "image".
      parts: the scheme of the part masks.
    """
    moved = dict(batch)
    if "image" in batch:
        moved["image"] = resize_crops(batch["image"].astype(jnp.float32), crops)
    if "landmarks" in batch:
        moved["landmarks"] = crops.to_output(batch["landmarks"])
    if "visible" in batch:
        moved["visible"] = crops.visible_in_output(batch["visible"])
    for name in MASKS:
        if name in batch:
            moved[name] = crops.masks_to_output(batch[name], parts if name == "parts" else None)
    return moved


def random_views(
    key: Key[Array, ""], batch: Mapping[str, Array], settings: Any, output: int, parts: PartScheme = DRAWN
) -> tuple[dict[str, Array], Crops]:
    """A random crop of each example of a batch, all its fields moved, and where the crops were.

    Args:
      batch: uint8 images, with the fields that were asked for.
      settings: crop_scale, crop_ratio, flip and jitter, as in `config.training`.
      output: side of the views, in pixels.
      parts: the scheme of the part masks.

    Returns:
      The batch, its images in [0, 1], and the crops.

    Raises:
      ValueError: images are to be flipped, and it is not known which of their landmarks mirror which.
    """
    crop_key, jitter_key = jax.random.split(key)
    images = batch["image"]
    for name in {"landmarks", "visible"} & batch.keys() if settings.flip else ():
        scheme_of(batch[name].shape[1]).mirrored_order()  # raises if it is not known which landmarks change places
    crops = sample_crops(
        crop_key, len(images), source=(images.shape[1], images.shape[2]), output=output,
        scale=tuple(settings.crop_scale), ratio=tuple(settings.crop_ratio), flip=settings.flip,
    )  # fmt: skip
    views = move({**batch, "image": images.astype(jnp.float32) / 255.0}, crops, parts)
    views["image"] = jnp.clip(views["image"], 0, 1)
    if settings.jitter:
        views["image"] = colour_jitter(jitter_key, views["image"], settings.jitter)
    return views, crops
