"""The parsing head: shapes, and what its resolution doublings do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scemae_jax.models.parsing import ParsingHead, enlarge, in_windows, twice_the_resolution


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

    def number_and_pixels(windows):
        calls.append(windows.shape)
        return jnp.concatenate([windows, jnp.full((*windows.shape[:3], 1), len(calls), jnp.float32)], axis=-1)

    found = np.asarray(in_windows(number_and_pixels, images, 8))
    assert calls == [(2, 8, 8, 3)] * count
    np.testing.assert_allclose(found[..., :3], images, atol=1e-6)  # what all windows agree on
    assert found[0, 0, 0, 3] == 1  # a corner is in one window alone
    assert found[0, -1, -1, 3] == count
    with pytest.raises(ValueError, match="smaller than the window of 8"):
        in_windows(number_and_pixels, images[:, :7], 8)
