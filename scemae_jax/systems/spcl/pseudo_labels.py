"""Labels of target pixels from a network's own predictions, by a threshold for each class (SPCL, after CBST)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

IGNORE = 255
BINS = 4096
"""Of the histograms of confidences: thresholds are exact to 1 / BINS."""


def confidence_histograms(probabilities: Float[Array, "*place k"]) -> Int[Array, "k bins"]:
    """Of each class, how often its pixels (where it is the most probable) have which confidence.

    Histograms of batches add up to that of the set.
    """
    num_classes = probabilities.shape[-1]
    confidence, label = probabilities.max(axis=-1).reshape(-1), probabilities.argmax(axis=-1).reshape(-1)
    bins = jnp.clip((confidence * BINS).astype(jnp.int32), 0, BINS - 1)
    counts = jnp.zeros(num_classes * BINS, jnp.int32).at[label * BINS + bins].add(1)
    return counts.reshape(num_classes, BINS)


def class_thresholds(histograms: Int[np.ndarray, "k bins"], most: float = 0.9) -> Float[np.ndarray, " k"]:
    """Of each class, the median confidence of its pixels, or `most` where that is lower; `most` for an absent class."""
    totals = histograms.sum(axis=1, keepdims=True)
    middle = (np.cumsum(histograms, axis=1) * 2 < totals).sum(axis=1) / BINS  # lower edge of the median's bin
    return np.where(totals[:, 0] > 0, np.minimum(middle, most), most)


def pseudo_labels(probabilities: Float[Array, "*place k"], thresholds: Float[Array, " k"]) -> UInt8[Array, "*place"]:
    """The most probable class where its probability reaches the class's threshold, else `IGNORE`."""
    confidence, label = probabilities.max(axis=-1), probabilities.argmax(axis=-1)
    return jnp.where(confidence >= thresholds[label], label, IGNORE).astype(jnp.uint8)


def class_mix(key: Array, source_labels: Int[Array, "b h w"], num_classes: int) -> Array:
    """Which source pixels are pasted on the target: those of half of an image's classes (ClassMix, Olsson et al. 2021).

    Of an odd number of classes it is the larger half. Ignored pixels are not pasted.

    Returns:
      bool `[b, h, w]`.
    """
    keys = jax.random.split(key, len(source_labels))

    def one(key: Array, labels: Array) -> Array:
        there = jnp.zeros(num_classes, bool).at[jnp.minimum(labels, num_classes)].set(True, mode="drop")
        order = jnp.where(there, jax.random.uniform(key, (num_classes,)), jnp.inf)
        rank = jnp.argsort(jnp.argsort(order))
        chosen = there & (rank < (there.sum() + 1) // 2)
        return jnp.append(chosen, False)[jnp.minimum(labels, num_classes)]

    return jax.vmap(one)(keys, source_labels.astype(jnp.int32))
