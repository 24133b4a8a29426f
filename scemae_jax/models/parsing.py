"""A head that gives every pixel its part, on the patch tokens of the backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from scemae_jax.models import vit


class Parsed(NamedTuple):
    """What the head gives, at four times the resolution of the patches."""

    features: Float[Array, "b h w c"]
    """What the classifier reads; prototypes live here."""
    logits: Float[Array, "b h w k"]


class ParsingHead(nn.Module):
    """LayerNorm and a dense layer; twice the resolution is doubled; then a linear classifier of each place.

    A doubling is a sub-pixel convolution (Shi et al. 2016), a 3x3 convolution and a group norm.
    """

    num_classes: int
    width: int = 64
    doublings: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b h w d"]) -> Parsed:
        """Of the patch tokens in their grid; features and logits are in float32."""
        x = nn.LayerNorm(epsilon=vit.LAYER_NORM_EPSILON, dtype=self.dtype, name="norm")(tokens)
        x = nn.Dense(self.width, dtype=self.dtype, name="reduce")(x)
        for number in range(self.doublings):
            x = nn.Dense(4 * self.width, dtype=self.dtype, name=f"expand_{number}")(x)
            x = nn.Conv(self.width, (3, 3), dtype=self.dtype, name=f"conv_{number}")(twice_the_resolution(x))
            x = nn.gelu(nn.GroupNorm(num_groups=8, dtype=self.dtype, name=f"group_norm_{number}")(x))
        features = x.astype(jnp.float32)
        return Parsed(features, nn.Dense(self.num_classes, name="classifier")(features))


def twice_the_resolution(x: Float[Array, "b h w 4*c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Each place's channels become four places of a quarter of them."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


class Parser(nn.Module):
    """An encoder and the head, which learn together: frozen features leave some points of accuracy."""

    encoder: vit.ViT
    head: ParsingHead

    def __call__(self, images: Float[Array, "b s s 3"]) -> Parsed:
        """Of normalised windows of the encoder's size."""
        tokens = self.encoder(images)[:, 1:]
        side = images.shape[1] // self.encoder.patch_size
        return self.head(tokens.reshape(len(images), side, side, -1))


def enlarge(maps: Float[Array, "b h w k"], side: tuple[int, int]) -> Float[Array, "b h2 w2 k"]:
    """Bilinear, to (height, width)."""
    return jax.image.resize(maps, (len(maps), *side, maps.shape[-1]), "linear")


def in_windows(
    function: Callable[[Float[Array, "b s s 3"]], Float[Array, "b s s k"]],
    images: Float[Array, "b h w 3"],
    window: int,
) -> Float[Array, "b h w k"]:
    """What a function gives of windows, slid over larger images: where windows overlap, their mean.

    It is called once, with the windows of all images.

    Raises:
      ValueError: an image is smaller than the window.
    """
    height, width = images.shape[1:3]
    places = window_places(height, width, window)
    windows = [images[:, top : top + window, left : left + window] for top, left in places]
    found = function(jnp.concatenate(windows)).reshape(len(places), len(images), window, window, -1)
    total, count = jnp.zeros((*images.shape[:3], found.shape[-1]), found.dtype), jnp.zeros((height, width, 1))
    for (top, left), part in zip(places, found, strict=True):
        total = total.at[:, top : top + window, left : left + window].add(part)
        count = count.at[top : top + window, left : left + window].add(1)
    return total / count


def window_places(height: int, width: int, window: int) -> list[tuple[int, int]]:
    """(top, left) of as few windows as cover an image, evenly spaced; neighbours overlap by a quarter at least.

    Raises:
      ValueError: the image is smaller than the window.
    """
    if min(height, width) < window:
        raise ValueError(f"images of {width}x{height} pixels are smaller than the window of {window}: enlarge them")
    return [(top, left) for top in _starts(height, window) for left in _starts(width, window)]


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin along an axis."""
    gaps = -(-(length - window) // (window - window // 4))
    return [round(number * (length - window) / gaps) for number in range(gaps + 1)] if gaps else [0]
