"""Few annotations: what is drawn and warped, planted blobs that heads must find, rows that outlive an interruption."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scemae_jax import fit_detector
from scemae_jax.data.record import Faces
from scemae_jax.evaluation import detection
from scemae_jax.evaluation.few_annotations import HEADS
from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Model, as_square_images
from scemae_jax.models.convnet import ConvNet
from scemae_jax.models.heads import LandmarkHead, LinearHead
from scemae_jax.systems.sce_mae import few_annotations, landmark_heads
from scemae_jax.systems.sce_mae.settings import default
from scemae_jax.training import optimizer
from scemae_jax.training.processes import OutOfTime


def blob_faces(number, seed=0, landmarks=5):
    """Dark images with a bright blob that moves by up to 12 pixels; its landmarks keep their places around it."""
    rng = np.random.default_rng(seed)
    centres = 68 + rng.uniform(-12, 12, (number, 1, 2))
    y, x = np.mgrid[:136, :136]
    squared = (x - centres[..., 0, None]) ** 2 + (y - centres[..., 1, None]) ** 2
    images = np.rint(255 * np.exp(-squared / 200)).astype(np.uint8)
    around = np.array([[-15, -10], [15, -10], [0, 0], [-10, 15], [10, 15]])[:landmarks]
    return Faces(
        images=np.repeat(images[..., None], 3, axis=-1),
        landmarks=(centres + around).astype(np.float32),
        subjects=np.arange(number),
    )


def brightness(images):
    """Features: the window's mean brightness of each 8x8 patch, and what lacks to full."""
    mean = few_annotations.patch_colours(images).mean(axis=-1, keepdims=True) / 4 + 0.45
    return jnp.concatenate([mean, 1 - mean], axis=-1)


def settings(**changes):
    config = default()
    few = config.few_shot
    few.counts, few.seeds, few.landmarks, few.views, few.heatmaps, few.steps = (2, 4), 2, (5,), 8, 2, 5
    few.scratch.views, few.scratch.steps, few.scratch.width = 20, 3, 8
    few.update(changes)
    return config


def protocol(config, **changes):
    fields = {
        "settings": config.few_shot,
        "linear": config.detect.linear,
        "features": {"brightness": brightness},
        "train": blob_faces(6),
        "test": blob_faces(3, seed=1),
        "unlabelled": blob_faces(20, seed=2).images,
        "forms": {5: lambda points: points},
        "baseline": True,
    }
    return few_annotations.Protocol(**(fields | changes))


def test_every_image_is_drawn_before_any_is_drawn_again():
    """Images of one colour each, which a warp keeps in the middle of the frame."""
    colours = np.array([40, 90, 140, 190, 240], np.uint8)
    images = np.broadcast_to(colours[:, None, None, None], (5, 136, 136, 3))
    landmarks = np.full((5, 1, 2), 68.0, np.float32)
    views, points = landmark_heads.warped_faces(images, landmarks, 12, seed=3)
    drawn = np.rint(np.asarray(views)[:, 68, 68, 0] * 255).astype(int)
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == sorted(colours.tolist())
    assert len(set(drawn[10:])) == 2
    assert points.shape == (12, 1, 2)
    assert len(landmark_heads.warped_faces(images, landmarks, 3, seed=0)[0]) == 5  # no image is left out


def test_landmarks_go_with_the_warps():
    faces = blob_faces(3)
    views, points = landmark_heads.warped_faces(faces.images, faces.landmarks, 9, seed=0)
    for view, centre in zip(np.asarray(views), points[:, 2], strict=True):
        y, x = np.mgrid[:136, :136]
        weight = view[..., 0] ** 2
        found = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(found, centre, atol=1.0)
    assert np.abs(points - faces.landmarks[0]).max() > 1  # something moved


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (LinearHead(5), 0.5),
        (LandmarkHead(5, 4, 1, 50.0), 0.75),
        pytest.param(ConvNet(5, width=8), 0.5, marks=pytest.mark.slow),
    ],
)
def test_training_finds_the_blob(network, left):
    faces, config = blob_faces(64), default()
    inputs = few_annotations.standardised(faces.images) if isinstance(network, ConvNet) else brightness(faces.images)
    targets = FRAME.normalise(faces.landmarks)
    scratch = config.few_shot.scratch
    scratch.steps, scratch.batch_size = 120, 16
    by = few_annotations._optimizer(optimizer.adamw, scratch, 64)
    params = few_annotations.train(network, inputs, targets, by, seed=0)
    found = few_annotations.predict(network, params, inputs)
    moved = np.abs(targets - targets.mean(axis=0)).mean()
    assert np.abs(found - targets).mean() < left * moved


def test_linear_head_of_a_few_images(brightness_model, capsys):
    """Six images and unlabelled others: a blob's place is a linear function of where it is bright, nearly."""
    train, test = blob_faces(6), blob_faces(20, seed=1)
    fitted = fit_detector(
        brightness_model, train.images, train.landmarks, unlabelled=blob_faces(100, seed=2).images,
        linear={"strength": 1e-4, "which": "backbone"},
    )  # fmt: skip
    assert fitted.heads["5"].kind == "linear"
    assert capsys.readouterr().out == (
        "landmark head: linear, since 6 annotated images are fewer than linear.below=200\n"
    )
    error = np.linalg.norm(fitted.detect(test.images) - test.landmarks, axis=-1).mean()
    mean_shape = np.linalg.norm(train.landmarks.mean(axis=0) - test.landmarks, axis=-1).mean()
    assert error < 0.4 * mean_shape
    alone = fit_detector(
        brightness_model, train.images, train.landmarks, linear={"strength": 1e-4, "which": "backbone"}
    )
    assert np.linalg.norm(alone.detect(test.images) - test.landmarks, axis=-1).mean() < 0.7 * mean_shape


@pytest.fixture
def brightness_model(small_architecture):
    class Brightness(Model):
        def device_features(self, images, stride=8, which="projected", projected_weight=1.0):
            return brightness(as_square_images(images))

    return Brightness(architecture=small_architecture, params={})


def test_one_unlabelled_image_is_refused(brightness_model):
    faces = blob_faces(2)
    with pytest.raises(ValueError, match="1 unlabelled faces do not show how features vary"):
        fit_detector(brightness_model, faces.images, faces.landmarks, unlabelled=faces.images[:1])


def test_settings_that_a_linear_head_does_not_have_are_refused(brightness_model):
    faces = blob_faces(2)
    with pytest.raises(ValueError, match=r"2 images get a linear head \(linear.below is 200\), which has no epochs"):
        fit_detector(brightness_model, faces.images, faces.landmarks, epochs=3.0)


def test_a_weight_of_features_that_are_not_read_is_refused(brightness_model):
    faces = blob_faces(2)
    with pytest.raises(ValueError, match=r"projected_weight is that .* this head reads 'projected' alone"):
        fit_detector(brightness_model, faces.images, faces.landmarks, projected_weight=3.0)
    with pytest.raises(ValueError, match="this head reads 'backbone' alone"):
        fit_detector(
            brightness_model, faces.images, faces.landmarks, projected_weight=3.0, which="backbone", linear={"below": 0}
        )


@pytest.mark.slow
def test_heads_see_features_of_unit_length(tmp_path):
    """A kind of features that is a hundred times longer gets the same head and the same error."""
    config = settings(counts=(4,), seeds=1, heads=("plain", "linear"))
    kinds = {"plain": brightness, "longer": lambda images: 100 * brightness(images)}
    rows = protocol(config, features=kinds, baseline=False).run(tmp_path / "rows.jsonl")
    errors = {(row.method, row.variant.get("head")): row.value for row in rows}
    for head, apart in (("plain", 1e-3), ("linear", 1e-2)):
        assert errors["longer", head] == pytest.approx(errors["plain", head], rel=apart)


def test_a_row_for_each_draw_and_method(tmp_path):
    rows = as_table(protocol(settings()).run(tmp_path / "rows.jsonl"))
    heads = ("prior work's head", "plain", "linear")
    methods = {("mean shape", ""), *(("brightness", head) for head in heads), ("network from scratch", "")}
    found = zip(rows["annotated_images"], rows["draw"], rows["method"], rows["head"].fillna(""), strict=True)
    assert {(count, draw, (method, head)) for count, draw, method, head in found} == {
        (count, draw, method) for count in (2, 4) for draw in (0, 1) for method in methods
    }
    assert np.isfinite(rows["value"]).all()


def test_mean_shape_is_that_of_the_drawn_images_and_smaller_draws_are_part_of_larger_ones(tmp_path):
    config, train, test = settings(), blob_faces(6), blob_faces(3, seed=1)
    rows = protocol(config, features={}, baseline=False).run(tmp_path / "rows.jsonl")
    order = np.random.default_rng(1).permutation(6)
    for row in rows:
        if row.variant["draw"] == 1:
            shape = train.landmarks[order[: row.variant["annotated_images"]]].mean(axis=0)
            expected = detection.inter_ocular_error(
                np.broadcast_to(shape, test.landmarks.shape), test.landmarks, (0, 1)
            )
            assert row.value == pytest.approx(float(expected.mean()), rel=1e-4)


def test_an_interrupted_run_goes_on_from_its_rows(tmp_path):
    path, work = tmp_path / "rows.jsonl", protocol(settings(), features={}, baseline=False)
    whole = work.run(tmp_path / "whole.jsonl")
    drawn = {"annotated_images": 2, "draw": 0}
    path.write_text(json.dumps(whole[0].row() | {"value": -1.0}) + "\n")
    rows = work.run(path)
    assert list(select(as_table(rows), **drawn)["value"]) == [-1.0]  # not done again
    assert rows[1:] == whole[1:]
    with pytest.raises(OutOfTime, match="stopped after 0 of 4 draws"):
        work.run(tmp_path / "late.jsonl", stop_at=time.monotonic() - 1)


@pytest.mark.parametrize("head", ["plain", "linear"])
def test_only_the_heads_asked_for_are_trained(tmp_path, head):
    rows = protocol(settings(counts=(4,), seeds=1, heads=(head,)), baseline=False).run(tmp_path / "rows.jsonl")
    methods = {(row.method, row.variant.get("head")) for row in rows} - {("mean shape", None)}
    assert methods == {("brightness", HEADS[head])}


def test_weight_decay_weighs_at_any_number_of_landmarks_as_at_five():
    """A landmark's weights get a 68th of the loss's gradient, or a fifth; Adam must go the same way with both.

    By hand for five: gradient 0.2 / 5, weight 1 and decay 0.05 add up to 0.09, gradient -0.5 / 5 to -0.05: Adam's first
    step is the rate in the direction of their sign. With an uncorrected decay the second would be positive at 68.
    """
    config = settings(weight_decay=5e-2, warmup=0.0, learning_rate=1e-2)
    forms = {count: lambda points, count=count: np.repeat(points[:, :1], count, axis=1) for count in (5, 68)}
    trial = few_annotations._Trial(protocol(config, forms=forms, baseline=False))
    weights, gradient = {"kernel": jnp.array([1.0, 1.0])}, jnp.array([0.2, -0.5])
    for count in (5, 68):
        transformation = trial.head_optimizers[count].transformation
        updates, _ = transformation.update({"kernel": gradient / count}, transformation.init(weights), weights)
        assert updates["kernel"][0] < 0 < updates["kernel"][1], count


def test_warps_are_those_of_prior_work():
    """Of the spline's weights half are 0 (its `warpsd_subset`), the others N(0, 0.0005); 0.02, 0.02 and 2 degrees."""
    warps = jax.vmap(landmark_heads.few_annotations_warp)(jax.random.split(jax.random.key(3), 2000))
    weights = np.asarray(warps.weights).ravel()
    assert np.mean(weights == 0) == pytest.approx(0.5, abs=0.005)
    bent = {
        "weights": (weights[weights != 0][:20_000], 0.0005),
        "translation": (np.asarray(warps.translation).ravel(), 0.02),
        "scale": (np.asarray(warps.scale) - 1, 0.02),
        "rotation": (np.degrees(warps.rotation), 2.0),
    }
    for name, (values, deviation) in bent.items():
        assert stats.kstest(values, stats.norm(0, deviation).cdf).pvalue > 0.01, name


def test_counts_beyond_the_annotated_faces_are_left_out(tmp_path):
    rows = protocol(settings(counts=(4, 7)), features={}, baseline=False).run(tmp_path / "rows.jsonl")
    assert {row.variant["annotated_images"] for row in rows} == {4}


def test_mirrored_views_learn_mirrored_landmarks(tmp_path):
    """All blobs of the training faces lie left, those of the test faces right: only mirrored views show such."""
    faces = blob_faces(200)
    left, right = faces.landmarks[:, 2, 0] < 64, faces.landmarks[:, 2, 0] > 72
    errors = {}
    for mirror in (False, True):
        config = settings(counts=(10,), seeds=1, mirror=mirror, views=20, heads=("linear",))
        config.detect.linear.strength = 1e-4
        work = protocol(config, train=faces.take(np.flatnonzero(left)), test=faces.take(np.flatnonzero(right)[:10]),
                        unlabelled=faces.images, baseline=False)  # fmt: skip
        rows = work.run(tmp_path / f"{mirror}.jsonl")
        errors[mirror] = select(as_table(rows), method="brightness", head="linear")["value"].item()
    assert errors[True] < 0.6 * errors[False]


@pytest.mark.slow
def test_the_network_from_scratch_has_as_many_views_as_it_asks_for(tmp_path, monkeypatch):
    """And as many mirrored ones behind them; landmarks go with them."""
    seen = {}

    def train(network, inputs, targets, by, **settings):
        seen[type(network).__name__] = np.asarray(inputs), targets
        return whole(network, inputs, targets, by, **settings)

    whole = few_annotations.train
    monkeypatch.setattr(few_annotations, "train", train)
    protocol(settings(counts=(4,), seeds=1, mirror=True, heads=("plain",))).run(tmp_path / "rows.jsonl")
    assert [len(seen["LandmarkHead"][i]) for i in (0, 1)] == [2 * 8] * 2
    inputs, targets = seen["ConvNet"]
    assert len(inputs) == len(targets) == 2 * 20
    np.testing.assert_array_equal(inputs[20:], inputs[:20, :, ::-1])
    np.testing.assert_allclose(targets[20:, 2], targets[:20, 2] * [-1, 1], atol=1e-5)  # the nose mirrors itself


def test_patch_colours_are_cut_by_rows():
    image = np.arange(136 * 136 * 3, dtype=np.float32).reshape(1, 136, 136, 3) / (136 * 136 * 3)
    found = np.asarray(few_annotations.patch_colours(jnp.asarray(image)))
    expected = (image[0, 20 + 8 : 20 + 16, 20 + 16 : 20 + 24].reshape(-1) - 0.45) / 0.25
    np.testing.assert_allclose(found[0, 1, 2], expected, rtol=1e-5)
    bytes_ = np.asarray(few_annotations.patch_colours(np.rint(image * 255).astype(np.uint8)))
    np.testing.assert_allclose(bytes_, found, atol=0.01)


def test_one_compiled_step_serves_all_draws():
    """The network is traced in the first draw alone: those after it, of other seeds and data, compile nothing."""
    traced = []

    class Traced(LinearHead):
        def __call__(self, features):
            traced.append(features.shape)
            return super().__call__(features)

    config = default().few_shot.scratch
    config.steps, config.batch_size = few_annotations.STEPS_PER_DISPATCH + 3, 2
    by = few_annotations._optimizer(optimizer.adamw, config, 4)
    counts, found = [], []
    for seed in (0, 1, 0):
        inputs = jax.random.normal(jax.random.key(7), (4, 3, 3, 2))
        params = few_annotations.train(Traced(5), inputs, np.zeros((4, 5, 2)), by, seed=seed)
        counts.append(len(traced))
        found.append(np.asarray(params["linear"]["kernel"]))
    assert counts[0] == counts[1] == counts[2] > 0
    np.testing.assert_array_equal(found[0], found[2])  # weights and order are the seed's
    assert np.abs(found[0] - found[1]).max() > 1e-3
