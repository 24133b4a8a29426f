"""How well parts are found: intersection over union, from sums over a set of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer


def confusion(
    predicted: Integer[np.ndarray, "*place"], truth: Integer[np.ndarray, "*place"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """Pixels by their true class (rows) and the predicted one (columns).

    Pixels whose true class is not among `0 .. num_classes - 1` (255, say) do not count.

    Raises:
      ValueError: the shapes differ, or a prediction is of no class.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted masks have the shape {predicted.shape}, true ones {truth.shape}: make them agree")
    counts = truth < num_classes
    found = predicted[counts].astype(np.int64)
    if len(found) and found.max() >= num_classes:
        raise ValueError(f"a prediction is of class {found.max()}: the classes are 0 to {num_classes - 1}")
    pairs = truth[counts].astype(np.int64) * num_classes + found
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusions(
    predicted: Integer[np.ndarray, "n *place"], truth: Integer[np.ndarray, "n *place"], num_classes: int
) -> Int[np.ndarray, "n k k"]:
    """The confusion of each image; their sum is that of the set.

    Raises:
      ValueError: as `confusion`.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted masks have the shape {predicted.shape}, true ones {truth.shape}: make them agree")
    found = [confusion(one, true, num_classes) for one, true in zip(predicted, truth, strict=True)]
    return np.array(found, np.int64).reshape(-1, num_classes, num_classes)


def merge(counts: Int[np.ndarray, "k k"], groups: Sequence[int]) -> Int[np.ndarray, "m m"]:
    """The confusion between groups of classes: `groups[k]` is the group of class k, -1 for one that does not count.

    Pixels of a true class that does not count are left out.

    Raises:
      ValueError: such a class was predicted where another is true: leave it out of the prediction's choice instead.
    """
    belongs = np.asarray(groups)
    if counts[belongs >= 0][:, belongs < 0].any():
        raise ValueError(f"classes {np.flatnonzero(belongs < 0).tolist()} do not count and were predicted all the same")
    member = (belongs[:, None] == np.arange(belongs.max() + 1)).astype(np.int64)
    return member.T @ counts @ member


def intersection_over_union(counts: Int[np.ndarray, "*set k k"]) -> Float[np.ndarray, "*set k"]:
    """Of each class, in percent: true positives over all pixels that are, or were said to be, of it.

    A class that no true pixel has is NaN, so that `np.nanmean` leaves it out.
    """
    right, true, said = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)
    union = true + said - right
    return np.where(true > 0, 100 * right / np.maximum(union, 1), np.nan)


def resampled(counts: Int[np.ndarray, "n k k"], *, repeats: int, seed: int) -> Float[np.ndarray, "r k"]:
    """Intersection over union of sets of n images drawn from these with replacement (the bootstrap, Efron 1979).

    Its deviation over the repeats is what another choice of such images would change.
    """
    draws = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), repeats)
    sums = draws @ counts.reshape(len(counts), -1)
    return intersection_over_union(sums.reshape(repeats, *counts.shape[1:]))


def inflation(counts: Int[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Predicted over true area of each class: above 1 where it grows into others; NaN where it is absent."""
    true = counts.sum(axis=1)
    return np.where(true > 0, counts.sum(axis=0) / np.maximum(true, 1), np.nan)
