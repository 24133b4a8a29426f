"""The parsing head: shapes, and what its resolution doublings do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scemae_jax.models.parsing import ParsingHead, enlarge, in_windows, twice_the_resolution, window_places


def test_sub_pixels_lie_where_their_channel_says():
    x = np.arange(2 * 3 * 3 * 8, dtype=np.float32).reshape(2, 3, 3, 8)
    found = np.asarray(twice_the_resolution(x))
    assert found.shape == (2, 6, 6, 2)
    for row in range(6):
        for column in range(6):
            first = 4 * (row % 2) + 2 * (column % 2)
            np.testing.assert_array_equal(found[:, row, column], x[:, row // 2, column // 2, first : first + 2])


def test_the_head_s_maps_are_four_times_as_fine_as_the_patches():
    head = ParsingHead(5, width=16)
    tokens = np.random.default_rng(0).normal(size=(2, 12, 12, 24)).astype(np.float32)
    params = jax.jit(head.init)(jax.random.key(0), tokens)
    parsed = jax.jit(head.apply)(params, tokens)
    assert parsed.features.shape == (2, 48, 48, 16)
    assert parsed.logits.shape == (2, 48, 48, 5)
    assert enlarge(parsed.logits, (96, 96)).shape == (2, 96, 96, 5)
    assert np.isfinite(parsed.logits).all()


@pytest.mark.parametrize(("height", "width", "count"), [(8, 8, 1), (11, 8, 2), (9, 31, 2 * 5)])
def test_windows_cover_an_image_and_overlaps_are_averaged(height, width, count):
    images = np.random.default_rng(0).random((2, height, width, 3)).astype(np.float32)
    calls = []

    def mean_and_pixels(windows):
        calls.append(windows.shape)
        mean = jnp.broadcast_to(windows.mean(axis=(1, 2, 3), keepdims=True), (*windows.shape[:3], 1))
        return jnp.concatenate([windows, mean], axis=-1)

    found = np.asarray(in_windows(mean_and_pixels, images, 8))
    assert calls == [(2 * count, 8, 8, 3)]
    np.testing.assert_allclose(found[..., :3], images, atol=1e-6)  # what all windows agree on
    means = np.full((count, 2, height, width), np.nan)
    for number, (top, left) in enumerate(window_places(height, width, 8)):
        means[number, :, top : top + 8, left : left + 8] = images[:, top : top + 8, left : left + 8].mean(
            axis=(1, 2, 3), keepdims=True
        )[..., 0]
    np.testing.assert_allclose(found[..., 3], np.nanmean(means, axis=0), atol=1e-6)
    with pytest.raises(ValueError, match="smaller than the window of 8"):
        in_windows(mean_and_pixels, images[:, :7], 8)
