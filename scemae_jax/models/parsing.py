"""Parts of every pixel: a head on the patch tokens of an encoder, and the parser that both make."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from scemae_jax.faces.frame import Frame, WholeImage
from scemae_jax.faces.parts import PartScheme
from scemae_jax.models import vit
from scemae_jax.models.architecture import Backbone


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
        return self.head(tokens.reshape(images.shape[0], side, side, -1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsingNetwork:
    """A parser and the images that it takes; hashable."""

    backbone: Backbone
    parts: PartScheme
    width: int
    """Channels of the head's features."""
    whole: bool = False
    """Images are scenes, which are seen whole, by windows; of faces the centre window counts."""

    @functools.cached_property
    def module(self) -> Parser:
        dtype = jnp.dtype(self.backbone.dtype)
        return Parser(self.backbone.build(), ParsingHead(len(self.parts.names), self.width, dtype=dtype))

    @property
    def window(self) -> int:
        return self.backbone.frame.window

    @property
    def frame(self) -> Frame | WholeImage:
        """The part of images, and of masks, on which the network is measured."""
        return WholeImage() if self.whole else self.backbone.frame

    def windows(self, images: Num[np.ndarray, "b h w c"]) -> Num[np.ndarray, "n s s c"]:
        """The windows that cover the part of images, or of masks, that is measured."""
        seen, side = self.frame.centre_window(images), self.window
        places = window_places(seen.shape[1], seen.shape[2], side)
        return np.concatenate([seen[:, top : top + side, left : left + side] for top, left in places])

    def initial_params(self, seed: int, encoder: Any) -> Any:
        """A random head on an encoder's parameters."""
        windows = jnp.zeros((1, self.window, self.window, 3))
        params = jax.jit(self.module.init)(jax.random.key(seed), windows)["params"]
        return {"encoder": encoder, "head": params["head"]}

    def apply(self, params: Any, windows: Float[Array, "b s s 3"]) -> Parsed:
        """Of windows in [0, 1]."""
        return cast(Parsed, self.module.apply({"params": params}, self.backbone.normalise(windows)))

    def probabilities(self, params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w k"]:
        """Of images in [0, 1] of any size, by windows."""

        def of_windows(windows: Array) -> Array:
            return jax.nn.softmax(enlarge(self.apply(params, windows).logits, (self.window, self.window)))

        return in_windows(of_windows, images, self.window)

    def of_squares(self, params: Any, images: Float[Array, "b s s 3"]) -> Float[Array, "b s s k"]:
        """Probabilities in the frame's squares, of images in [0, 1], from two views.

        One is the centre window. The other is all of the square, made as small as a window; outside the centre it
        decides alone, within it the mean of the two does. Crops of both scales are trained on. Windows at full size
        that cover the square would take twice as many passes.
        """
        frame, offset = self.backbone.frame, self.backbone.frame.offset
        count = images.shape[0]  # a number without a value where StableHLO is exported
        small = jax.image.resize(images, (count, self.window, self.window, 3), "linear")
        logits = self.apply(params, jnp.concatenate([frame.centre_window(images), small])).logits
        near = jax.nn.softmax(enlarge(logits[:count], (self.window, self.window)))
        far = jax.nn.softmax(enlarge(logits[count:], (frame.image_size, frame.image_size)))
        mean = (near + frame.centre_window(far)) / 2
        return jax.lax.dynamic_update_slice(far, mean, (0, offset, offset, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartParser:
    """A trained parser. Its encoder learnt with its head, so it is not the model's; both take the same images."""

    parts: PartScheme
    width: int
    """Channels of the head's features."""
    params: Any
    """`encoder` and `head`."""

    def network(self, backbone: Backbone) -> ParsingNetwork:
        return ParsingNetwork(backbone=backbone, parts=self.parts, width=self.width)

    def sizes(self) -> dict[str, Any]:
        """All but the weights, JSON-able; `of_sizes` makes the parser again."""
        return {"parts": dataclasses.asdict(self.parts), "width": self.width}

    @classmethod
    def of_sizes(cls, sizes: dict[str, Any], params: Any) -> PartParser:
        parts = sizes["parts"]
        scheme = PartScheme(names=tuple(parts["names"]), mirror=tuple(map(tuple, parts["mirror"])))
        return cls(parts=scheme, width=sizes["width"], params=params)


def enlarge(maps: Float[Array, "b h w k"], side: tuple[int, int]) -> Float[Array, "b h2 w2 k"]:
    """Bilinear, to (height, width)."""
    return jax.image.resize(maps, (maps.shape[0], *side, maps.shape[-1]), "linear")


def in_windows(
    function: Callable[[Float[Array, "b s s 3"]], Float[Array, "b s s k"]],
    images: Float[Array, "b h w 3"],
    window: int,
) -> Float[Array, "b h w k"]:
    """What a function gives of windows, slid over larger images: where windows overlap, their mean.

    It is traced once, for the same window of all images.

    Raises:
      ValueError: an image is smaller than the window.
    """
    height, width = images.shape[1:3]
    places = window_places(height, width, window)
    windows = jnp.stack([images[:, top : top + window, left : left + window] for top, left in places])
    total, count = jnp.zeros(()), np.zeros((height, width, 1), np.float32)
    for (top, left), found in zip(places, jax.lax.map(function, windows), strict=True):  # traced once
        padding = ((0, 0), (top, height - window - top), (left, width - window - left), (0, 0))
        total += jnp.pad(found, padding)
        count[top : top + window, left : left + window] += 1
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
