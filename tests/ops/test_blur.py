"""Gaussian blur against SciPy."""

import numpy as np
from scipy.ndimage import gaussian_filter

from scemae_jax.ops.blur import REACH, gaussian_blur


def test_blur_is_that_of_scipy():
    images = np.random.default_rng(0).random((3, 12, 15, 2)).astype(np.float32)
    sigma = np.array([0.0, 0.7, 1.5], np.float32)
    found = np.asarray(gaussian_blur(images, sigma))
    np.testing.assert_allclose(found[0], images[0], atol=1e-6)
    for image, width, blurred in zip(images[1:], sigma[1:], found[1:], strict=True):
        expected = gaussian_filter(image.astype(np.float64), (width, width, 0), mode="nearest", radius=REACH)
        np.testing.assert_allclose(blurred, expected, atol=1e-5)
