"""A head that gives every pixel its part, on the patch tokens of the backbone."""

from __future__ import annotations

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


def enlarge(maps: Float[Array, "b h w k"], side: tuple[int, int]) -> Float[Array, "b h2 w2 k"]:
    """Bilinear, to (height, width)."""
    return jax.image.resize(maps, (len(maps), *side, maps.shape[-1]), "linear")
