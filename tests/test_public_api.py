"""What `import scemae_jax` offers, used as the README says."""

import dataclasses

import numpy as np
import pytest

import scemae_jax
from scemae_jax.model import CHUNK, Model, as_square_images


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Blurred noise: something to see at every place, smooth enough for resizing."""
    noise = np.random.default_rng(0).uniform(size=(2, 17, 17, 3))
    return np.asarray(as_square_images((255 * noise).astype(np.uint8)) * 255).round().astype(np.uint8)


def without_projector(model: Model) -> Model:
    return dataclasses.replace(model, params={"encoder": model.params["encoder"]})


def test_names():
    for name in scemae_jax.__all__:
        assert getattr(scemae_jax, name) is not None
    assert scemae_jax.__version__.count(".") == 2


def test_features_have_the_promised_shapes(small_model, images):
    assert small_model.features(images).shape == (2, 12, 12, 16)
    assert small_model.features(images, stride=4, which="backbone").shape == (2, 24, 24, 48)
    assert small_model.features(images[:0], stride=4, which="both").shape == (0, 24, 24, 64)


def test_both_is_backbone_then_projected(small_model, images):
    both = small_model.features(images, which="both")
    np.testing.assert_allclose(both[..., :48], small_model.features(images, which="backbone"), atol=1e-5)
    np.testing.assert_allclose(both[..., 48:], small_model.features(images, which="projected"), atol=1e-5)


def test_floats_are_bytes_over_255(small_model, images):
    expected = small_model.features(images)
    np.testing.assert_allclose(small_model.features(images / 255), expected, atol=1e-4)


def test_only_the_centre_counts_at_the_patch_s_own_stride(small_model, images):
    framed = images.copy()
    framed[:, :20], framed[:, 116:], framed[:, :, :20], framed[:, :, 116:] = 0, 255, 9, 90
    np.testing.assert_array_equal(small_model.features(framed), small_model.features(images))


def test_images_do_not_depend_on_those_beside_them(small_model):
    many = np.random.default_rng(1).integers(0, 256, (CHUNK + 1, 136, 136, 3)).astype(np.uint8)
    features = small_model.features(many)
    assert features.shape[0] == CHUNK + 1
    for one in (0, CHUNK):
        np.testing.assert_allclose(features[one], small_model.features(many[one : one + 1])[0], atol=1e-5)


def test_images_of_other_sizes_are_resized(small_model, images):
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)  # averaged down, the very same image
    np.testing.assert_allclose(small_model.features(doubled), small_model.features(images), atol=0.05)
    assert small_model.features(images[:, ::2]).shape == (2, 12, 12, 16)


def test_images_that_are_none_are_refused(small_model, images):
    cases = {
        r"shape \(136, 136, 3\): a batch": images[0],
        r"shape \(2, 136, 136\)": images[..., 0],
        "type int64": images.astype(np.int64),
        r"range from \S+ to \d+: scale them": images.astype(np.float32),
        "range from nan": np.full((1, 136, 136, 3), np.nan),
    }
    for message, bad in cases.items():
        with pytest.raises(ValueError, match=message):
            small_model.features(bad)


def test_features_that_do_not_exist_are_refused(small_model, images):
    with pytest.raises(ValueError, match="which is 'cls': choose"):
        small_model.features(images, which="cls")
    with pytest.raises(ValueError, match="stride is 3, patch_size 8"):
        small_model.features(images, stride=3)
    unrefined = without_projector(small_model)
    assert unrefined.features(images, which="backbone").shape == (2, 12, 12, 48)
    with pytest.raises(ValueError, match="this model has none"):
        unrefined.features(images)


@pytest.mark.parametrize("refined", [True, False])
def test_a_point_is_found_again_in_the_same_image(small_model, images, refined):
    model = small_model if refined else without_projector(small_model)
    points = np.array([[24.0, 25], [111, 110], [60.4, 70.2], [40, 100]])
    found = scemae_jax.match(model, images[0], points, images[0])
    np.testing.assert_array_equal(found, points.round())  # no cosine is higher than that of a feature with itself


class Colour(Model):
    """A stand-in whose features are the window's colours."""

    def features(self, images, stride=4, which="projected"):
        return as_square_images(images).astype(np.float32)[:, 20:116, 20:116]


@pytest.mark.parametrize("scale", [1, 2])
def test_points_are_given_and_found_in_pixels_of_the_images(small_model, scale):
    rng = np.random.default_rng(0)
    scene = rng.integers(1, 256, (170, 170, 3)).astype(np.uint8)
    image, other = scene[10:146, 10:146], scene[14:150, 3:139]  # what is at (x, y) is at (x + 7, y - 4) in the other
    points = np.array([[30, 30], [100, 110], [67, 45]])
    big = [part.repeat(scale, axis=0).repeat(scale, axis=1) for part in (image, other)]
    model = Colour(architecture=small_model.architecture, params=small_model.params)
    found = scemae_jax.match(model, big[0], (points + 0.5) * scale - 0.5, big[1])
    np.testing.assert_allclose(found, (points + [7, -4] + 0.5) * scale - 0.5, atol=1e-4)


def test_images_to_match_are_of_one_size(small_model, images):
    with pytest.raises(ValueError, match=r"shapes \(136, 136, 3\) and \(136, 68, 3\)"):
        scemae_jax.match(small_model, images[0], np.zeros((1, 2)), images[1, :, :68])
