"""Models of other sizes, end to end: larger images and window, larger patches."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import scemae_jax
from scemae_jax import experiment
from scemae_jax.data.record import Faces
from scemae_jax.evaluation import matching
from scemae_jax.evaluation.attention import attentive_near_landmarks
from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.faces.frame import Frame
from scemae_jax.model import Model
from scemae_jax.systems.sce_mae import networks, settings
from scemae_jax.systems.sce_mae.stages import SYSTEM

LARGER = Frame(image_size=184, window=128)


OTHERS = [pytest.param(other, marks=pytest.mark.slow) for other in ((LARGER, "XXS/8"), (Frame(), "XXS/16"))]


@pytest.fixture(scope="module", params=[(LARGER, "XXS/16"), *OTHERS], ids=str)
def model(request, small_architecture, random_params):
    """Random weights."""
    frame, encoder = request.param
    backbone = dataclasses.replace(small_architecture.backbone, frame=frame, encoder=encoder)
    architecture = dataclasses.replace(small_architecture, backbone=backbone)
    windows = np.zeros((1, frame.window, frame.window, 3), np.float32)
    return Model(architecture=architecture, params=random_params(architecture.build_carb(), windows, method="features"))


def noise(count, side, seed):
    """Smooth pictures that are alike nowhere."""
    coarse = np.random.default_rng(seed).random((count, 16, 16, 3)).astype(np.float32)
    return np.clip(np.asarray(jax.image.resize(coarse, (count, side, side, 3), "cubic")), 0, 1)


def test_features_are_those_of_the_centre_window(model):
    """At the patch's own stride the encoder's of the window; a finer map has the window divided by the stride."""
    backbone, frame = model.architecture.backbone, model.frame
    images = noise(2, frame.image_size, 0)
    offset = {184: 28, 136: 20}[frame.image_size]
    window = images[:, offset : offset + frame.window, offset : offset + frame.window]
    encoder = backbone.build()
    normalised = (window - np.array(backbone.mean)) / np.array(backbone.std)
    tokens = jax.jit(encoder.apply)({"params": model.params["encoder"]}, jnp.asarray(normalised, jnp.float32))[:, 1:]
    side = frame.window // backbone.variant.patch_size
    found = model.features(images, backbone.variant.patch_size, "backbone")
    np.testing.assert_allclose(found, tokens.reshape(2, side, side, -1), atol=1e-4)
    assert model.features(images, 4).shape == (2, frame.window // 4, frame.window // 4, 16)


def test_a_fitted_head_finds_its_marks(model):
    """A white mark on noise, in images of the model's own size and of twice that."""
    size = model.frame.image_size
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:size, :size]
    points = rng.uniform(0.4, 0.6, (60, 1, 2)) * size
    squared = (x - points[:, 0, 0, None, None]) ** 2 + (y - points[:, 0, 1, None, None]) ** 2
    images = (255 * np.exp(-squared / 800))[..., None].repeat(3, axis=-1).astype(np.uint8)
    fitted = scemae_jax.fit_detector(
        model, images[:40], points[:40], stride=model.architecture.backbone.variant.patch_size, mirror=False,
        linear={"which": "backbone", "views": 40},
    )  # fmt: skip
    found = fitted.detect(images[40:])
    guessed = np.abs(points[:40].mean(axis=0) - points[40:]).mean()
    assert np.abs(found - points[40:]).mean() < guessed / 3
    twice = images[40:].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(fitted.detect(twice), 2 * found + 0.5, atol=0.2 * guessed)


def test_points_are_found_in_the_same_picture(model):
    """Each at its own whole pixel of the window."""
    frame = model.frame
    (image,) = noise(1, frame.image_size, 1)
    points = np.random.default_rng(0).integers(frame.offset + 8, frame.offset + frame.window - 8, (5, 2))
    found = scemae_jax.match(model, image, points.astype(np.float32), image)
    np.testing.assert_allclose(found, points, atol=1)


@pytest.mark.parametrize("frame", [LARGER, pytest.param(Frame(), marks=pytest.mark.slow)])
def test_matching_finds_marked_places_in_warped_views(frame):
    """Colours that change with the place of the picture, read pixel by pixel, lead to the truth.

    The unit is the same share of the window: a pixel of a window of 128 is 70 / 128 of it.
    """
    y, x = np.mgrid[: frame.image_size, : frame.image_size] / frame.image_size
    images = (255 * np.stack([x, y, np.full_like(x, 0.5)], axis=-1))[None].repeat(4, axis=0).astype(np.uint8)
    landmarks = np.random.default_rng(0).uniform(0.35, 0.65, (4, 6, 2)).astype(np.float32) * frame.image_size
    faces = Faces(images=images, landmarks=landmarks, subjects=np.arange(4))
    pairs = matching.consecutive_pairs(4)
    features = {"colours": lambda views: jnp.asarray(frame.centre_window(views)), "own": None}
    found = matching.match(faces, features, pairs=pairs, seed=0, frame=frame)
    assert found[matching.Kind("colours")].same.mean() < 0.8
    assert found[matching.Kind("own")].same.mean() > 2
    three_pixels = matching.matching_error(np.zeros(2), np.array([0.0, 3.0]), frame.window)
    assert float(three_pixels) == pytest.approx(3 * 70 / frame.window)


def test_patches_near_a_landmark_are_counted_in_the_image(model):
    """A landmark at the centre of one patch, in the fourth row and column of the window: no other centre is near."""
    frame, patch_size = model.frame, model.architecture.backbone.variant.patch_size
    landmark = frame.offset + 3 * patch_size + (patch_size - 1) / 2
    images = (255 * noise(2, frame.image_size, 2)).astype(np.uint8)
    faces = Faces(images=images, landmarks=np.full((2, 1, 2), landmark, np.float32), subjects=np.arange(2))
    _, found = attentive_near_landmarks(model, faces)
    assert found.value == pytest.approx((patch_size / frame.window) ** 2)


def test_raw_patches_need_room_beside_the_window():
    images = np.zeros((1, 136, 136, 3), np.float32)
    with pytest.raises(ValueError, match="reach 7 beyond the window, and a window of 128 in images of 136 leaves 4"):
        matching.raw_patches(images, frame=Frame(image_size=136, window=128))
    assert matching.raw_patches(images, frame=Frame(image_size=136, window=122)).shape == (1, 122, 122, 675)


def test_faces_are_resized_to_the_model_s_images_with_their_landmarks():
    """The brightest pixel of each is the landmark's, before and after."""
    points = np.array([[[30.0, 50.0]], [[90.0, 71.0]]], np.float32)
    y, x = np.mgrid[:136, :136]
    squared = (x - points[..., 0, None]) ** 2 + (y - points[..., 1, None]) ** 2
    images = np.rint(255 * np.exp(-squared / 50)).astype(np.uint8)[..., None].repeat(3, axis=-1)
    faces = Faces(images=images, landmarks=points, subjects=np.arange(2))
    found = networks.in_frame(faces, LARGER)
    assert (found.images.shape, found.images.dtype) == ((2, 184, 184, 3), np.uint8)
    for image, (point,) in zip(found.images, found.landmarks, strict=True):
        weight = image[..., 0] / image[..., 0].sum()
        rows, columns = np.mgrid[:184, :184]
        np.testing.assert_allclose([(weight * columns).sum(), (weight * rows).sum()], point, atol=0.1)
    np.testing.assert_allclose(found.landmarks, (points + 0.5) * 184 / 136 - 0.5, atol=1e-4)
    assert networks.in_frame(faces, Frame()) is faces


@pytest.mark.slow
def test_a_run_with_other_sizes_from_its_config(tmp_path):
    """Windows of 128 in images of 184, patches of 16: all that a run of the default stages does, on a folder."""
    rng, folder = np.random.default_rng(0), tmp_path / "faces"
    folder.mkdir()
    with (folder / "landmarks.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", *(f"{axis}{number}" for number in range(5) for axis in "xy")])
        for number in range(12):
            image = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((136, 136))
            image.save(folder / f"{number}.png")
            split = "test" if number < 4 else "train"
            table.writerow([f"{number}.png", split, *rng.uniform(40, 90, 10).round(1)])
    config = settings.default()
    config.data.update({"dataset": "landmark_folder", "root": str(folder), "data_dir": str(tmp_path / "data")})
    config.model.update({"encoder": "XXS/16", "image_size": 184, "window": 128, "num_clusters": 2})
    config.model.attentive_fraction = 0.25
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = config.refine.batch_size = 4
    config.pretrain.steps = config.refine.steps = 2
    config.refine.two_crops = True
    config.match.update({"stride": 16, "max_pairs": 1})
    config.detect.update({"stride": 16, "landmarks": (5,)})
    config.detect.linear.views = 10
    config.export.stride = 16
    config.report.examples = 1
    SYSTEM.check_config(config)
    results = experiment.run(SYSTEM.open(config, tmp_path / "run"))
    rows = as_table(results["measurements"])
    assert {"raw patches", "untrained", "SCE-MAE"} <= set(select(rows, stage="match")["method"])
    assert np.isfinite(select(rows, stage="detect")["value"]).all()
    model = scemae_jax.load(tmp_path / "run" / "export" / "scemae.msgpack")
    assert model.frame == LARGER
    assert model.features(np.zeros((1, 136, 136, 3), np.uint8), 8).shape == (1, 16, 16, 32)
    assert model.detect(np.zeros((2, 300, 200, 3), np.uint8), head="5").shape == (2, 5, 2)
