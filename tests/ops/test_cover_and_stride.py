import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scemae_jax.ops.cover_and_stride import cover_and_stride

WINDOW, PATCH = 96, 8
STRIDES = (1, 2, 4, 8)


def patches(windows):
    """[b, 96, 96, c] to [b, 12, 12, 8 * 8 * c]."""
    b, _, _, c = windows.shape
    return windows.reshape(b, 12, 8, 12, 8, c).swapaxes(2, 3).reshape(b, 12, 12, 64 * c)


@pytest.mark.parametrize("stride", STRIDES)
def test_equals_a_linear_network_computed_patch_by_patch(stride):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 136, 140, 3))
    weights = rng.normal(size=(192, 5))
    network = jax.jit(
        lambda images: cover_and_stride(
            lambda w: patches(w) @ weights, images, window=WINDOW, stride=stride, patch_size=PATCH
        )
    )
    maps = network(images.astype(np.float32))
    for row, column in [(0, 0), (3, 7), (5, 2), (WINDOW // stride - 1, WINDOW // stride - 1)]:
        # The patch whose centre is nearest to the cell's, the upper left one where two are.
        top = int(np.floor(20 + (row + 0.5) * stride - PATCH / 2))
        left = int(np.floor(22 + (column + 0.5) * stride - PATCH / 2))
        expected = images[:, top : top + 8, left : left + 8].reshape(2, -1) @ weights
        np.testing.assert_allclose(maps[:, row, column], expected, rtol=1e-3, atol=1e-3)


def test_stride_of_a_patch_sees_the_centre_window_alone():
    images = np.random.default_rng(1).normal(size=(3, 136, 136, 3)).astype(np.float32)
    plain = patches(images[:, 20:116, 20:116])
    maps = cover_and_stride(patches, images, window=WINDOW, stride=8, patch_size=PATCH)
    np.testing.assert_array_equal(maps, plain)
    exact_fit = cover_and_stride(patches, images[:, 20:116, 20:116], window=WINDOW, stride=8, patch_size=PATCH)
    np.testing.assert_array_equal(exact_fit, plain)


@pytest.mark.parametrize(
    ("size", "arguments", "message"),
    [
        (136, {"stride": 3}, "stride is 3, patch_size 8"),
        (136, {"stride": 0}, "stride is 0"),
        (136, {"stride": 2, "window": 100}, "window is 100, patch_size 8"),
        (100, {"stride": 2}, "images are 100x100: .* needs 102 pixels"),
        (136, {"stride": 2, "patch_size": 16}, r"feature_fn gave \(1, 12, 12, 192\)"),
    ],
)
def test_bad_sizes(size, arguments, message):
    with pytest.raises(ValueError, match=message):
        cover_and_stride(
            patches, jnp.zeros((1, size, size, 3)), **({"window": WINDOW, "patch_size": PATCH} | arguments)
        )
