"""How often labelled images come: those of rare classes more often, as in the released code of SPCL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from scemae_jax.data import pipeline


def by_class(sources: Sequence[pipeline.ExampleSource], num_classes: int) -> tuple[list[float], list[list[int]]]:
    """Reads all masks, and gives a group of images for each class that is there.

    Args:
      sources: examples with "parts".
      num_classes: classes of the masks.

    Returns:
      The share of each group in the stream, and the numbers of its images: those that have the class.
    """
    has = np.zeros((sum(map(len, sources)), num_classes), bool)

    def store(rows: slice, examples: dict[str, np.ndarray]) -> None:
        masks = examples["parts"]
        has[rows] = [np.bincount(mask.ravel(), minlength=256)[:num_classes] > 0 for mask in masks]

    pipeline.load_range(sources, 0, len(has), store)
    present = has.any(axis=0)
    return shares(has)[present].tolist(), [np.flatnonzero(column).tolist() for column in has.T[present]]


def shares(has: Bool[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """How often each class is drawn, in proportion to `1 / log(1.01 + p)`; 0 for a class that no image has.

    p is the class's share of the pairs of an image and a class that it has. The released code counts them among the
    images drawn so far, which brings the shares closer together.
    """
    count = has.sum(axis=0)
    weights = np.where(count > 0, 1 / np.log(1.01 + count / count.sum()), 0)
    return weights / weights.sum()
