import dataclasses
import io

import jax
import numpy as np
import pytest
from PIL import Image

from scemae_jax import model as models
from scemae_jax.data.images import prepare_face
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Model, as_square_images
from scemae_jax.models.architecture import Architecture
from scemae_jax.models.heads import Head, LandmarkHead, Reads


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 136, 136, 3), np.uint8)


@pytest.fixture(scope="module")
def backbone_only(small_model):
    return dataclasses.replace(small_model, params={"encoder": small_model.params["encoder"]})


def test_features_are_those_of_the_centre_window(small_model, images):
    """At the patch's own stride: the encoder on the standardised centre 96x96, and the projector on that."""
    architecture = small_model.architecture
    window = images[:, 20:116, 20:116] / 255.0
    window = (window - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    encoder = architecture.backbone.build()
    tokens = jax.jit(encoder.apply)({"params": small_model.params["encoder"]}, window.astype(np.float32))[:, 1:]
    projector = architecture.build_carb().projector
    projected = projector.apply({"params": small_model.params["projector"]}, tokens)
    both = small_model.features(images, which="both")
    np.testing.assert_allclose(both[..., :48], tokens.reshape(3, 12, 12, 48), atol=1e-4)
    np.testing.assert_allclose(both[..., 48:], projected.reshape(3, 12, 12, 16), atol=1e-4)
    np.testing.assert_allclose(small_model.features(images), both[..., 48:], atol=1e-6)
    np.testing.assert_allclose(small_model.features(images, which="backbone"), both[..., :48], atol=1e-5)


@pytest.mark.parametrize("num_clusters", [4, 0])
def test_clustered_features_are_those_of_the_tokens_that_stand_for_each_patch(backbone_only, images, num_clusters):
    """A patch that was not kept has its centre's features, or without clusters those of the most attentive patch."""
    architecture = backbone_only.architecture
    changed = dataclasses.replace(architecture.carb, num_clusters=num_clusters)
    architecture = dataclasses.replace(architecture, carb=changed)
    model = dataclasses.replace(backbone_only, architecture=architecture)
    window = np.asarray(architecture.backbone.normalise(images[:1, 20:116, 20:116]))
    select = jax.jit(lambda params, x: architecture.build_carb().apply({"params": params}, x, method="select"))
    selected = jax.tree.map(lambda x: np.asarray(x[0]), select(model.params, window))
    expected = np.full((144, 48), np.nan)
    expected[selected.patches] = selected.features
    for patch in set(range(144)) - set(selected.patches):
        stands = selected.source[patch] if num_clusters else np.argmax(selected.similarity[selected.patches])
        expected[patch] = selected.features[stands]
    found = model.features(images[:1], which="clustered")
    np.testing.assert_allclose(found[0], expected.reshape(12, 12, 48), atol=1e-4)
    assert len(np.unique(np.asarray(found).reshape(144, 48).round(3), axis=0)) == 36 + num_clusters


@pytest.mark.parametrize("stride", [4, 2])
def test_finer_strides_look_through_shifted_windows(small_model, images, stride):
    """A cell is what the patch-stride map of the image shifted to that cell holds."""
    fine = np.asarray(small_model.features(images[:1], stride=stride))
    assert fine.shape == (1, 96 // stride, 96 // stride, 16)
    n = 8 // stride
    for row, column in ((0, 0), (0, n - 1)):
        shift = [stride * cell + (stride - 8) // 2 for cell in (row, column)]
        rolled = np.roll(images[:1], (-shift[0], -shift[1]), axis=(1, 2))
        expected = small_model.features(rolled)
        np.testing.assert_allclose(fine[:, row::n, column::n], expected, atol=1e-4)


def test_bytes_and_floats_are_the_same_image(small_model, images):
    as_floats = small_model.features(images.astype(np.float32) / 255)
    np.testing.assert_allclose(as_floats, small_model.features(images), atol=1e-5)


def test_chunks_change_nothing(small_model, images, monkeypatch):
    whole = small_model.features(images)
    monkeypatch.setattr(models, "CHUNK", 2)
    np.testing.assert_allclose(small_model.features(images), whole, atol=1e-5)


@pytest.mark.parametrize(("which", "width"), [("backbone", 48), ("clustered", 48), ("projected", 16), ("both", 64)])
def test_no_images_give_no_features(small_model, which, width):
    assert small_model.features(np.zeros((0, 136, 136, 3), np.uint8), 4, which).shape == (0, 24, 24, width)


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),  # by hand: 200 * 136 / 272 = 100, 41 * 136 / 100 = 55.76; the odd row goes below
    [((200, 272), (18, 118), (0, 136)), ((100, 41), (0, 136), (40, 96)), ((300, 300), (0, 136), (0, 136))],
)
def test_other_sizes_are_scaled_and_padded(small_model, shape, rows, columns):
    """The scaling is Pillow's, the padding mid-grey."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize(shape[::-1], Image.Resampling.BICUBIC)
    channels = [
        Image.fromarray(channel).resize((columns[1] - columns[0], rows[1] - rows[0]), Image.Resampling.BILINEAR)
        for channel in np.moveaxis(np.asarray(image, np.float32) / 255, -1, 0)
    ]
    expected = np.full((136, 136, 3), 128 / 255, np.float32)
    expected[slice(*rows), slice(*columns)] = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    square = as_square_images(np.asarray(image)[None])
    np.testing.assert_allclose(square[0], expected, atol=1e-4)
    np.testing.assert_allclose(
        small_model.features(np.asarray(image)[None]), small_model.features(expected[None]), atol=1e-3
    )


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (np.zeros((136, 136, 3), np.uint8), {}, r"shape \(136, 136, 3\): a batch of RGB images"),
        (np.zeros((1, 136, 136, 1), np.uint8), {}, r"shape \(1, 136, 136, 1\)"),
        (np.zeros((1, 136, 136, 3), np.int32), {}, "type int32: uint8, or floats"),
        (np.full((1, 136, 136, 3), 255.0, np.float32), {}, "range from 255 to 255: scale them"),
        (np.full((1, 136, 136, 3), np.nan, np.float32), {}, "range from nan"),
        (
            np.zeros((1, 136, 136, 3), np.uint8),
            {"which": "head"},
            "which is 'head': choose 'backbone', 'projected', 'both', 'clustered'",
        ),
        (np.zeros((1, 136, 136, 3), np.uint8), {"stride": 3}, "stride is 3, patch_size 8"),
        (np.zeros((1, 136, 136, 3), np.uint8), {"stride": 16}, "stride is 16, patch_size 8"),
    ],
)
def test_errors(small_model, given, settings, message):
    with pytest.raises(ValueError, match=message):
        small_model.features(given, **settings)


def test_a_backbone_has_no_projected_features(backbone_only, images):
    assert not backbone_only.refined
    assert backbone_only.features(images[:1], which="backbone").shape == (1, 12, 12, 48)
    for which in ("projected", "both"):
        with pytest.raises(ValueError, match=f"which='{which}' needs a projector, and this model has none"):
            backbone_only.features(images, which=which)


def test_a_backbone_alone_is_a_model(backbone_only, images):
    """Without CARB and decoder it gives the same features, and says what it cannot do."""
    alone = dataclasses.replace(backbone_only, architecture=Architecture(backbone=backbone_only.architecture.backbone))
    np.testing.assert_array_equal(
        alone.features(images, which="backbone"), backbone_only.features(images, which="backbone")
    )
    with pytest.raises(ValueError, match="XXS/8 without CARB has no projector and chooses no tokens"):
        alone.features(images, which="clustered")
    with pytest.raises(ValueError, match="XXS/8 without a decoder cannot reconstruct"):
        alone.architecture.build_mae()


def test_arrays_are_numpy_s(small_model, images):
    """All methods give what people can change and pass on, from whatever they are given."""
    model = small_model.with_head(constant_head(5, (0, 0)))
    for given in (images, jax.numpy.asarray(images)):
        found = [model.features(given), model.detect(given), model.match(given[0], np.full((1, 2), 50.0), given[1])]
        assert {type(array) for array in found} == {np.ndarray}
    assert isinstance(model.device_features(images), jax.Array)


def constant_head(num_landmarks, point):
    """A head that answers with one normalised point whatever it sees."""
    params = {
        "heatmaps": {"kernel": np.zeros((1, 1, 48, num_landmarks), np.float32), "bias": np.zeros(num_landmarks)},
        "regressor": np.zeros((num_landmarks, 2, 2), np.float32),
        "bias": np.tile(np.float32(point), (num_landmarks, 1)),
    }
    return Head(network=LandmarkHead(num_landmarks, 1, 1, 1.0), params=params, reads=Reads(8, "backbone"))


@pytest.mark.parametrize(
    ("point", "pixel"),
    # -1 and 1 are the centres of the window's outer pixels, 20 and 115 of 136; twice the size, 20.5 becomes 41
    [((-1, -1), (20, 20)), ((1, 1), (115, 115)), ((0, 1), (67.5, 115))],
)
def test_landmarks_come_in_pixels_of_the_images_given(backbone_only, images, point, pixel):
    model = backbone_only.with_head(constant_head(5, point))
    np.testing.assert_allclose(model.detect(images), np.tile(pixel, (3, 5, 1)), atol=1e-4)
    wide = np.zeros((1, 136, 272, 3), np.uint8)  # halved, with 34 rows of padding above
    expected = [2 * pixel[0] + 0.5, 2 * (pixel[1] - 34) + 0.5]
    np.testing.assert_allclose(model.detect(wide), np.tile(expected, (1, 5, 1)), atol=1e-4)


def test_images_given_are_seen_as_prepared_ones(backbone_only):
    """A detector that finds the landmark of a prepared file finds it in the pixels of that file."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize((500, 333), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, format="PNG")
    jpeg, landmarks = prepare_face(file, np.array([[300.0, 120.0]]), name="face.png")
    given = np.asarray(image)[None]
    prepared = np.asarray(Image.open(io.BytesIO(jpeg))) / 255
    inner = slice(24, 112), slice(2, 134)  # the JPEG blurs the borders of the padding
    assert np.abs(as_square_images(given)[0][inner] - prepared[inner]).max() < 0.05
    (point,) = FRAME.normalise(landmarks[None])[0]
    found = backbone_only.with_head(constant_head(1, point)).detect(given)
    np.testing.assert_allclose(found, [[[300, 120]]], atol=1e-3)


def test_detectors_by_name(backbone_only, images):
    with pytest.raises(ValueError, match="no head is named: this model detects no landmarks; fit_detector"):
        backbone_only.detect(images)
    model = backbone_only.with_head(constant_head(5, (0, 0))).with_head(constant_head(68, (0, 0)))
    assert isinstance(model, Model)
    assert model.detect(images, 68).shape == model.detect(images, head="68").shape == (3, 68, 2)
    assert model.with_head(constant_head(3, (0, 0)), "pupils").detect(images, head="pupils").shape == (3, 3, 2)
    assert model.detect(images[:0], 5).shape == (0, 5, 2)
    with pytest.raises(ValueError, match="no head is named: this model detects 5, 68"):
        model.detect(images)
    with pytest.raises(ValueError, match="no head is called '7': this model detects 5, 68"):
        model.detect(images, 7)
    with pytest.raises(ValueError, match="a batch of RGB images"):
        model.detect(images[0, :, :, 0], 5)
