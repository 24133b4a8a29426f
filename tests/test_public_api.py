"""What `import scemae_jax` offers, used as the README says (test_model.py holds the features themselves)."""

import dataclasses

import numpy as np
import pytest

import scemae_jax
from scemae_jax.model import Model, as_square_images


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Blurred noise: something to see at every place."""
    noise = np.random.default_rng(0).uniform(size=(2, 17, 17, 3))
    return np.asarray(as_square_images((255 * noise).astype(np.uint8)) * 255).round().astype(np.uint8)


def test_names():
    for name in scemae_jax.__all__:
        assert getattr(scemae_jax, name) is not None
    assert scemae_jax.__version__.count(".") == 2


@pytest.mark.parametrize("refined", [True, False])
def test_a_point_is_found_again_in_the_same_image(small_model, images, refined):
    encoder = {"encoder": small_model.params["encoder"]}
    model = small_model if refined else dataclasses.replace(small_model, params=encoder)
    points = np.array([[24.0, 25], [111, 110], [60.4, 70.2], [40, 100]])
    found = scemae_jax.match(model, images[0], points, images[0])
    np.testing.assert_array_equal(found, points.round())  # no cosine is higher than that of a feature with itself


class Colour(Model):
    """A stand-in whose features are the window's colours."""

    def device_features(self, images, stride=4, which="projected"):
        return as_square_images(images).astype(np.float32)[:, 20:116, 20:116]


@pytest.mark.parametrize(("scale", "left"), [(1, 0), (2, 0), (1, 34)])
def test_points_are_given_and_found_in_pixels_of_the_images(small_model, scale, left):
    rng = np.random.default_rng(0)
    scene = rng.integers(1, 256, (170, 170, 3)).astype(np.uint8)
    image, other = scene[10:146, 10:146], scene[14:150, 3:139]  # what is at (x, y) is at (x + 7, y - 4) in the other
    points = np.array([[45, 30], [90, 110], [67, 45]]) - [left, 0]
    big = [part[:, left : 136 - left].repeat(scale, axis=0).repeat(scale, axis=1) for part in (image, other)]
    model = Colour(architecture=small_model.architecture, params=small_model.params)
    found = scemae_jax.match(model, big[0], (points + 0.5) * scale - 0.5, big[1])
    np.testing.assert_allclose(found, (points + [7, -4] + 0.5) * scale - 0.5, atol=1e-4)


def test_images_to_match_are_of_one_size(small_model, images):
    with pytest.raises(ValueError, match=r"shapes \(136, 136, 3\) and \(136, 68, 3\)"):
        scemae_jax.match(small_model, images[0], np.zeros((1, 2)), images[1, :, :68])
