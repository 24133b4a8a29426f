from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from scemae_jax.data import augment
from scemae_jax.faces.frame import FRAME
from scemae_jax.faces.landmarks import scheme_of
from scemae_jax.faces.parts import IGNORED, PartScheme


def crops(corner, size, mirrored, output=96):
    return augment.Crops(np.float32([corner]), np.float32([size]), np.array([mirrored]), output)


def sample(seed, batch=64, **changes):
    settings = {"source": (136, 136), "output": 96, "scale": (0.3, 0.9), "ratio": (0.8, 1.25), "flip": True, **changes}
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


def pixels(points, side=136):
    """Masks of zeros, in each one a pixel for each of its points (x, y): of value 1, 2, ..."""
    masks = np.zeros((len(points), side, side), np.uint8)
    for value in range(points.shape[1]):
        x, y = np.round(points[:, value]).astype(int).T
        masks[np.arange(len(points)), y, x] = value + 1
    return masks


@pytest.mark.parametrize("output", [136, 200])
def test_a_masks_pixel_and_the_landmark_on_it_go_to_the_same_place(output):
    boxes = sample(3, batch=32, output=output)  # enlarged, so that no pixel is lost
    places = np.random.default_rng(0).uniform([[0.2, 0.2], [0.5, 0.5], [0.8, 0.2]], [[0.4, 0.7], [0.7, 0.9], [1, 0.9]])
    points = np.round(boxes.corner[:, None] + places * (boxes.size[:, None] - 1)).astype(np.float32)
    batch = {"image": marks(points[:, 0]), "landmarks": points, "occluder": pixels(points)}
    found = jax.jit(lambda batch: augment.move(batch, boxes))(batch)
    assert found["occluder"].dtype == np.uint8
    assert not (np.asarray(found["occluder"]) == IGNORED).any()
    zoom = np.asarray(output / boxes.size)
    for value in (1, 2, 3):
        for mask, landmarks, z in zip(np.asarray(found["occluder"]), np.asarray(found["landmarks"]), zoom, strict=True):
            rows, columns = np.nonzero(mask == value)
            centre = np.array([columns.mean(), rows.mean()])
            assert len(rows) >= 1
            assert (np.abs(centre - landmarks[value - 1]) <= 0.5 * np.maximum(z, 1) + 0.01).all()


def test_square_views_of_a_wide_image_carry_its_pixels_and_labels():
    """An image of 48x96 whose colours are its columns and rows: every label says where the view's pixel came from."""
    rows, columns = np.mgrid[:48, :96].astype(np.uint8)
    images = np.broadcast_to(np.stack([2 * columns, 4 * rows, 0 * rows], axis=-1), (16, 48, 96, 3))
    settings = SimpleNamespace(crop_scale=(0.2, 0.9), crop_ratio=(0.8, 1.25), flip=True, jitter=0.0)
    batch = {"image": images, "parts": np.broadcast_to(columns, (16, 48, 96))}
    views, boxes = augment.random_views(jax.random.key(0), batch, settings, 32, PartScheme(names=("column",)))
    assert (np.asarray(boxes.corner + boxes.size) <= np.array([96, 48]) + 1e-3).all()
    assert np.asarray(boxes.corner + boxes.size)[:, 0].max() > 72  # the right quarter is seen too
    assert np.asarray(boxes.size)[:, 1].max() == 48
    inner = np.s_[:, 2:-2, 2:-2]  # the border of the image, where resizing repeats the outermost pixel
    found = np.asarray(views["image"])[..., 0] * 255 / 2
    assert np.abs(found - np.asarray(views["parts"]).astype(float))[inner].max() < 1.1


def test_masks_equal_pillows_nearest_neighbour():
    mask = np.random.default_rng(0).integers(0, 11, (1, 136, 136), np.uint8)
    for output in (96, 200):
        whole = crops((0, 0), (136, 136), False, output)
        expected = Image.fromarray(mask[0]).resize((output, output), Image.Resampling.NEAREST)
        differs = np.asarray(whole.masks_to_output(mask)[0]) != np.asarray(expected)
        assert differs.mean() < 0.02  # rounding, where a pixel's centre is at the edge of two
    part = crops((20, 30), (96, 96), True).masks_to_output(mask)
    np.testing.assert_array_equal(part, mask[:, 30:126, 20:116][:, :, ::-1])


def test_what_lies_outside_the_image_is_ignored():
    found = np.asarray(crops((-10, 120), (96, 96), False).masks_to_output(np.ones((1, 136, 136), np.uint8)))[0]
    assert (found[:16, 10:] == 1).all()
    assert (found[16:] == IGNORED).all()
    assert (found[:, :10] == IGNORED).all()


def test_in_a_mirrored_image_a_left_eye_is_a_right_one():
    """Mask, landmarks and visibility alike; what is not in the scheme, and occluders, keep their values."""
    scheme = PartScheme(names=("background", "left_eye", "right_eye", "nose"), mirror=(("left_eye", "right_eye"),))
    points = np.float32([[[30, 40], [100, 44], [60, 70], [50, 90], [80, 90]]] * 2)  # right eye, left eye, nose, mouth
    parts = pixels(points[:, [1, 0, 2]])  # 1: the left eye's pixel
    parts[:, 0, 0] = IGNORED
    batch = {
        "image": np.zeros((2, 136, 136, 3), np.float32),
        "landmarks": points,
        "visible": np.array([[True, False, True, True, True]] * 2),
        "parts": parts,
        "occluder": parts,
        "subject": np.array([7, 8], np.int32),
    }
    corner, size = np.zeros((2, 2), np.float32), np.full((2, 2), 136, np.float32)
    both = augment.Crops(corner, size, np.array([False, True]), 136)
    found = {name: np.asarray(values) for name, values in augment.move(batch, both, scheme).items()}
    for name in ("parts", "occluder", "visible", "subject"):
        np.testing.assert_array_equal(found[name][0], batch[name][0])
    (right, left), names = found["landmarks"][1, :2], scheme.names
    np.testing.assert_allclose([right, left], [[135 - 100, 44], [135 - 30, 40]])
    for point, name in ((right, "right_eye"), (left, "left_eye"), (found["landmarks"][1, 2], "nose")):
        x, y = np.round(point).astype(int)
        assert found["parts"][1, y, x] == names.index(name)
    assert found["parts"][1, 0, 135] == IGNORED
    np.testing.assert_array_equal(found["occluder"][1], parts[1, :, ::-1])
    assert found["visible"][1].tolist() == [False, True, True, True, True]
    np.testing.assert_array_equal(found["subject"], [7, 8])


def test_random_views_move_all_fields_by_the_same_crops():
    settings = SimpleNamespace(crop_scale=(0.3, 0.9), crop_ratio=(0.8, 1.25), flip=True, jitter=0.2)
    images = np.random.default_rng(0).integers(0, 256, (8, 136, 136, 3), np.uint8)
    points, key = np.random.default_rng(1).uniform(0, 135, (8, 5, 2)).astype(np.float32), jax.random.key(0)
    batch = {"image": images, "landmarks": points, "parts": images[..., 0] % 11}
    views, boxes = augment.random_views(key, batch, settings, 96)
    np.testing.assert_array_equal(views["landmarks"], boxes.to_output(points))
    np.testing.assert_array_equal(views["parts"], boxes.masks_to_output(batch["parts"]))
    assert views["image"].shape == (8, 96, 96, 3)
    assert 0 <= views["image"].min() < views["image"].max() <= 1
    alone, _ = augment.random_views(key, {"image": images}, settings, 96)  # the other fields change nothing
    np.testing.assert_array_equal(alone["image"], views["image"])


def test_landmarks_whose_mirror_images_are_not_known_are_not_flipped():
    batch = {"image": np.zeros((1, 136, 136, 3), np.uint8), "landmarks": np.zeros((1, 21, 2), np.float32)}
    settings = SimpleNamespace(crop_scale=(0.3, 0.9), crop_ratio=(0.8, 1.25), flip=True, jitter=0.0)
    with pytest.raises(ValueError, match="not 21: set flip=False"):
        augment.random_views(jax.random.key(0), batch, settings, 96)


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
