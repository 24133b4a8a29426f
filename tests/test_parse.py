"""Models with a parser: parts of every pixel in the image's own size, and files that keep the parser."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from PIL import Image

from scemae_jax.faces.frame import FRAME
from scemae_jax.faces.parts import PartScheme
from scemae_jax.model import Model, in_own_size, most_probable
from scemae_jax.model_file import export_parse, fingerprint, load, save_model
from scemae_jax.models.parsing import PartParser

PARTS = PartScheme(names=("background", "left eye", "right eye"), mirror=(("left eye", "right eye"),))


@pytest.fixture(scope="module")
def model(small_model: Model, random_params) -> Model:
    """With a parser of random weights."""
    parser = PartParser(parts=PARTS, width=16, params={})
    network = parser.network(small_model.architecture.backbone)
    params = random_params(network.module, jnp.zeros((1, 96, 96, 3)))
    return dataclasses.replace(small_model, parser=dataclasses.replace(parser, params=params))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 136, 136, 3)).astype(np.uint8)


def resized(maps, side):
    """By Pillow, channel by channel: bilinear, and with antialiasing where it makes them smaller."""
    channels = [
        [
            Image.fromarray(channel).resize((side, side), Image.Resampling.BILINEAR)
            for channel in np.moveaxis(one, -1, 0)
        ]
        for one in np.asarray(maps, np.float32)
    ]
    return np.moveaxis(np.array(channels), 1, -1)


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def test_a_square_s_probabilities_are_those_of_two_views(model, images):
    """The whole square at the size of a window, and in the centre the mean of that and of the centre window."""
    network = model.parser.network(model.architecture.backbone)
    apply = jax.jit(lambda windows: network.apply(model.parser.params, windows).logits)
    square = images / np.float32(255)
    expected = softmax(resized(apply(resized(square, 96)), 136))
    near = softmax(resized(apply(square[:, 20:116, 20:116]), 96))
    expected[:, 20:116, 20:116] = (expected[:, 20:116, 20:116] + near) / 2
    found = model.parse_probabilities(images)
    assert (found.shape, found.dtype) == ((3, 136, 136, 3), np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    parsed = model.parse(images)
    assert (parsed.shape, parsed.dtype) == ((3, 136, 136), np.uint8)
    np.testing.assert_array_equal(parsed, found.argmax(axis=-1))
    assert model.part_names == PARTS.names


@pytest.mark.parametrize(("width", "height"), [(200, 150), (61, 100), (136, 90), (136, 136)])
def test_maps_come_back_to_the_image_s_own_size_bilinearly(width, height):
    """Each pixel's place in the square, by `Placement`, and the mean of the four around it, in float64."""
    placed = FRAME.place((width, height))
    maps = np.random.default_rng(0).random((136, 136, 4)).astype(np.float32)
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    first, last = np.array(placed.padding), np.array(placed.padding) + placed.scaled - 1
    there = np.clip((pixels + 0.5) * placed.scale - 0.5 + first, first, last)
    low = np.minimum(np.floor(there).astype(int), last)
    high, share = np.minimum(low + 1, last), there - low
    x, y = share[..., :1], share[..., 1:]
    above = maps[low[..., 1], low[..., 0]] * (1 - x) + maps[low[..., 1], high[..., 0]] * x
    below = maps[high[..., 1], low[..., 0]] * (1 - x) + maps[high[..., 1], high[..., 0]] * x
    expected = above * (1 - y) + below * y
    found = np.stack(list(in_own_size(maps, placed)), axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(most_probable(maps, placed), found.argmax(axis=-1))


class Colour(Model):
    """A stand-in that takes red, green and blue for three parts."""

    def square_part_probabilities(self, images):
        return images.astype(jnp.float32) / (255 if images.dtype == jnp.uint8 else 1)


@pytest.mark.parametrize(("height", "width"), [(136, 136), (90, 250), (272, 100)])
def test_parts_are_where_they_are_in_the_image(model, height, width):
    """A red image with a green rectangle and a blue one, of which nothing moves; some of them go in several chunks."""
    mask = np.zeros((40, height, width), np.uint8)
    mask[:, height // 4 : height // 2, width // 8 : width // 2] = 1
    mask[1::2, height // 2 :, width // 2 :] = 2
    planted = Colour(architecture=model.architecture, params=model.params, parser=model.parser)
    found = planted.parse((255 * np.eye(3)[mask]).astype(np.uint8))
    assert found.shape == mask.shape
    assert (found == mask).mean() > 0.98  # but for pixels at the borders
    inner = np.s_[:, 8 : height // 4 - 8, 8:]
    np.testing.assert_array_equal(found[inner], mask[inner])


def test_no_images(model):
    for size in ((136, 136), (50, 70)):
        none = np.zeros((0, *size, 3), np.uint8)
        assert model.parse(none).shape == (0, *size)
        assert model.parse_probabilities(none).shape == (0, *size, 3)


def test_a_model_without_a_parser_says_how_to_get_one(small_model, images):
    for ask in (small_model.parse, small_model.parse_probabilities, lambda _: small_model.part_names):
        for some in (images, images[:0]):
            with pytest.raises(ValueError, match=r"no parser: scemae_jax\.fit_parser trains one"):
                ask(some)


def test_a_file_keeps_the_parser(model, small_model, images, tmp_path):
    save_model(model, tmp_path / "parts.msgpack")
    save_model(small_model, tmp_path / "without.msgpack")
    loaded = load(tmp_path / "parts.msgpack")
    assert (loaded.parser.parts, loaded.parser.width) == (PARTS, 16)
    np.testing.assert_array_equal(loaded.parse(images), model.parse(images))
    assert load(tmp_path / "without.msgpack").parser is None
    assert fingerprint(tmp_path / "parts.msgpack") == fingerprint(tmp_path / "without.msgpack")
    content = serialization.msgpack_restore((tmp_path / "without.msgpack").read_bytes())
    assert set(content) == {"format", "architecture", "provenance", "params", "heads"}


def test_stablehlo_parses_any_number_of_images(model, images, tmp_path):
    export_parse(model, tmp_path / "parts.stablehlo")
    exported = jax.export.deserialize((tmp_path / "parts.stablehlo").read_bytes())
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    for batch in (images[:1], images):
        found = exported.call(batch)
        assert found.dtype == jnp.uint8
        np.testing.assert_array_equal(found, model.parse(batch))
