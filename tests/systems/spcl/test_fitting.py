"""A parser from arrays: it learns planted colours, and mistakes in what it is given are named."""

import numpy as np
import pytest
from PIL import Image

import scemae_jax
from scemae_jax.faces.frame import FRAME
from scemae_jax.systems.spcl.fitting import _square_masks

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
    """Learnt from 16 images, of which some pixels are not known."""
    images, masks = blocks(16, 0)
    masks[:, :, :3] = 255
    return scemae_jax.fit_parser(
        small_model, images, masks, part_names=NAMES, head_width=16,
        source={**QUICK, "steps": 25, "learning_rate": 1e-2},
    )  # fmt: skip


def test_it_learns_which_colour_is_which(fitted, small_model):
    images, masks = blocks(4, 2)
    assert (fitted.parse(images) == masks).mean() > 0.9
    assert fitted.part_names == NAMES
    for which in ("backbone", "projected"):
        np.testing.assert_array_equal(fitted.features(images, 8, which), small_model.features(images, 8, which))


@pytest.mark.slow
def test_it_learns_from_a_target_without_masks(fitted, small_model):
    """Of 4x4 blocks as before, but darker. The parser is the teacher, which the labelled images taught too."""
    images, masks = blocks(16, 0)
    target, _ = blocks(8, 1)
    adapted = scemae_jax.fit_parser(
        small_model, images, masks, part_names=NAMES, target=target // 4, head_width=16,
        source={**QUICK, "steps": 25, "learning_rate": 1e-2}, adapt={**QUICK, "steps": 20, "teacher_decay": 0.5},
    )  # fmt: skip
    images, masks = blocks(4, 2)
    assert (adapted.parse(images // 4) == masks).mean() > 0.9
    assert (adapted.parse(images) == masks).mean() > 0.9
    assert (adapted.parse_probabilities(images) != fitted.parse_probabilities(images)).any()


def test_images_of_any_size_are_parsed_in_their_own_pixels(fitted):
    images, masks = blocks(2, 3, height=150, width=260)
    found = fitted.parse(images)
    assert found.shape == masks.shape
    assert (found == masks).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"masks": np.zeros((2, 136, 130), np.uint8)},
            r"masks have the shape \(2, 136, 130\), and images \(2, 136, 136",
        ),
        ({"masks": np.zeros((2, 136, 136), int)}, "masks are of type int64: give uint8"),
        ({"masks": np.full((2, 136, 136), 255, np.uint8)}, "every pixel of the masks is 255"),
        ({"masks": np.full((2, 136, 136), 3, np.uint8)}, r"the values \[3\], and there are 3 part_names"),
        ({"part_names": ("red", "red", "blue")}, "part_names has 3, 2 of them different"),
        ({"mirror": [("red", "left")]}, "mirror names left: choose from part_names, red, green, blue"),
        ({"images": np.zeros((2, 136, 136), np.uint8)}, "a batch of RGB images"),
        ({"adapt": {"labels": "offline"}}, "adapt.labels is 'offline'"),
        ({"source": {"adversary": 0.1}}, "source.adversary compares with target images, and there are none"),
        ({"source": {"steps": 0}}, "config.source.steps is 0"),
    ],
)
def test_mistakes_are_named(small_model, change, message):
    images, masks = blocks(2, 0)
    given = {"images": images, "masks": masks, "part_names": NAMES, **change}
    with pytest.raises(ValueError, match=message):
        scemae_jax.fit_parser(small_model, given.pop("images"), given.pop("masks"), **given)


def test_settings_that_do_not_exist_are_refused(small_model):
    images, masks = blocks(2, 0)
    with pytest.raises(AttributeError, match=r"called \['steps'\]: there are \['adapt', 'head_width', 'source'\]"):
        scemae_jax.fit_parser(small_model, images, masks, part_names=NAMES, steps=3)
    with pytest.raises(KeyError, match="step_count"):
        scemae_jax.fit_parser(small_model, images, masks, part_names=NAMES, source={"step_count": 3})


@pytest.mark.parametrize(("height", "width"), [(68, 136), (301, 97), (136, 136)])
def test_masks_lie_where_the_images_do(height, width):
    """In the square, by Pillow: the nearest pixel of the mask, and 255 around it."""
    masks = np.random.default_rng(0).integers(0, 11, (2, height, width)).astype(np.uint8)
    placed = FRAME.place((width, height))
    for mask, found in zip(masks, _square_masks(masks, placed), strict=True):
        square = Image.new("L", (136, 136), 255)
        square.paste(Image.fromarray(mask).resize(placed.scaled, Image.Resampling.NEAREST), placed.padding)
        np.testing.assert_array_equal(found, np.asarray(square))
