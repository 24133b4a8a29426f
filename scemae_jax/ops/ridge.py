"""Ridge regression with a penalty that follows how features vary: for few annotations and many unlabelled images."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_HIGHEST = jax.lax.Precision.HIGHEST
_NEGLIGIBLE = 1e-6
"""Directions with less than this share of the largest variance are left out: they are float32's rounding error."""


class Linear(NamedTuple):
    """The function `features @ kernel + bias`."""

    kernel: Float[Array, "d o"]
    bias: Float[Array, "o"]


@jax.jit
def ridge(
    features: Float[Array, "n d"],
    targets: Float[Array, "n o"],
    unlabelled: Float[Array, "m d"],
    *,
    exponent: float | Float[Array, ""],
    strength: float | Float[Array, ""],
) -> Linear:
    """Linear regression in the directions in which unlabelled features vary; it prefers directions of large variance.

    With S the covariance of `unlabelled`, v its eigenvalues and z the features along its eigenvectors times v^exponent,
    the regression on z minimises

        mean_n |target_n - W (z_n - mean z) - mean target|^2 + strength * sum(v^(1 + 2 exponent)) * |W|^2.

    The second sum is the mean squared length of the scaled unlabelled features, so that `strength` has no unit. An
    exponent of 0 is ordinary ridge regression. A positive one assumes that the targets follow what makes features vary
    most; a few images cannot tell this for thousands of dimensions.

    Args:
      features: annotated, any number of them.
      targets: what they are to predict.
      unlabelled: at least two; directions in which none of them varies are left out.
      exponent: of the eigenvalues.
      strength: of the penalty.
    """
    centre = unlabelled.mean(axis=0)
    spread = unlabelled - centre
    variances, vectors = jnp.linalg.eigh(jnp.matmul(spread, spread.T, precision=_HIGHEST) / len(unlabelled))
    known = variances > _NEGLIGIBLE * variances[-1]
    variances = jnp.where(known, variances, 1.0)
    scales = jnp.where(known, variances**exponent, 0.0)
    # The Gram matrix has the eigenvalues of the covariance; its eigenvectors give the directions in feature space.
    along = vectors * (scales / jnp.sqrt(variances * len(unlabelled)))
    directions = jnp.matmul(spread.T, along, precision=_HIGHEST)  # [d, m]
    penalty = strength * jnp.sum(jnp.where(known, scales**2 * variances, 0.0))

    scaled = jnp.matmul(features - centre, directions, precision=_HIGHEST)
    middle, mean = scaled.mean(axis=0), targets.mean(axis=0)
    gram = jnp.matmul(scaled - middle, (scaled - middle).T, precision=_HIGHEST)
    dual = jax.scipy.linalg.solve(
        gram + len(features) * penalty * jnp.eye(len(features)), targets - mean, assume_a="pos"
    )
    weights = jnp.matmul((scaled - middle).T, dual, precision=_HIGHEST)
    kernel = jnp.matmul(directions, weights, precision=_HIGHEST)
    bias = mean - jnp.matmul(middle, weights, precision=_HIGHEST) - jnp.matmul(centre, kernel, precision=_HIGHEST)
    return Linear(kernel, bias)
