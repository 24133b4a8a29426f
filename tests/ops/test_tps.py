import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import map_coordinates

from scemae_jax.ops.tps import ThinPlateWarp, sample_bilinear

STILL = {
    "weight_sd": 0,
    "subset_weight_sd": 0,
    "translation_sd": 0,
    "scale_sd": 0,
    "rotation_sd_degrees": 0,
}


def formula(warp, height, width):
    """Pixel (x, y) of the source read by each pixel, in float64, control point by control point."""
    weights = np.asarray(warp.weights, np.float64)
    scale, rotation = float(warp.scale), float(warp.rotation)
    side = int(len(weights) ** 0.5)
    ys, xs = np.mgrid[:height, :width].astype(np.float64)
    p = np.stack([2 * xs / (width - 1) - 1, 2 * ys / (height - 1) - 1], axis=-1)
    matrix = scale * np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    w = p @ matrix.T + np.asarray(warp.translation, np.float64)
    for k, weight in enumerate(weights):
        control = np.array([2 * (k % side) / (side - 1) - 1, 2 * (k // side) / (side - 1) - 1])
        d2 = ((p - control) ** 2).sum(axis=-1, keepdims=True)
        w += weight * d2 * np.log(d2 + 1e-5)
    return (w + 1) / 2 * [width - 1, height - 1]


@pytest.fixture(scope="module")
def warps():
    return [ThinPlateWarp.sample(key) for key in jax.random.split(jax.random.key(0), 4)]


@pytest.mark.parametrize(("height", "width"), [(136, 136), (50, 70)])
def test_sampling_positions_equal_the_formula(warps, height, width):
    for warp in warps:
        pixels = (np.asarray(warp.sampling_grid(height, width)) + 1) / 2 * [width - 1, height - 1]
        np.testing.assert_allclose(pixels, formula(warp, height, width), atol=1e-3)


def test_images_equal_scipy_at_these_positions(warps):
    image = np.random.default_rng(0).uniform(size=(60, 70, 3)).astype(np.float32)
    for warp in warps:
        x, y = np.moveaxis(formula(warp, 60, 70), -1, 0)
        expected = [map_coordinates(image[..., c], [y, x], order=1, mode="grid-constant") for c in range(3)]
        np.testing.assert_allclose(warp.image(image), np.stack(expected, axis=-1), atol=1e-3)


def test_bilinear_reading_inside_at_the_rim_and_far_outside():
    rng = np.random.default_rng(1)
    image = rng.uniform(size=(9, 7, 2)).astype(np.float32)
    positions = np.concatenate([rng.uniform(-3, 12, size=(300, 2)), [[0, 0], [6, 8], [-1, 4], [7, 9], [1e9, -1e9]]])
    x, y = positions.T
    expected = [map_coordinates(image[..., c], [y, x], order=1, mode="grid-constant") for c in range(2)]
    read = sample_bilinear(image, positions.astype(np.float32))
    np.testing.assert_allclose(read, np.stack(expected, axis=-1), atol=1e-5)


def test_landmarks_go_to_the_pixel_that_reads_nearest(warps):
    points = np.random.default_rng(2).uniform(0, [69, 59], size=(20, 2)).astype(np.float32)
    points[3] = np.nan
    points[4, 0] = np.nan
    for warp in warps:
        reads = formula(warp, 60, 70)
        moved = np.asarray(warp.landmarks(points, 60, 70))
        assert np.isnan(moved[3:5]).all()
        for point, (x, y) in zip(np.delete(points, [3, 4], 0), np.delete(moved, [3, 4], 0), strict=True):
            distances = np.hypot(*np.moveaxis(reads - point, -1, 0))
            assert x == int(x)
            assert y == int(y)
            assert distances[int(y), int(x)] <= distances.min() + 1e-3


def test_an_image_and_its_landmarks_move_together_through_two_warps():
    first, second = (ThinPlateWarp.sample(key) for key in jax.random.split(jax.random.key(5)))
    points = np.array([[50.0, 60.0], [80.0, 45.0], [70.0, 90.0]], np.float32)
    ys, xs = np.mgrid[:136, :136]
    blobs = [np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 18) for x, y in points]  # one a channel
    views = second.image(first.image(jnp.asarray(np.stack(blobs, axis=-1), jnp.float32)))
    moved = second.landmarks(first.landmarks(points, 136, 136), 136, 136)
    assert np.abs(moved - points).max() > 2
    for channel, point in enumerate(moved):
        y, x = np.unravel_index(np.argmax(views[..., channel]), (136, 136))
        assert np.abs(np.array([x, y]) - point).max() <= 1


def test_no_deviation_is_the_identity():
    warp = ThinPlateWarp.sample(jax.random.key(0), **STILL)
    image = np.random.default_rng(3).uniform(size=(40, 50, 3)).astype(np.float32)
    points = np.array([[0, 0], [49, 39], [12, 30]], np.float32)
    np.testing.assert_allclose(warp.image(image), image, atol=1e-4)
    np.testing.assert_array_equal(warp.landmarks(points, 40, 50), points)


def test_weights_are_replaced_one_by_one():
    """Each weight is replaced with probability 1/2, as in prior work: how many are is not the same in each warp."""
    many = jax.vmap(ThinPlateWarp.sample)(jax.random.split(jax.random.key(7), 10_000))
    large = np.sum(np.abs(np.asarray(many.weights)) > 0.0025, axis=(1, 2))  # 5 sd of the small, 0.5 sd of the large
    p = 0.5 * 2 * stats.norm.sf(0.5)
    assert large.mean() == pytest.approx(200 * p, rel=0.005)
    assert large.var() == pytest.approx(200 * p * (1 - p), rel=0.06)  # 42.7; of an exact half it would be 23.6


def drawn(**settings):
    """10,000 warps: translations, scales less 1, angles in degrees, and the weights of 100 of them."""
    warps = jax.vmap(lambda key: ThinPlateWarp.sample(key, **settings))(jax.random.split(jax.random.key(11), 10_000))
    translation, scale = np.asarray(warps.translation, np.float64), np.asarray(warps.scale, np.float64)
    return translation, scale - 1, np.degrees(np.asarray(warps.rotation, np.float64)), np.asarray(warps.weights)[:100]


def test_distributions_of_the_matching_protocol():
    translation, scale, degrees, weights = drawn()
    for values, deviation in ((translation[:, 0], 0.05), (translation[:, 1], 0.05), (scale, 0.05), (degrees, 2.5)):
        assert stats.kstest(values, stats.norm(0, deviation).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(*translation.T).statistic) < 0.04
    assert abs(stats.pearsonr(scale, degrees).statistic) < 0.04
    mixture = stats.kstest(weights.ravel(), lambda w: (stats.norm(0, 0.0005).cdf(w) + stats.norm(0, 0.005).cdf(w)) / 2)
    assert mixture.pvalue > 0.01


def test_a_grid_of_one_point_is_refused():
    with pytest.raises(ValueError, match="grid is 1"):
        ThinPlateWarp.sample(jax.random.key(0), grid=1)
