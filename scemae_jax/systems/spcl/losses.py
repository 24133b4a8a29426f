"""Cross-entropies of pixels: with hard labels or soft ones, all classes the same or rare ones more."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int, Integer, Num, UInt8


def class_weights(pixels: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """A weight for each class, by `1 / sqrt(its share of the pixels)`; 1 on the average over pixels.

    Args:
      pixels: how many each class has. One without any has the weight 0.
    """
    share = pixels / pixels.sum()
    weights = np.divide(1, np.sqrt(share), out=np.zeros(len(share)), where=share > 0)
    return weights / (share * weights).sum()


def class_weights_of(masks: UInt8[np.ndarray, "n h w"], names: Sequence[str]) -> Float[np.ndarray, " k"]:
    """`class_weights` of the pixels of masks; classes that they lack are said."""
    pixels = np.bincount(masks.ravel(), minlength=256)[: len(names)]
    if absent := [name for name, count in zip(names, pixels, strict=True) if not count]:
        logging.warning("no source mask has %s: nothing is learnt of it", ", ".join(absent))
    return class_weights(pixels).astype(np.float32)


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b h w"],
    weights: Num[Array | np.ndarray, " k"] | None = None,
) -> Float[Array, ""]:
    """Mean over the pixels whose label is a class; with `weights`, the mean that these give. 0 where there is none."""
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    weight = one_hot.sum(axis=-1) if weights is None else one_hot @ weights
    losses = -(one_hot * jax.nn.log_softmax(logits)).sum(axis=-1)
    return (weight * losses).sum() / jnp.maximum(weight.sum(), 1e-9)


def soft_cross_entropy(logits: Float[Array, "b h w k"], probabilities: Float[Array, "b h w k"]) -> Float[Array, ""]:
    """Mean over pixels, against a distribution at each, or zeros where nothing is known; no gradient reaches those.

    Distributions that are multiplied by a weight count by it.
    """
    targets = jax.lax.stop_gradient(probabilities)
    return -(targets * jax.nn.log_softmax(logits)).sum() / jnp.maximum(targets.sum(), 1e-9)
