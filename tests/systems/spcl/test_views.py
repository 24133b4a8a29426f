"""The look of images: what each setting changes, and of how many."""

import jax
import numpy as np
import pytest

from scemae_jax.systems.spcl.settings import look
from scemae_jax.systems.spcl.views import change_look


@pytest.fixture(scope="module")
def images():
    smooth = np.linspace(0.2, 0.6, 16, dtype=np.float32)
    return np.broadcast_to(smooth[None, :, None, None], (64, 16, 16, 3))


def changed(images, **settings):
    return np.asarray(change_look(jax.random.key(0), images, look(**settings)))


def test_without_settings_images_stay(images):
    np.testing.assert_array_equal(changed(images), images)


def test_a_tint_multiplies_each_channel_of_each_image_by_a_number_of_its_own(images):
    factors = changed(images, tint=0.3) / images
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1], factors.shape), rtol=1e-5)
    assert len(np.unique(factors[:, 0, 0].round(5))) > 150
    assert 0.7 <= factors.min() < 0.75
    assert 1.25 < factors.max() <= 1.3


@pytest.mark.parametrize("setting", [{"noise": 0.1}, {"blur": 1.5}])
def test_half_of_the_images_get_noise_or_blur(images, setting):
    different = (changed(images, **setting) != images).any(axis=(1, 2, 3))
    assert 16 < different.sum() < 48


def test_noise_is_as_wide_as_its_setting_allows(images):
    widths = (changed(images, noise=0.1) - images).std(axis=(1, 2, 3))
    assert 0.08 < widths.max() < 0.105
