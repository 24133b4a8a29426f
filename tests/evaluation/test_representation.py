"""Silhouettes and t-SNE of landmark features, on planted clusters and against sums written out."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from scemae_jax.evaluation import representation
from scemae_jax.evaluation.representation import Embedded, Labelled

SMALL = {"perplexity": 5.0, "repeats": 3}


def planted(labels, spread, dimensions=8, seed=0):
    """Noisy directions, one for each label."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(labels) + 1, dimensions))
    features = centres[labels] + spread * rng.normal(size=(len(labels), dimensions))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def distance(x, y, metric):
    if metric == "euclidean":
        return np.sqrt(((x - y) ** 2).sum())
    return 1 - (x @ y) / np.sqrt((x @ x) * (y @ y))


def silhouette_by_hand(points, labels, metric):
    """Rousseeuw's s(i), pair by pair, in float64."""
    points, found = np.asarray(points, np.float64), []
    for i, x in enumerate(points):
        mean_to = {}
        for label in set(labels):
            others = [j for j in range(len(points)) if labels[j] == label and j != i]
            if others:
                mean_to[label] = np.mean([distance(x, points[j], metric) for j in others])
        if labels[i] not in mean_to:
            found.append(0.0)  # alone
            continue
        a = mean_to.pop(labels[i])
        b = min(mean_to.values())
        found.append((b - a) / max(a, b))
    return np.mean(found)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("spread", [0.1, 0.6, 3.0])
def test_silhouette_is_the_sum_written_out(metric, spread):
    labels = [0] * 7 + [1] * 4 + [2] * 9 + [3]  # of the last there is one only
    points = planted(labels, spread) * np.random.default_rng(1).uniform(1, 4, (len(labels), 1)).astype(np.float32)
    found = representation.silhouette(points, np.array(labels), metric)
    assert found == pytest.approx(silhouette_by_hand(points, labels, metric), abs=1e-5)
    assert found == pytest.approx(silhouette_score(points, labels, metric=metric), abs=1e-6)


def test_silhouettes_worked_out():
    # a = 1, b = (10 + 11) / 2 for the outer points and (9 + 10) / 2 for the inner ones.
    line = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0]])
    expected = (2 * (1 - 1 / 10.5) + 2 * (1 - 1 / 9.5)) / 4
    assert representation.silhouette(line, np.array([0, 0, 1, 1]), "euclidean") == pytest.approx(expected)
    # Directions of 0 and 90 degrees, whatever the length: a = 0, b = 1; with the labels crossed a = 1, b = 1/2.
    corner = np.array([[1.0, 0], [5, 0], [0, 1], [0, 7]])
    assert representation.silhouette(corner, np.array([0, 0, 1, 1]), "cosine") == pytest.approx(1)
    assert representation.silhouette(corner, np.array([0, 1, 0, 1]), "cosine") == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="Number of labels is 1"):
        representation.silhouette(corner, np.zeros(4, int), "cosine")


def test_features_are_read_at_the_visible_landmarks():
    """The map of image i has, at pixel (x, y) of the window, the direction that x, y and i point in."""

    def maps(images):
        number = images[:, 0, 0, 0]
        y, x = jnp.mgrid[:96, :96] + 1.0
        return jnp.stack([jnp.stack([x, y, jnp.full_like(x, 10 * i)], axis=-1) for i in number])

    count = representation.BATCH + 3
    images = np.zeros((count, 136, 136, 3), np.float32)
    images[:, 0, 0, 0] = np.arange(count)
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(25, 110, (count, 3, 2)).astype(np.float32)
    landmarks[4, 1] = [19.4, 60]  # beyond the window's left edge, by more than half a pixel
    landmarks[5, 1] = [19.6, 60]
    landmarks[6, 2] = [60, 115.6]
    landmarks[7, 0] = np.nan
    features, labels = representation.landmark_features(maps, images, landmarks)

    expected, which = [], []
    for i in range(count):
        for landmark, (x, y) in enumerate(landmarks[i].astype(np.float64)):
            if (i, landmark) in {(4, 1), (6, 2), (7, 0)}:
                continue
            direction = np.array([max(np.rint(x - 20), 0) + 1, np.rint(y - 20) + 1, 10 * i])
            expected.append(direction / np.linalg.norm(direction))
            which.append(landmark)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, which)
    np.testing.assert_array_equal(representation.landmark_labels(representation.visible(landmarks)), which)


def test_coarse_maps_are_read_between_their_places():
    """A map of 12x12 that grows by 1 a place to the right: half-pixel centres put pixel x at (x + 0.5) / 8 - 0.5."""
    ramp = np.stack([np.tile(np.arange(12.0), (12, 1)), np.ones((12, 12))], axis=-1)
    landmarks = np.array([[[20.0 + x, 70] for x in (0, 4, 11, 40, 95)]], np.float32)
    features, _ = representation.landmark_features(lambda _: jnp.asarray(ramp[None]), np.zeros((1, 1)), landmarks)
    expected = np.clip((np.array([0, 4, 11, 40, 95]) + 0.5) / 8 - 0.5, 0, 11)
    np.testing.assert_allclose(features[:, 0] / features[:, 1], expected, rtol=1e-5)


def test_repeats_start_elsewhere_and_are_averaged_with_their_sample_deviation():
    labels = np.arange(40) % 4
    features = planted(labels, 0.5)
    found = representation.represent(Labelled(features, labels), **SMALL, seed=7)
    runs = [representation.embed(features, perplexity=5.0, seed=s) for s in (7, 8, 9)]
    np.testing.assert_array_equal(found.points, runs[0])
    assert not np.allclose(runs[0], runs[1], atol=1e-2)
    by_hand = [silhouette_by_hand(points, labels, "euclidean") for points in runs]
    np.testing.assert_allclose(found.embedded, by_hand, atol=1e-5)
    mean = sum(by_hand) / 3
    deviation = (sum((s - mean) ** 2 for s in by_hand) / 2) ** 0.5
    assert deviation > 1e-4
    plain, plane = found.measurements(method="planted")
    assert (plain.method, plain.variant, plane.variant) == ("planted", {"space": "feature space"}, {"space": "t-SNE"})
    assert plain.value == pytest.approx(silhouette_by_hand(features, labels, "cosine"), abs=1e-5)
    assert (plane.value, plane.deviation, plane.n) == (
        pytest.approx(mean, abs=1e-5),
        pytest.approx(deviation, abs=1e-5),
        3,
    )
    once = representation.represent(Labelled(features, labels), perplexity=5.0, repeats=1, seed=7).measurements()
    assert once[1].deviation is None
    with pytest.raises(ValueError, match="repeats is 0"):
        representation.represent(Labelled(features, labels), perplexity=5.0, repeats=0, seed=7)


def test_features_that_know_the_landmark_are_told_from_those_that_do_not():
    labels = np.arange(60) % 5
    known = representation.represent(Labelled(planted(labels, 0.1), labels), **SMALL, seed=0).measurements()
    mixed = representation.represent(Labelled(planted(0 * labels, 1.0), labels), **SMALL, seed=0).measurements()
    assert known[0].value > 0.8
    assert known[1].value > 0.5
    assert mixed[0].value < 0.05
    assert mixed[1].value < 0.05


def test_embedded_points_come_back_from_their_file(tmp_path):
    rng = np.random.default_rng(0)
    path, labels = tmp_path / "representation.npz", np.array([0, 1, 1])
    for _ in range(2):  # the second takes the first one's place
        points = {"MAE only": rng.normal(size=(3, 2)), "SCE-MAE": rng.normal(size=(3, 2))}
        Embedded(labels, points).save(path)
        back = Embedded.load(path)
        np.testing.assert_array_equal(back.labels, labels)
        assert list(back.points) == list(points)
        for name in points:
            np.testing.assert_array_equal(back.points[name], points[name])
    assert [file.name for file in tmp_path.iterdir()] == ["representation.npz"]
