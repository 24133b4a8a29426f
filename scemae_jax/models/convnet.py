"""A small convolutional network that detects landmarks without pretraining: the baseline for few annotations."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scemae_jax.models.heads import LinearHead

GROUPS = 8


class ConvNet(nn.Module):
    """Three convolutions of stride 2, a fourth that narrows, and a linear layer over all places."""

    num_landmarks: int
    width: int = 32
    """Channels of the first convolution; the next ones have twice and four times as many."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b l 2"]:
        """Landmarks as (x, y), normalised to [-1, 1] over the images (normalised, not raw pixels)."""
        hidden = images
        for factor in (1, 2, 4):
            hidden = nn.Conv(factor * self.width, (3, 3), strides=2)(hidden)
            hidden = nn.relu(nn.GroupNorm(GROUPS)(hidden))
        hidden = nn.relu(nn.Conv(2 * self.width, (1, 1))(hidden))
        return jnp.asarray(LinearHead(self.num_landmarks)(hidden))
