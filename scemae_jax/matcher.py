"""Landmarks of one face found in another, by their features alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from scemae_jax.evaluation.matching import predict_matches
from scemae_jax.model import IMAGE_SIZE, WINDOW, Model


def match(
    model: Model,
    image: Num[np.ndarray, "h w 3"],
    points: Float[np.ndarray, "l 2"],
    other: Num[np.ndarray, "h w 3"],
    stride: int = 4,
) -> Float[np.ndarray, "l 2"]:
    """Where the `points` (x, y) of an image are in another image of the same size, in pixels.

    The answer is the pixel of the other's centre window whose projected feature is most alike (cosine similarity).

    Raises:
      ValueError: the images differ in size; or as `Model.features`.
    """
    if np.shape(image) != np.shape(other):
        raise ValueError(f"the images have shapes {np.shape(image)} and {np.shape(other)}: resize one to the other")
    which = "projected" if model.refined else "backbone"
    maps = model.features(np.stack([image, other]), stride, which)
    to_square = np.array([IMAGE_SIZE / image.shape[1], IMAGE_SIZE / image.shape[0]], np.float32)
    offset = (IMAGE_SIZE - WINDOW) // 2
    queries = (np.asarray(points, np.float32) + 0.5) * to_square - 0.5 - offset
    found = np.asarray(predict_matches(maps[0], maps[1], jnp.asarray(queries)))
    return (found + offset + 0.5) / to_square - 0.5
