"""A parser from arrays: it learns planted colours, and mistakes in what it is given are named."""

import numpy as np
import pytest

import scemae_jax

NAMES = ("red", "green", "blue")
QUICK = {"batch_size": 8, "warmup": 0.1, "log_every": 5}


def blocks(count, seed, height=136, width=136):
    """Images of 4x4 blocks, each red, green or blue with noise, and which of these each pixel is."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.arange(side) * 4 // side for side in (height, width))
    masks = rng.integers(0, 3, (count, 4, 4)).astype(np.uint8)[:, rows[:, None], columns]
    images = 200 * np.eye(3)[masks] + rng.integers(0, 50, (*masks.shape, 3))
    return images.astype(np.uint8), masks


@pytest.fixture(scope="module")
def fitted(small_model):
    """Learnt from 16 images, and from 8 of the target: the same ones darker."""
    images, masks = blocks(16, 0)
    masks[:, :, :3] = 255
    target, _ = blocks(8, 1)
    return scemae_jax.fit_parser(
        small_model, images, masks, part_names=NAMES, target=target // 2, head_width=16,
        source={**QUICK, "steps": 40, "learning_rate": 1e-2}, adapt={**QUICK, "steps": 10, "teacher_decay": 0.5},
    )  # fmt: skip


def test_it_learns_which_colour_is_which(fitted, small_model):
    images, masks = blocks(4, 2)
    assert (fitted.parse(images) == masks).mean() > 0.9
    assert (fitted.parse(images // 2) == masks).mean() > 0.9
    assert fitted.part_names == NAMES
    for which in ("backbone", "projected"):
        np.testing.assert_array_equal(fitted.features(images, 8, which), small_model.features(images, 8, which))


def test_images_of_any_size_are_parsed_in_their_own_pixels(fitted):
    images, masks = blocks(2, 3, height=150, width=260)
    found = fitted.parse(images)
    assert found.shape == masks.shape
    assert (found == masks).mean() > 0.9
