"""Colours of another image: mean and deviation by channel, against NumPy."""

import numpy as np

from scemae_jax.ops.colour_transfer import colour_transfer


def test_an_image_takes_the_means_and_deviations_of_the_other():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (3, 8, 9, 3)).astype(np.float32)
    others = rng.uniform(0.3, [0.5, 0.6, 0.9], (3, 7, 5, 3)).astype(np.float32)
    found = np.asarray(colour_transfer(images, others), np.float64)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), others.mean(axis=(1, 2), dtype=np.float64), atol=1e-3)
    np.testing.assert_allclose(found.std(axis=(1, 2)), others.std(axis=(1, 2), dtype=np.float64), atol=1e-3)


def test_an_image_of_one_colour_becomes_the_others_mean():
    grey = np.full((1, 4, 4, 3), 0.5, np.float32)
    other = np.random.default_rng(0).uniform(size=(1, 4, 4, 3)).astype(np.float32)
    found = np.asarray(colour_transfer(grey, other))
    np.testing.assert_allclose(found, np.broadcast_to(other.mean(axis=(1, 2), keepdims=True), found.shape), atol=1e-6)
