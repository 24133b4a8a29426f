"""Models of other sizes, end to end: larger images and window, larger patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scemae_jax
from scemae_jax.data.record import Faces
from scemae_jax.evaluation import matching
from scemae_jax.evaluation.attention import attentive_near_landmarks
from scemae_jax.faces.frame import Frame
from scemae_jax.model import Model

LARGER = Frame(image_size=184, window=128)


@pytest.fixture(scope="module", params=[(LARGER, "XXS/8"), (Frame(), "XXS/16"), (LARGER, "XXS/16")], ids=str)
def model(request, small_architecture, random_params):
    """Random weights."""
    frame, encoder = request.param
    architecture = dataclasses.replace(small_architecture, frame=frame, encoder=encoder)
    windows = np.zeros((1, frame.window, frame.window, 3), np.float32)
    return Model(architecture=architecture, params=random_params(architecture.build_carb(), windows, method="features"))


def noise(count, side, seed):
    """Smooth pictures that are alike nowhere."""
    coarse = np.random.default_rng(seed).random((count, 16, 16, 3)).astype(np.float32)
    return np.clip(np.asarray(jax.image.resize(coarse, (count, side, side, 3), "cubic")), 0, 1)


def test_features_are_those_of_the_centre_window(model):
    """At the patch's own stride the encoder's of the window; a finer map has the window divided by the stride."""
    architecture, frame = model.architecture, model.architecture.frame
    images = noise(2, frame.image_size, 0)
    offset = {184: 28, 136: 20}[frame.image_size]
    window = images[:, offset : offset + frame.window, offset : offset + frame.window]
    encoder = architecture.build_encoder()
    normalised = (window - np.array(architecture.mean)) / np.array(architecture.std)
    tokens = jax.jit(encoder.apply)({"params": model.params["encoder"]}, jnp.asarray(normalised, jnp.float32))[:, 1:]
    side = frame.window // architecture.variant.patch_size
    found = model.features(images, architecture.variant.patch_size, "backbone")
    np.testing.assert_allclose(found, tokens.reshape(2, side, side, -1), atol=1e-4)
    assert model.features(images, 4).shape == (2, frame.window // 4, frame.window // 4, 16)


def test_a_fitted_head_finds_its_marks(model):
    """A white mark on noise, in images of the model's own size and of twice that."""
    size = model.architecture.frame.image_size
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:size, :size]
    points = rng.uniform(0.4, 0.6, (60, 1, 2)) * size
    squared = (x - points[:, 0, 0, None, None]) ** 2 + (y - points[:, 0, 1, None, None]) ** 2
    images = (255 * np.exp(-squared / 800))[..., None].repeat(3, axis=-1).astype(np.uint8)
    fitted = scemae_jax.fit_detector(
        model, images[:40], points[:40], stride=model.architecture.variant.patch_size, mirror=False,
        linear={"which": "backbone", "views": 40},
    )  # fmt: skip
    found = fitted.detect(images[40:])
    guessed = np.abs(points[:40].mean(axis=0) - points[40:]).mean()
    assert np.abs(found - points[40:]).mean() < guessed / 3
    twice = images[40:].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(fitted.detect(twice), 2 * found + 0.5, atol=0.2 * guessed)


def test_points_are_found_in_the_same_picture(model):
    """Each at its own whole pixel of the window."""
    frame = model.architecture.frame
    (image,) = noise(1, frame.image_size, 1)
    points = np.random.default_rng(0).integers(frame.offset + 8, frame.offset + frame.window - 8, (5, 2))
    found = scemae_jax.match(model, image, points.astype(np.float32), image)
    np.testing.assert_allclose(found, points, atol=1)


@pytest.mark.parametrize("frame", [LARGER, Frame()])
def test_matching_finds_marked_places_in_warped_views(frame):
    """Colours that change with the place of the picture, read pixel by pixel, lead to the truth.

    The unit is the same share of the window: a pixel of a window of 128 is 70 / 128 of it.
    """
    y, x = np.mgrid[: frame.image_size, : frame.image_size] / frame.image_size
    images = (255 * np.stack([x, y, np.full_like(x, 0.5)], axis=-1))[None].repeat(4, axis=0).astype(np.uint8)
    landmarks = np.random.default_rng(0).uniform(0.35, 0.65, (4, 6, 2)).astype(np.float32) * frame.image_size
    faces = Faces(images=images, landmarks=landmarks, subjects=np.arange(4))
    pairs = matching.consecutive_pairs(4)
    features = {"colours": lambda views: jnp.asarray(frame.centre_window(views)), "own": None}
    found = matching.match(faces, features, pairs=pairs, seed=0, frame=frame)
    assert found[matching.Kind("colours")].same.mean() < 0.8
    assert found[matching.Kind("own")].same.mean() > 2
    three_pixels = matching.matching_error(np.zeros(2), np.array([0.0, 3.0]), frame.window)
    assert float(three_pixels) == pytest.approx(3 * 70 / frame.window)


def test_patches_near_a_landmark_are_counted_in_the_image(model):
    """A landmark at the centre of one patch, in the fourth row and column of the window: no other centre is near."""
    frame, patch_size = model.architecture.frame, model.architecture.variant.patch_size
    landmark = frame.offset + 3 * patch_size + (patch_size - 1) / 2
    images = (255 * noise(2, frame.image_size, 2)).astype(np.uint8)
    faces = Faces(images=images, landmarks=np.full((2, 1, 2), landmark, np.float32), subjects=np.arange(2))
    _, found = attentive_near_landmarks(model, faces)
    assert found.value == pytest.approx((patch_size / frame.window) ** 2)
