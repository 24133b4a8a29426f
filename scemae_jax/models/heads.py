"""Landmark heads on frozen features: SCE-MAE's (section 4), prior work's plain one, and a linear one."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer
from jaxtyping import Array, Float

from scemae_jax.models import vit
from scemae_jax.ops.soft_argmax import soft_argmax


class LandmarkHead(nn.Module):
    """Per landmark, a convolution gives heatmaps, soft-argmax their points, a linear layer of its own the landmark.

    SCE-MAE's convolution has spatial extent (section 4); prior work's is 1x1 (`prior_work_head`).
    """

    num_landmarks: int
    heatmaps_per_landmark: int = 50
    kernel_size: int = 3
    gain: float = 50.0
    """Of the heatmaps' softmax."""
    kernel_init: Initializer = vit.xavier_uniform
    """Of the convolution."""
    use_bias: bool = True
    """Of the convolution."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b l 2"]:
        """Landmarks as (x, y), normalised to [-1, 1] over the feature map's window."""
        count, kernel = self.num_landmarks * self.heatmaps_per_landmark, (self.kernel_size,) * 2
        heatmaps = nn.Conv(
            count, kernel, kernel_init=self.kernel_init, use_bias=self.use_bias, name="heatmaps"
        )(features)  # fmt: skip
        points = soft_argmax(jnp.moveaxis(heatmaps, -1, 1), self.gain)
        points = points.reshape(len(features), self.num_landmarks, 2 * self.heatmaps_per_landmark)
        weights = self.param(
            "regressor",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=1, out_axis=2, batch_axis=0),
            (self.num_landmarks, points.shape[-1], 2),
        )
        bias = self.param("bias", nn.initializers.zeros, (self.num_landmarks, 2))
        return jnp.einsum("blp,lpo->blo", points, weights) + bias


PRIOR_WORK_GAIN = 100.0
_standard_normal = nn.initializers.normal(1.0)


def prior_work_head(num_landmarks: int, heatmaps_per_landmark: int = 50) -> LandmarkHead:
    """The plain head of DVE (Thewlis et al., ICCV 2019) and ContrastLandmark (Cheng et al., ICCV 2021).

    A 1x1 convolution without bias, whose weights are drawn from N(0, 1), and a gain of 100.
    """
    return LandmarkHead(
        num_landmarks, heatmaps_per_landmark, 1, PRIOR_WORK_GAIN, kernel_init=_standard_normal, use_bias=False
    )


class LinearHead(nn.Module):
    """Landmarks as a linear function of all features of the map: what few annotations can teach."""

    num_landmarks: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b l 2"]:
        """Landmarks as (x, y), normalised to [-1, 1] over the feature map's window."""
        flat = features.reshape(len(features), -1)
        return nn.Dense(2 * self.num_landmarks, name="linear")(flat).reshape(len(features), self.num_landmarks, 2)
