import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scemae_jax.ops.soft_argmax import soft_argmax


def test_equals_the_expectation_in_numpy():
    heatmaps = np.random.default_rng(0).normal(size=(2, 3, 5, 7))
    p = np.exp(2.5 * heatmaps)
    p /= p.sum(axis=(-2, -1), keepdims=True)
    expected = np.zeros((2, 3, 2))
    for y in range(5):
        for x in range(7):
            expected += p[:, :, y, x, None] * [2 * x / 6 - 1, 2 * y / 4 - 1]
    np.testing.assert_allclose(soft_argmax(heatmaps.astype(np.float32), 2.5), expected, atol=1e-6)


def test_a_high_gain_finds_the_peak():
    rng = np.random.default_rng(1)
    heatmaps = rng.uniform(0, 0.9, size=(20, 12, 16)).astype(np.float32)
    y, x = rng.integers(12, size=20), rng.integers(16, size=20)
    heatmaps[np.arange(20), y, x] = 1
    points = np.asarray(soft_argmax(heatmaps, 1000.0))
    np.testing.assert_allclose((points + 1) / 2 * [15, 11], np.stack([x, y], axis=1), atol=1e-4)


def test_gradients_are_finite_for_large_values():
    heatmaps = 1e6 * np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
    assert np.isfinite(soft_argmax(heatmaps, 100.0)).all()
    assert np.isfinite(jax.jacobian(soft_argmax)(heatmaps, 100.0)).all()


def test_a_heatmap_of_one_column_is_refused():
    with pytest.raises(ValueError, match="heatmaps are 5x1"):
        soft_argmax(jnp.zeros((5, 1)), 1.0)
