"""Landmark detection: errors worked by hand, a planted head, and blobs that a head has to learn."""

import jax.numpy as jnp
import numpy as np
import pytest

import scemae_jax
from scemae_jax.evaluation import detection
from scemae_jax.faces.landmarks import scheme_of
from scemae_jax.model import Model
from scemae_jax.models.heads import Head, LandmarkHead, LinearHead, Reads
from scemae_jax.systems.sce_mae import landmark_heads
from scemae_jax.systems.sce_mae.settings import default


def blobs(points, height: int = 136, width: int = 136, spread: float = 4.0):
    """Dark images [n, height, width, 3], bright around the given points [n, l, 2]."""
    y, x = np.mgrid[:height, :width]
    squared = (x - points[..., 0, None, None]) ** 2 + (y - points[..., 1, None, None]) ** 2
    bright = np.exp(-squared / (2 * spread**2)).max(axis=1)
    return np.repeat(np.rint(255 * bright).astype(np.uint8)[..., None], 3, axis=-1)


class Brightness(Model):
    """A stand-in whose features are the window's brightness, averaged over stride x stride pixels."""

    def device_features(self, images, stride=8, which="projected", projected_weight=1.0):
        window = jnp.asarray(scemae_jax.model.as_square_images(images))[:, 20:116, 20:116, :1]
        window = window / (255.0 if window.dtype == jnp.uint8 else 1.0)
        return window.reshape(len(window), 96 // stride, stride, 96 // stride, stride, 1).mean(axis=(2, 4))


@pytest.fixture
def brightness(small_architecture) -> Model:
    return Brightness(architecture=small_architecture, params={})


def test_inter_ocular_error_by_hand():
    truth = np.array([[[0.0, 0], [10, 0], [5, 5]], [[0, 0], [0, 20], [5, 5]]])
    predicted = truth + [[[3.0, 4], [0, 0], [0, 10]], [[0, 0], [0, 0], [0, 0]]]
    np.testing.assert_allclose(detection.inter_ocular_error(predicted, truth, (0, 1)), [50, 0])
    row = detection.measure(predicted, truth, (0, 1), method="one", split="test")
    assert (row.method, row.split, row.value, row.deviation, row.n) == ("one", "test", 25, 25, 2)
    # The landmarks' box is 10 x 5 in the first image, 5 x 20 in the second.
    np.testing.assert_allclose(detection.box_diagonal_error(predicted, truth), [500 / 125**0.5, 0], rtol=1e-6)
    assert detection.measure(predicted, truth, None).value == pytest.approx(250 / 125**0.5)


def test_every_image_s_error_is_over_its_own_inter_ocular_distance():
    """Eyes 30 and 60 pixels apart; all five points 3-4-5 and 6-8-10 triangles, or nothing, away from the truth."""
    near = np.array([[50.0, 60], [80, 60], [65, 75], [55, 90], [75, 90]])
    far = np.array([[40.0, 50], [76, 98], [60, 80], [45, 100], [85, 100]])  # the eyes 36 across and 48 down
    truth = np.stack([near, far])
    offsets = np.array([[[3.0, 4], [-3, 4], [0, 5], [6, 8], [0, 0]], [[0, 0], [6, -8], [0, 0], [-10, 0], [3, 4]]])
    # Mean distances (5 + 5 + 5 + 10 + 0) / 5 = 5 of 30, and (0 + 10 + 0 + 10 + 5) / 5 = 5 of 60.
    errors = detection.inter_ocular_error(truth + offsets, truth, scheme_of(5).eyes)
    np.testing.assert_allclose(errors, [100 / 6, 100 / 12], rtol=1e-6)
    assert detection.measure(truth + offsets, truth, scheme_of(5).eyes).value == pytest.approx(12.5)


def test_eyes_of_68_landmarks_are_the_outer_corners():
    truth = np.random.default_rng(0).uniform(0, 136, (1, 68, 2))
    truth[0, 36], truth[0, 45] = [40, 60], [90, 60]
    error = detection.measure(truth + [1.0, 0], truth, scheme_of(68).eyes).value
    assert error == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(136, 136), (68, 204)])
def test_a_planted_head_points_at_the_blob_in_pixels_of_the_images_given(brightness, height, width):
    # One heatmap, the brightness itself; the regressor passes its point on.
    params = {
        "heatmaps": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)},
        "regressor": jnp.eye(2)[None],
        "bias": jnp.zeros((1, 2)),
    }
    head = Head(network=LandmarkHead(1, 1, 1, 200.0), params=params, reads=Reads(1, "both"))
    points = np.array([[[0.3, 0.6]], [[0.5, 0.5]], [[0.7, 0.25]]]) * [width, height]
    found = brightness.with_head(head).detect(blobs(points, height, width, spread=height / 20))
    np.testing.assert_allclose(found, points, atol=0.6 * max(1, width / 136))
    assert brightness.with_head(head).detect(np.zeros((0, height, width, 3), np.uint8)).shape == (0, 1, 2)


def test_a_head_learns_where_blobs_are_through_the_network(small_model):
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 0.7, (160, 1, 2)) * [102, 68]  # not square: pixels of the caller's images
    images = blobs(points, 68, 102, spread=5.0)
    model = scemae_jax.fit_detector(
        small_model, images[:128], points[:128], steps=250, heatmaps=8, learning_rate=1e-2, seed=1,
        linear={"below": 0},
    )  # fmt: skip
    distances = np.linalg.norm(model.detect(images[128:]) - points[128:], axis=-1)
    assert distances.mean() < 2
    assert small_model.heads == {}


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """`prepared(model, images, landmarks, **settings)`: the training task that `fit_head` would run."""

    def prepare(model, images, landmarks, **settings):
        tasks = []
        monkeypatch.setattr(landmark_heads.loop, "fit", lambda task, **_: tasks.append(task) or task)
        fields = default().detect
        fields.update(settings)
        landmark_heads.fit_head(model, images, landmarks, fields, seed=0, workdir=tmp_path, name="detect_5")
        return tasks[0]

    return prepare


def test_mirrored_images_are_learnt_from_with_their_landmarks_renumbered(brightness, prepared):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 136, 136, 3)).astype(np.uint8)
    landmarks = rng.uniform(20, 115, (3, 5, 2))
    task = prepared(brightness, images, landmarks, mirror=True)

    # Pixel x becomes 135 - x; right and left eye change places, as do the corners of the mouth.
    mirrored = landmarks[:, [1, 0, 2, 4, 3]] * [-1, 1] + [135, 0]
    expected = np.concatenate([landmarks, mirrored])
    resident = task.inputs["annotated"].resident
    np.testing.assert_allclose(resident["landmarks"], 2 * (expected - 20) / 95 - 1, atol=1e-6)
    first, second = np.split(np.asarray(resident["inputs"]), 2)
    np.testing.assert_allclose(second, first[:, :, ::-1], atol=1e-6)


def test_batches_are_no_larger_than_the_data_and_epochs_become_steps(brightness, prepared):
    images, landmarks = np.zeros((6, 136, 136, 3), np.uint8), np.full((6, 5, 2), 60.0)
    task = prepared(brightness, images, landmarks, batch_size=32, epochs=10.0, least_steps=0)
    assert (task.inputs["annotated"].batch_size, task.steps) == (6, 10)
    assert sorted(next(task.inputs["annotated"].batches)["number"]) == [0, 1, 2, 3, 4, 5]
    task = prepared(brightness, images, landmarks, batch_size=4, epochs=10.0, least_steps=0)
    assert (task.inputs["annotated"].batch_size, task.steps) == (4, 15)
    assert (
        prepared(brightness, images, landmarks, batch_size=4, epochs=10.0).steps == default().detect.least_steps == 400
    )


def test_the_cosine_may_lie_over_more_epochs_than_are_trained(brightness, prepared):
    """ContrastLandmark's MAFL: 120 epochs of a cosine over 200, so the rate ends at (1 + cos(0.6 pi)) / 2 = 0.3455."""
    images, landmarks = np.zeros((8, 136, 136, 3), np.uint8), np.full((8, 5, 2), 60.0)
    settings = {"batch_size": 4, "epochs": 120.0, "least_steps": 0, "learning_rate": 1e-3}
    task = prepared(brightness, images, landmarks, cosine_epochs=200.0, **settings)
    assert task.steps == 240
    assert float(task.schedule(0)) == pytest.approx(1e-3)
    assert float(task.schedule(task.steps)) == pytest.approx(0.3455e-3, rel=1e-2)
    # Adam's step has the size of the rate where the gradient stays the same: the last one is the schedule's.
    weights = {"kernel": jnp.zeros(1)}
    state = task.optimizer.init(weights)
    for _ in range(task.steps):
        updates, state = task.optimizer.update({"kernel": jnp.ones(1)}, state, weights)
    assert float(-updates["kernel"][0]) == pytest.approx(0.3455e-3, rel=2e-2)
    whole = prepared(brightness, images, landmarks, **settings)
    assert (whole.steps, float(whole.schedule(whole.steps))) == (240, 0.0)


def test_a_head_reads_projected_features_with_its_weight(small_model):
    """In training and in use alike; the backbone's features stay as they are."""
    images = np.random.default_rng(0).integers(0, 256, (2, 136, 136, 3), np.uint8)
    plain, weighted = (np.asarray(small_model.features(images, which="both", projected_weight=w)) for w in (1.0, 7.0))
    width = small_model.architecture.backbone.variant.width
    np.testing.assert_array_equal(weighted[..., :width], plain[..., :width])
    np.testing.assert_allclose(weighted[..., width:], 7 * plain[..., width:], rtol=1e-6)
    # A linear head that sums all features over all places: what it says tells which features it was given.
    kernel = np.ones((plain[0].size, 2), np.float32)
    head = Head(
        network=LinearHead(1), reads=Reads(8, "both", 7.0),
        params={"linear": {"kernel": kernel, "bias": np.zeros(2, np.float32)}},
    )  # fmt: skip
    found = (small_model.with_head(head).detect(images)[:, 0, 0] - 20) * 2 / 95 - 1
    np.testing.assert_allclose(found, weighted.sum(axis=(1, 2, 3)), rtol=1e-3, atol=1e-2)


def test_bad_annotations_are_errors(brightness):
    images, landmarks = np.zeros((2, 136, 136, 3), np.uint8), np.full((2, 5, 2), 60.0)
    with pytest.raises(ValueError, match="0 given"):
        scemae_jax.fit_detector(brightness, images[:0], landmarks[:0])
    landmarks[1, 3, 0] = np.nan
    with pytest.raises(ValueError, match="2 given, 1 unknown coordinates"):
        scemae_jax.fit_detector(brightness, images, landmarks)
    with pytest.raises(ValueError, match=r"flipping is defined for \[0, 5, 68\] landmarks, not 4"):
        scemae_jax.fit_detector(brightness, images, np.full((2, 4, 2), 60.0), mirror=True)
    with pytest.raises(AttributeError, match=r"kernel_sise.*kernel_size"):
        scemae_jax.fit_detector(brightness, images, landmarks, kernel_sise=1)


def test_features_that_do_not_fit_are_computed_for_each_batch(small_model, tmp_path):
    """The same head as from kept features, mirrored images included."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 136, 136, 3), np.uint8)
    landmarks = rng.uniform(30, 100, (5, 5, 2)).astype(np.float32)
    heads = []
    for gib in (1.0, 0.0):
        settings = default().detect
        settings.update({"steps": 6, "heatmaps": 2, "mirror": True, "batch_size": 4, "memory_gib": gib})
        workdir = tmp_path / str(gib)
        heads.append(
            landmark_heads.fit_head(small_model, images, landmarks, settings, seed=0, workdir=workdir, name="detect")
        )
    kept, computed = (small_model.with_head(head).detect(images) for head in heads)
    np.testing.assert_allclose(computed, kept, atol=0.05)
    start = small_model.with_head(heads[0]).heads["5"].params["bias"]
    assert np.abs(start).max() > 0  # it learnt
