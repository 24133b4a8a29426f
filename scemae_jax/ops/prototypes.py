"""Semantic prototypes: a vector for each class, and the contrast of pixels with them (SPCL, Xie et al., 2111.12358).

Labels are integers of any type; those outside `0 .. classes - 1` (255, say) are ignored. A prototype of zeros stands
for a class that was not seen yet.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

Features = Float[Array, "b *place c"]
Labels = Integer[Array, "b *place"]
Prototypes = Float[Array, "k c"]


class ClassSums(NamedTuple):
    """Sums by class. Sums over parts of a batch, or over devices, add up to those of the whole."""

    sums: Float[Array, "k c"]
    counts: Float[Array, " k"]

    def means(self) -> Float[Array, "k c"]:
        """Zeros where nothing was counted."""
        return self.sums / jnp.maximum(self.counts, 1)[:, None]


def unit(vectors: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
    """The vectors at length 1; zeros stay zeros, and have a gradient of zero."""
    square = (vectors**2).sum(axis=-1, keepdims=True)
    nonzero = square > 0
    return jnp.where(nonzero, vectors * jax.lax.rsqrt(jnp.where(nonzero, square, 1)), 0)


def pixel_sums(features: Features, labels: Labels, num_classes: int) -> ClassSums:
    """Sums of the unit features of each class's pixels, and how many they are."""
    return _sums(unit(features).reshape(-1, features.shape[-1]), labels.reshape(-1), num_classes)


def image_sums(features: Features, labels: Labels, num_classes: int) -> ClassSums:
    """Sums over images of the mean unit feature of each class, and how many images have the class."""
    one = jax.vmap(lambda f, y: _sums(f.reshape(-1, f.shape[-1]), y.reshape(-1), num_classes))
    found = one(unit(features), labels)
    return ClassSums(jax.vmap(ClassSums.means)(found).sum(axis=0), (found.counts > 0).sum(axis=0).astype(jnp.float32))


def _sums(features: Float[Array, "n c"], labels: Int[Array, " n"], num_classes: int) -> ClassSums:
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return ClassSums(one_hot.T @ features.astype(jnp.float32), one_hot.sum(axis=0))


def update(prototypes: Prototypes, seen: ClassSums, *, momentum: float, normalise: bool) -> Prototypes:
    """Moves the prototypes towards the means of what was seen: `momentum * P + (1 - momentum) * mean`.

    A class that was not seen stays as it is; one that is seen for the first time takes its mean. No gradient flows.

    Args:
      prototypes: those before.
      seen: what this step saw of each class.
      momentum: 0.1 in the released code, which forgets nine tenths at every step.
      normalise: bring prototypes back to unit length; else their lengths bias the classes.
    """
    means = jax.lax.stop_gradient(seen.means())
    means = unit(means) if normalise else means
    first = ~known(prototypes)[:, None]
    moved = jnp.where(first, means, momentum * prototypes + (1 - momentum) * means)
    moved = unit(moved) if normalise else moved
    return jnp.where(seen.counts[:, None] > 0, moved, prototypes)


def known(prototypes: Prototypes) -> Bool[Array, " k"]:
    """Which classes have a prototype."""
    return (prototypes != 0).any(axis=-1)


def contrastive_loss(
    features: Features,
    labels: Labels,
    prototypes: Prototypes,
    *,
    temperature: float,
    class_balanced: bool = False,
) -> Float[Array, ""]:
    """Cross-entropy of the pixels' classes under `softmax_k(<n(f), P_k> / temperature)`, over classes with a prototype.

    Args:
      features: of any length; their direction alone counts.
      labels: ignored pixels, and those of a class without a prototype, do not count.
      prototypes: of all classes.
      temperature: 100 in the released code, where it leaves hardly any contrast.
      class_balanced: each class that is there counts the same, instead of each pixel.

    Returns:
      The mean; 0 where no pixel counts.
    """
    num_classes = len(prototypes)
    there = known(prototypes)
    logits = unit(features).astype(jnp.float32) @ prototypes.T / temperature
    log_p = jax.nn.log_softmax(jnp.where(there, logits, -jnp.inf), where=there, axis=-1)
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32) * there
    losses = -jnp.where(one_hot > 0, log_p, 0).sum(axis=-1)
    if not class_balanced:
        return losses.sum() / jnp.maximum(one_hot.sum(), 1)
    places = tuple(range(labels.ndim))
    counts = one_hot.sum(axis=places)
    by_class = (losses[..., None] * one_hot).sum(axis=places) / jnp.maximum(counts, 1)
    return by_class.sum() / jnp.maximum((counts > 0).sum(), 1)


def cosines(features: Features, prototypes: Prototypes) -> Float[Array, "b *place k"]:
    """Of each pixel's feature with the prototypes; -2, below every cosine, for a class that has none."""
    found = unit(features).astype(jnp.float32) @ unit(prototypes).T
    return jnp.where(known(prototypes), found, -2.0)


def nearest_prototype(features: Features, prototypes: Prototypes) -> Int[Array, "b *place"]:
    """The class whose prototype has the greatest cosine with each pixel's feature."""
    return cosines(features, prototypes).argmax(axis=-1)


def largest_cosine(prototypes: Prototypes) -> Float[Array, ""]:
    """Between two prototypes: near 1 where classes have collapsed into one."""
    directions, there = unit(prototypes), known(prototypes)
    pairs = there[:, None] & there & ~jnp.eye(len(prototypes), dtype=bool)
    return jnp.where(pairs, directions @ directions.T, -1).max()
