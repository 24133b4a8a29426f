"""Landmark detection: errors by the protocol of prior work."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scemae_jax.evaluation.measurement import Measurement

METRIC = "detection error"


def inter_ocular_error(
    predicted: Float[Array | np.ndarray, "n l 2"], truth: Float[Array | np.ndarray, "n l 2"], eyes: tuple[int, int]
) -> Float[Array, "n"]:
    """Mean distance of each image's landmarks from the truth, in % of the distance between its two `eyes`."""
    predicted, truth = jnp.asarray(predicted), jnp.asarray(truth)
    distances = jnp.linalg.norm(predicted - truth, axis=-1).mean(axis=-1)
    return 100 * distances / jnp.linalg.norm(truth[:, eyes[0]] - truth[:, eyes[1]], axis=-1)


def box_diagonal_error(
    predicted: Float[Array | np.ndarray, "n l 2"], truth: Float[Array | np.ndarray, "n l 2"]
) -> Float[Array, "n"]:
    """Mean distance of each image's landmarks, in % of the diagonal of their true bounding box."""
    predicted, truth = jnp.asarray(predicted), jnp.asarray(truth)
    distances = jnp.linalg.norm(predicted - truth, axis=-1).mean(axis=-1)
    return 100 * distances / jnp.linalg.norm(truth.max(axis=1) - truth.min(axis=1), axis=-1)


def measure(
    predicted: Float[np.ndarray, "n l 2"],
    truth: Float[np.ndarray, "n l 2"],
    eyes: tuple[int, int] | None,
    **fields: Any,
) -> Measurement:
    """Mean, deviation over images and number of images; without known eyes, by the box's diagonal.

    Args:
      predicted: (x, y) of the landmarks.
      truth: the same.
      eyes: which two landmarks they are.
      fields: what else the row says.
    """
    errors = inter_ocular_error(predicted, truth, eyes) if eyes else box_diagonal_error(predicted, truth)
    return Measurement.of(
        metric=METRIC, value=float(errors.mean()), deviation=float(errors.std()), n=len(errors), unit=unit(eyes),
        landmarks=truth.shape[1], **fields,
    )  # fmt: skip


def unit(eyes: tuple[int, int] | None) -> str:
    return "% of the inter-ocular distance" if eyes else "% of the diagonal of the landmarks' box"
