"""Landmark heads on frozen features: SCE-MAE's (section 4; the heatmap bottleneck of DVE), and a linear one."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scemae_jax.models import vit
from scemae_jax.ops.soft_argmax import soft_argmax


class LandmarkHead(nn.Module):
    """Per landmark, a convolution gives heatmaps, soft-argmax their points, a linear layer of its own the landmark.

    A kernel of 1 is the plain head of prior work; SCE-MAE's has spatial extent.
    """

    num_landmarks: int
    heatmaps_per_landmark: int = 50
    kernel_size: int = 3
    gain: float = 50.0

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b l 2"]:
        """Landmarks as (x, y), normalised to [-1, 1] over the feature map's window."""
        count = self.num_landmarks * self.heatmaps_per_landmark
        heatmaps = nn.Conv(count, (self.kernel_size,) * 2, kernel_init=vit.xavier_uniform, name="heatmaps")(features)
        points = soft_argmax(jnp.moveaxis(heatmaps, -1, 1), self.gain)
        points = points.reshape(len(features), self.num_landmarks, 2 * self.heatmaps_per_landmark)
        weights = self.param(
            "regressor",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=1, out_axis=2, batch_axis=0),
            (self.num_landmarks, points.shape[-1], 2),
        )
        bias = self.param("bias", nn.initializers.zeros, (self.num_landmarks, 2))
        return jnp.einsum("blp,lpo->blo", points, weights) + bias


class LinearHead(nn.Module):
    """Landmarks as a linear function of all features of the map: what few annotations can teach."""

    num_landmarks: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b l 2"]:
        """Landmarks as (x, y), normalised to [-1, 1] over the feature map's window."""
        flat = features.reshape(len(features), -1)
        return nn.Dense(2 * self.num_landmarks, name="linear")(flat).reshape(len(features), self.num_landmarks, 2)
