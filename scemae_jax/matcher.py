"""Landmarks of one face found in another, by their features alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from scemae_jax.evaluation.matching import predict_matches
from scemae_jax.model import Model, placement


def match(
    model: Model,
    image: Num[np.ndarray, "h w 3"],
    points: Float[np.ndarray, "l 2"],
    other: Num[np.ndarray, "h w 3"],
    stride: int = 4,
) -> Float[np.ndarray, "l 2"]:
    """Where the `points` (x, y) of an image are in another image of the same size.

    Both in pixels of the images, (0, 0) the centre of the top left one.
    The answer is the pixel of the other's centre window whose projected feature is most alike (cosine similarity).

    Raises:
      ValueError: the images differ in size; or as `Model.features`.
    """
    if np.shape(image) != np.shape(other):
        raise ValueError(f"the images have shapes {np.shape(image)} and {np.shape(other)}: resize one to the other")
    which = "projected" if model.refined else "backbone"
    images = np.stack([image, other])
    frame = model.architecture.frame
    maps, placed = model.features(images, stride, which), placement(images, frame)
    queries = frame.to_window(placed.to_square(np.asarray(points)))
    found = np.asarray(predict_matches(maps[0], maps[1], jnp.asarray(queries), window=frame.window))
    return placed.from_square(frame.from_window(found))
