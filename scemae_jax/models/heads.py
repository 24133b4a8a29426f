"""Landmark heads on frozen features: SCE-MAE's (section 4), prior work's plain one, and a linear one."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scemae_jax.models import vit
from scemae_jax.ops.soft_argmax import soft_argmax

Which = Literal["backbone", "projected", "both", "clustered"]
"""Features: see `Model.features`."""


class LandmarkHead(nn.Module):
    """Per landmark, a convolution gives heatmaps, soft-argmax their points, a linear layer of its own the landmark.

    SCE-MAE's convolution has spatial extent (section 4); prior work's is 1x1 (`prior_work_head`).
    """

    num_landmarks: int
    heatmaps: int = 50
    """Of each landmark."""
    kernel_size: int = 3
    gain: float = 50.0
    """Of the heatmaps' softmax."""
    prior_work: bool = False
    """The convolution has no bias, and its weights are drawn from N(0, 1)."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b l 2"]:
        """Landmarks as (x, y), normalised to [-1, 1] over the feature map's window."""
        heatmaps = nn.Conv(
            self.num_landmarks * self.heatmaps,
            (self.kernel_size, self.kernel_size),
            kernel_init=nn.initializers.normal(1.0) if self.prior_work else vit.xavier_uniform,
            use_bias=not self.prior_work,
            name="heatmaps",
        )(features)
        points = soft_argmax(jnp.moveaxis(heatmaps, -1, 1), self.gain)
        points = points.reshape(len(features), self.num_landmarks, 2 * self.heatmaps)
        weights = self.param(
            "regressor",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=1, out_axis=2, batch_axis=0),
            (self.num_landmarks, points.shape[-1], 2),
        )
        bias = self.param("bias", nn.initializers.zeros, (self.num_landmarks, 2))
        return jnp.einsum("blp,lpo->blo", points, weights) + bias


def prior_work_head(num_landmarks: int, heatmaps: int = 50) -> LandmarkHead:
    """The plain head of DVE (Thewlis et al., ICCV 2019) and ContrastLandmark (Cheng et al., ICCV 2021).

    A 1x1 convolution without bias, whose weights are drawn from N(0, 1), and a gain of 100.
    """
    return LandmarkHead(num_landmarks, heatmaps, 1, 100.0, prior_work=True)


class LinearHead(nn.Module):
    """Landmarks as a linear function of all features of the map: what few annotations can teach."""

    num_landmarks: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b l 2"]:
        """Landmarks as (x, y), normalised to [-1, 1] over the feature map's window."""
        flat = features.reshape(len(features), -1)
        return nn.Dense(2 * self.num_landmarks, name="linear")(flat).reshape(len(features), self.num_landmarks, 2)


@functools.partial(jax.jit, static_argnames="network")
def find(network: nn.Module, params: Any, inputs: Float[Array, "b h w c"]) -> Float[Array, "b l 2"]:
    """The landmarks that a network finds."""
    return cast(Array, network.apply({"params": params}, inputs))


KINDS: dict[str, type[LandmarkHead | LinearHead]] = {"heatmaps": LandmarkHead, "linear": LinearHead}
"""Networks of heads, by the name of their kind in results and files."""


class Reads(NamedTuple):
    """The features that a head reads: what `Model.features` is asked for."""

    stride: int
    which: Which
    projected_weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A trained head: its network, its weights, and the features that it reads."""

    network: LandmarkHead | LinearHead
    params: Any
    reads: Reads

    @property
    def kind(self) -> str:
        """A key of `KINDS`."""
        return next(kind for kind, network in KINDS.items() if isinstance(self.network, network))

    def sizes(self) -> dict[str, Any]:
        """All but the weights, JSON-able; `of_sizes` makes the head again."""
        fields = [field.name for field in dataclasses.fields(self.network) if field.name not in ("parent", "name")]
        network = {name: getattr(self.network, name) for name in fields}
        return {"kind": self.kind, "network": network, "reads": self.reads._asdict()}

    @classmethod
    def of_sizes(cls, sizes: dict[str, Any], params: Any) -> Head:
        return cls(network=KINDS[sizes["kind"]](**sizes["network"]), params=params, reads=Reads(**sizes["reads"]))
