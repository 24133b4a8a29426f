"""Finds a feature of one map in another, by cosine similarity of maps that are upsampled to the window."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

_HIGHEST = jax.lax.Precision.HIGHEST


def upsampled(features: Float[Array, "*b g g c"], window: int) -> Float[Array, "*b w w c"]:
    """A unit-length feature for each pixel of the window, by bilinear interpolation of the map."""
    return _of_unit_length(_resized(features, window))


def _resized(maps: Float[Array, "*b g g c"], window: int) -> Float[Array, "*b w w c"]:
    return jax.image.resize(maps, (*maps.shape[:-3], window, window, maps.shape[-1]), "linear")


def _of_unit_length(features: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def features_at(
    features: Float[Array, "g g c"], points: Num[Array | np.ndarray, "l 2"], window: int
) -> Float[Array, "l c"]:
    """The upsampled map at points (x, y) of the window; points are rounded and clipped to it."""
    x, y = jnp.clip(jnp.round(points), 0, window - 1).astype(jnp.int32).T
    weights = jax.image.resize(jnp.eye(len(features)), (window, len(features)), "linear")
    return _of_unit_length(jnp.einsum("lh,hwc,lw->lc", weights[y], features, weights[x], precision=_HIGHEST))


def predict_matches(
    reference: Float[Array, "g g c"],
    other: Float[Array, "h h c"],
    queries: Float[Array, "l 2"],
    window: int,
) -> Float[Array, "l 2"]:
    """For each query (x, y) of the window, the pixel of the other map with the highest cosine similarity.

    Maps are upsampled bilinearly to the window; queries are rounded and clipped to it. As interpolation is linear,
    inner products are computed with the features of the map and then upsampled. The lengths are those of the upsampled
    features.
    """
    products = jnp.einsum("hwc,lc->hwl", other, features_at(reference, queries, window), precision=_HIGHEST)
    lengths = jnp.linalg.norm(_resized(other, window), axis=-1, keepdims=True)
    similarity = _resized(products, window) / jnp.maximum(lengths, 1e-12)
    best = jnp.argmax(similarity.reshape(window * window, -1), axis=0)
    return jnp.stack([best % window, best // window], axis=-1).astype(jnp.float32)
