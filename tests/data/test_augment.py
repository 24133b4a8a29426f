import jax
import numpy as np
import pytest
from PIL import Image

from scemae_jax.data import augment
from scemae_jax.faces.frame import FRAME
from scemae_jax.faces.landmarks import scheme_of


def crops(corner, size, mirrored, output=96):
    return augment.Crops(np.float32([corner]), np.float32([size]), np.array([mirrored]), output)


def sample(seed, batch=64, **changes):
    settings = {"source": 136, "output": 96, "scale": (0.3, 0.9), "ratio": (0.8, 1.25), "flip": True, **changes}
    return augment.sample_crops(jax.random.key(seed), batch, **settings)


def marks(points, side=136, spread=4.0):
    """Images with one Gaussian blob each, at sub-pixel places (x, y)."""
    y, x = np.mgrid[:side, :side]
    squared = (x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2
    return np.exp(-squared / (2 * spread**2)).astype(np.float32)[..., None]


def centroids(images):
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    mass = images[..., 0] / images[..., 0].sum(axis=(1, 2), keepdims=True)
    return np.stack([(mass * x).sum(axis=(1, 2)), (mass * y).sum(axis=(1, 2))], axis=1)


def test_a_planted_mark_lands_where_to_output_says():
    boxes = sample(0, batch=32)
    assert 8 < np.asarray(boxes.mirrored).sum() < 24
    inside = np.random.default_rng(0).uniform(0.35, 0.65, (32, 2)) * boxes.size  # far from the edge: the blob is whole
    points = np.asarray(boxes.corner + inside)
    views = jax.jit(lambda images: augment.resize_crops(images, boxes))(marks(points))
    expected = boxes.to_output(points[:, None].astype(np.float32))[:, 0]
    assert np.abs(centroids(np.asarray(views)) - expected).max() < 0.1


def test_a_crop_of_the_window_is_the_centre_crop():
    images = np.random.default_rng(0).random((1, 136, 136, 3)).astype(np.float32)
    expected = images[:, 20:116, 20:116]
    np.testing.assert_array_equal(FRAME.centre_window(images), expected)
    for mirrored in (False, True):
        view = augment.resize_crops(images, crops((20, 20), (96, 96), mirrored))
        np.testing.assert_allclose(view, expected[:, :, ::-1] if mirrored else expected, atol=1e-5)


def test_mirroring_a_crop_moves_points_to_the_other_side():
    """Pixel centres: 0 and 95 of 96 change places; the eyes of five points swap, the nose stays third."""
    points = np.float32([[[20, 20], [115, 30], [60, 50], [50, 80], [70, 90]]])
    plain = crops((20, 20), (96, 96), False).to_output(points)
    np.testing.assert_allclose(plain, points - 20, atol=1e-5)
    mirrored = crops((20, 20), (96, 96), True).to_output(points)
    np.testing.assert_allclose(mirrored[0], [[0, 10], [95, 0], [55, 30], [45, 70], [65, 60]], atol=1e-5)


@pytest.mark.parametrize("count", [5, 68, 3])
def test_to_source_undoes_to_output(count):
    """Up to the order of mirrored landmarks, where one is known."""
    boxes = sample(1, batch=16)
    points = np.random.default_rng(0).uniform(0, 135, (16, count, 2)).astype(np.float32)
    back = np.array(boxes.to_source(boxes.to_output(points)))
    if count != 3:
        flipped = np.asarray(boxes.mirrored)
        back[flipped] = back[flipped][:, scheme_of(count).mirrored_order()]
    np.testing.assert_allclose(back, points, atol=1e-3)


def test_missing_landmarks_stay_missing():
    points = np.full((1, 5, 2), np.nan, np.float32)
    points[0, 0] = 30
    out = np.asarray(crops((0, 0), (136, 136), True).to_output(points))
    assert np.isfinite(out[0, 1]).all()
    assert np.isnan(out[0, [0, 2, 3, 4]]).all()


def test_boxes_lie_in_the_image_and_have_the_area_asked_for():
    boxes = sample(2, batch=2000)
    corner, size = np.asarray(boxes.corner), np.asarray(boxes.size)
    assert (corner >= 0).all()
    assert (corner + size <= 136 + 1e-3).all()
    area, ratio = size.prod(axis=1) / 136**2, size[:, 0] / size[:, 1]
    uncut = (size < 136).all(axis=1)
    assert 0.3 - 1e-4 < area.min() < 0.32
    assert 0.85 < area.max() < 0.9 + 1e-4
    assert 0.8 - 1e-4 < ratio[uncut].min() < 0.82
    assert 1.22 < ratio[uncut].max() < 1.25 + 1e-4
    assert abs(np.asarray(boxes.mirrored).mean() - 0.5) < 0.05
    assert not np.asarray(sample(2, flip=False).mirrored).any()


@pytest.mark.parametrize("output", [96, 200])
def test_resizing_the_whole_image_equals_pillow(output):
    image = np.random.default_rng(0).random((136, 136)).astype(np.float32)
    view = augment.resize_crops(image[None, ..., None], crops((0, 0), (136, 136), False, output))
    expected = Image.fromarray(image).resize((output, output), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(view[0, ..., 0], np.asarray(expected), atol=1e-4)


def test_jitter_changes_brightness_contrast_and_saturation_within_bounds():
    """The three factors, read back from mean, spread and chroma of the grey value, and put into the formula."""
    images = np.random.default_rng(0).uniform(0.4, 0.6, (200, 4, 4, 3)).astype(np.float32)
    jittered = np.asarray(augment.colour_jitter(jax.random.key(0), images, 0.2), np.float64)
    luma = np.array([0.299, 0.587, 0.114])
    before, after = images.astype(np.float64), jittered
    grey, grey_after = before @ luma, after @ luma
    brightness = grey_after.mean(axis=(1, 2)) / grey.mean(axis=(1, 2))
    contrast = grey_after.std(axis=(1, 2)) / grey.std(axis=(1, 2)) / brightness
    chroma = (before - grey[..., None]).std(axis=(1, 2, 3))
    saturation = (after - grey_after[..., None]).std(axis=(1, 2, 3)) / chroma / brightness / contrast
    for factor in (brightness, contrast, saturation):
        assert 0.8 - 1e-4 < factor.min() < 0.83
        assert 1.17 < factor.max() < 1.2 + 1e-4
    b, c, s = (factor[:, None, None] for factor in (brightness, contrast, saturation))
    expected_grey = b * (grey.mean(axis=(1, 2), keepdims=True) * (1 - c) + c * grey)
    expected = expected_grey[..., None] + (b * c * s)[..., None] * (before - grey[..., None])
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_no_jitter_is_the_identity_and_strong_jitter_stays_in_range():
    images = np.random.default_rng(0).random((8, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(augment.colour_jitter(jax.random.key(0), images, 0.0), images, atol=1e-6)
    strong = np.asarray(augment.colour_jitter(jax.random.key(0), images, 0.9))
    assert strong.min() >= 0
    assert strong.max() <= 1
