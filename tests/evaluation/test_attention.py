"""The split's diagnostic, on landmarks whose patches are known."""

import numpy as np
import pytest

from scemae_jax.data.record import Faces
from scemae_jax.evaluation.attention import attentive_near_landmarks


def faces_with_landmarks_at(points: np.ndarray, count: int = 3) -> Faces:
    images = np.random.default_rng(0).integers(0, 255, (count, 136, 136, 3), np.uint8)
    landmarks = np.broadcast_to(points, (count, *points.shape)).astype(np.float32)
    return Faces(images=images, landmarks=landmarks, subjects=np.arange(count))


def shares_of(model, faces: Faces) -> tuple[float, float]:
    """Of the attentive patches, and of all."""
    attentive, everything = attentive_near_landmarks(model, faces, split="train")
    assert (attentive.method, everything.method) == ("attentive patches", "all patches")
    return attentive.value, everything.value


def test_landmarks_on_every_patch_or_on_none(small_model):
    grid = np.arange(12) * 8 + 3.5 + 20
    everywhere = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    shares = shares_of(small_model, faces_with_landmarks_at(everywhere))
    assert shares == (1.0, 1.0)
    shares = shares_of(small_model, faces_with_landmarks_at(np.array([[2.0, 2.0]])))
    assert shares == (0.0, 0.0)


def test_share_of_all_patches_is_counted_by_hand(small_model):
    """A landmark on a patch's centre is near that patch alone: its neighbours' centres are 8 pixels away."""
    shares = shares_of(small_model, faces_with_landmarks_at(np.array([[63.5, 71.5]])))
    assert shares[1] == pytest.approx(1 / 144)
    assert shares[0] in [pytest.approx(n / 3 / 14) for n in range(4)]
