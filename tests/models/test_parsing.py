"""The parsing head: shapes, and what its resolution doublings do."""

import jax
import numpy as np

from scemae_jax.models.parsing import ParsingHead, enlarge, twice_the_resolution


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
