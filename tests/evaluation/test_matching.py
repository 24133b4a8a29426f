"""Landmark matching against planted points, NumPy and the figures that come with real data."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scemae_jax.data.record import Faces
from scemae_jax.evaluation import matching
from scemae_jax.evaluation.matching import Kind
from scemae_jax.faces.landmarks import five_points
from scemae_jax.ops import correspondence
from scemae_jax.ops.tps import ThinPlateWarp

UNITS = 70 / 96  # of the protocol in a pixel


def faces_of(images, landmarks) -> Faces:
    return Faces(images=images, landmarks=np.float32(landmarks), subjects=np.arange(len(images)))


def upsampled_to_window(features):
    """Bilinear with half-pixel centres: output pixel i reads position (i + 0.5) g / 96 - 0.5, held at the edges."""
    side = len(features)
    position = np.clip((np.arange(96) + 0.5) * side / 96 - 0.5, 0, side - 1)
    lower = np.minimum(np.floor(position).astype(int), max(side - 2, 0))
    upper, share = np.minimum(lower + 1, side - 1), position - lower
    rows = features[lower] * (1 - share)[:, None, None] + features[upper] * share[:, None, None]
    return rows[:, lower] * (1 - share)[:, None] + rows[:, upper] * share[:, None]


def test_planted_features_are_found_at_their_pixels():
    rng = np.random.default_rng(0)
    reference, other = rng.normal(size=(2, 96, 96, 16)).astype(np.float32)
    other *= rng.uniform(1, 50, (96, 96, 1))  # long vectors must not attract: only the direction counts
    queries = np.array([[0, 0], [95, 95], [3, 60], [40, 41]])
    places = np.array([[95, 0], [17, 23], [60, 3], [0, 95]])
    other[places[:, 1], places[:, 0]] = 0.01 * reference[queries[:, 1], queries[:, 0]]
    found = correspondence.predict_matches(reference, other, jnp.asarray(queries + 0.3, jnp.float32), 96)
    np.testing.assert_array_equal(found, places)


@pytest.mark.parametrize(("side", "other_side"), [(6, 12), (12, 6), (24, 24)])
def test_matches_are_the_best_pixels_of_a_brute_force(side, other_side):
    rng = np.random.default_rng(side)
    reference, other = rng.normal(size=(side, side, 5)), rng.normal(size=(other_side, other_side, 5))
    queries = np.concatenate([rng.uniform(0, 95, (20, 2)), [[-7, 50], [120, 99]]])  # two outside: clipped
    found = np.asarray(correspondence.predict_matches(*map(jnp.float32, (reference, other, queries)), 96)).astype(int)

    wide = [upsampled_to_window(m) for m in (reference, other)]
    wide = [m / np.linalg.norm(m, axis=-1, keepdims=True) for m in wide]
    for (x, y), (found_x, found_y) in zip(np.clip(np.rint(queries), 0, 95).astype(int), found, strict=True):
        similarity = wide[1] @ wide[0][y, x]
        assert similarity[found_y, found_x] == pytest.approx(similarity.max(), abs=1e-6)


def test_error_is_in_pixels_of_a_70x70_image():
    errors = matching.matching_error(
        np.array([[3.0, 4.0], [96.0, 0.0], [5.0, 5.0]]), np.array([[0, 0], [0, 0], [5, 5]])
    )
    np.testing.assert_allclose(errors, [3.6458333, 70, 0], rtol=1e-6)


def by_case(rows):
    """Value, deviation and n of measurements of one kind of features."""
    return {row.variant["case"]: (row.value, row.deviation, row.n) for row in rows}


def errors_of(**fields) -> matching.Errors:
    return matching.Errors(**fields, clamped=np.zeros_like(fields["far"]))


def test_errors_are_averaged_over_landmarks_and_pairs_by_hand():
    errors = errors_of(
        same=np.array([[1.0, 3], [8, 4]]),
        different=np.array([[2.0, 4], [10, 2]]),
        far=np.array([[False, True], [True, True]]),
    )
    assert by_case(errors.measurements()) == {
        "same": (4.0, 2.0, 4),  # 16 / 4; the pairs' means are 2 and 6
        "different": (4.5, 1.5, 4),  # 18 / 4; 3 and 6
        "different, far": (16 / 3, 1.0, 3),  # 4, 10 and 2; 4 and 6
    }
    near = errors_of(same=errors.same, different=errors.different, far=np.array([[False, False], [False, True]]))
    assert by_case(near.measurements())["different, far"] == (2.0, 0.0, 1)
    assert by_case(near[:1].measurements())["different, far"] == (None, None, 0)


def test_pairs_are_consecutive():
    np.testing.assert_array_equal(matching.consecutive_pairs(7), [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(matching.consecutive_pairs(7, limit=2), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(matching.consecutive_pairs(4, limit=9), [[0, 1], [2, 3]])
    assert matching.consecutive_pairs(1).shape == (0, 2)


@pytest.fixture(scope="module")
def coded() -> Faces:
    """Six images whose colours say which point of one common plane is seen; each sees another part of it."""
    rng = np.random.default_rng(1)
    shifts = rng.uniform(-12, 12, (6, 2))
    landmarks = np.array([[48.0, 50], [88, 50], [68, 70], [52, 86], [84, 86]]) + shifts[:, None]
    y, x = np.mgrid[:136, :136]
    codes = [np.stack([x - dx, y - dy, np.full_like(x, 0)], axis=-1) for dx, dy in shifts]
    images = np.clip(np.rint(1.4 * (np.array(codes) + 20)), 0, 255)
    images[..., 2] = 255
    return faces_of(images.astype(np.uint8), landmarks)


def colour_code(views):
    """Unit-free direction of each colour: the cosine is highest where the colours are equal."""
    return (views - jnp.array([0.5, 0.5, 0.7]))[:, 20:116, 20:116]


def views_by_hand(faces: Faces, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of image `index` warped once and twice."""
    first, second = jax.random.split(jax.random.fold_in(jax.random.key(seed), index))
    once = ThinPlateWarp.sample(first).landmarks(faces.landmarks[index], 136, 136)
    return np.asarray(once), np.asarray(ThinPlateWarp.sample(second).landmarks(once, 136, 136))


def test_features_that_know_the_place_match_and_own_location_errs_as_the_warps_say(coded):
    # Nine pairs: more than go at once, and images that come back in another pair and role.
    pairs = np.array([[0, 1], [2, 3], [4, 5], [1, 0], [3, 2], [5, 4], [0, 2], [0, 3], [5, 1]])
    found = matching.match(coded, {"code": colour_code, "own": None}, pairs=pairs, seed=3)
    summary = by_case(found[Kind("code")].measurements())
    assert summary["same"][0] < 1  # rounding to pixels, three times
    assert summary["different"][0] < 1

    once, twice = zip(*(views_by_hand(coded, i, seed=3) for i in range(6)), strict=True)
    same = [UNITS * np.linalg.norm(twice[a] - once[a], axis=-1) for a, _ in pairs]
    different = np.array([UNITS * np.linalg.norm(twice[a] - once[b], axis=-1) for a, b in pairs])
    np.testing.assert_allclose(found[Kind("own")].same, same, atol=1e-4)
    np.testing.assert_allclose(found[Kind("own")].different, different, atol=1e-4)
    for errors in found.values():
        np.testing.assert_array_equal(errors.far, different > 8)
    assert 0 < (different > 8).sum() < different.size
    own = by_case(found[Kind("own")].measurements())
    assert own["different, far"][0] == pytest.approx(different[different > 8].mean(), abs=1e-4)
    assert own["different, far"][2] == (different > 8).sum()
    assert own["different"][1] == pytest.approx(different.mean(axis=1).std(), abs=1e-4)


def test_a_seed_gives_the_same_numbers_and_another_gives_others(coded):
    pairs = np.array([[0, 1]])
    first, again, other = (matching.match(coded, {"own": None}, pairs=pairs, seed=s)[Kind("own")] for s in (5, 5, 6))
    np.testing.assert_array_equal(first.different, again.different)
    assert not np.array_equal(first.different, other.different)


def unwarped(keys, images, landmarks) -> matching.Views:
    return matching.Views(images, images, landmarks, landmarks)


def test_a_query_outside_the_window_is_clamped_and_its_truth_left_where_it_is(monkeypatch):
    monkeypatch.setattr(matching, "warped_views", unwarped)
    images = np.random.default_rng(4).integers(0, 256, (2, 136, 136, 3)).astype(np.uint8)
    images[1, 20 + 50, 20 + 30] = images[0, 20 + 40, 20]  # the query's pixel, (0, 40) of the window, is at (30, 50)
    landmarks = np.array([[[4, 60], [68, 68]], [[8, 60], [71, 72]]])  # in the window (-16, 40), (48, 48); (-12, 40)
    features = {"own": None, "colours": lambda views: views[:, 20:116, 20:116] - 0.5}
    found = matching.match(faces_of(images, landmarks), features, pairs=np.array([[0, 1]]), seed=0)
    for errors in found.values():
        np.testing.assert_array_equal(errors.clamped, [[True, False]])
        np.testing.assert_array_equal(errors.far, [[True, False]])  # 12 pixels are 8.75 units
        np.testing.assert_allclose(errors.same, [[UNITS * 16, 0]], rtol=1e-6)
        assert [row.n for row in errors.measurements()] == [2, 2, 1]
    np.testing.assert_allclose(found[Kind("own")].different, [[UNITS * 12, UNITS * 5]], rtol=1e-6)
    assert found[Kind("colours")].different[0, 0] == pytest.approx(UNITS * np.hypot(42, 10))  # (30, 50) from (-12, 40)


def test_unknown_landmarks_and_no_pairs_are_errors(coded):
    with pytest.raises(ValueError, match="no pair to match: 1 annotated images"):
        matching.match(coded.take(np.array([0])), {"own": None}, pairs=matching.consecutive_pairs(1), seed=0)
    landmarks = coded.landmarks.copy()
    landmarks[3, 1] = np.nan
    faces = faces_of(coded.images, landmarks)
    with pytest.raises(ValueError, match="annotated"):
        matching.match(faces, {"own": None}, pairs=np.array([[0, 1]]), seed=0)
    assert len(faces.annotated()) == 5


def blurred_colours(views):
    """Colours of the window, coarse and mixed, so that matches are neither perfect nor at random."""
    return views[:, 20:116, 20:116].reshape(-1, 12, 8, 12, 8, 3).mean(axis=(2, 4)) - jnp.array([0.4, 0.6, 0.5])


def test_a_position_s_mean_is_over_the_images():
    images = np.random.default_rng(2).uniform(size=(5, 8, 8, 3)).astype(np.float32)
    found = matching.position_mean(lambda views: jnp.asarray(views) ** 2, images, batch=2)
    np.testing.assert_allclose(found, np.mean(images.astype(np.float64) ** 2, axis=0), atol=1e-6)


def test_what_is_position_free_is_measured_as_features_of_their_own(coded):
    mean = np.random.default_rng(2).normal(0, 0.1, (12, 12, 3)).astype(np.float32)
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    found = matching.match(coded, {"blurred": blurred_colours}, pairs=pairs, seed=0, position_means={"blurred": mean})
    assert list(found) == [Kind("blurred"), Kind("blurred", position_free=True)]
    features = {"plain": blurred_colours, "freed": lambda views: blurred_colours(views) - mean}
    alone = matching.match(coded, features, pairs=pairs, seed=0)
    for kind, own in ((Kind("blurred"), Kind("plain")), (Kind("blurred", position_free=True), Kind("freed"))):
        np.testing.assert_allclose(found[kind].same, alone[own].same, atol=1e-6)
        np.testing.assert_allclose(found[kind].different, alone[own].different, atol=1e-6)
    assert np.mean(np.abs(alone[Kind("plain")].different - alone[Kind("freed")].different)) > 0.1


def test_pairings_of_the_same_images_share_their_maps_and_are_each_measured_as_if_alone(coded):
    fixed = matching.consecutive_pairs(6)
    pairings = [fixed, *matching.random_pairings(fixed, 4, seed=0)]
    seen = []

    def counted(views):
        seen.append(len(views))
        return blurred_colours(views)

    means = {"blurred": np.full((12, 12, 3), 0.05, np.float32)}
    features = {"own": None, "blurred": counted}
    together = matching.match(coded, features, pairs=np.concatenate(pairings), seed=7, position_means=means)
    assert seen == [24]  # the two views of six images, filled up to one batch; alone a pairing takes as much
    for number, pairs in enumerate(pairings):
        alone = matching.match(coded, features, pairs=pairs, seed=7, position_means=means)
        assert list(alone) == list(together) == [Kind("own"), Kind("blurred"), Kind("blurred", position_free=True)]
        for name, errors in together.items():
            part = errors[3 * number : 3 * number + 3]
            np.testing.assert_allclose(part.same, alone[name].same, atol=1e-6)
            np.testing.assert_allclose(part.different, alone[name].different, atol=1e-6)
            np.testing.assert_array_equal(part.far, alone[name].far)


def test_random_pairings_put_each_image_into_one_pair():
    pairs = matching.consecutive_pairs(21, limit=9)
    found = matching.random_pairings(pairs, 3, seed=5)
    assert found.shape == (3, 9, 2)
    for pairing in found:
        assert sorted(pairing.ravel()) == list(range(18))
    assert len({pairing.tobytes() for pairing in (pairs, *found)}) == 4
    np.testing.assert_array_equal(matching.random_pairings(pairs, 2, seed=5), found[:2])
    assert not np.array_equal(matching.random_pairings(pairs, 3, seed=6), found)
    assert matching.random_pairings(pairs, 0, seed=5).shape == (0, 9, 2)


def test_pairings_are_summed_up_by_hand():
    errors = errors_of(  # three pairings of two pairs of two landmarks
        same=np.array([[1.0, 2], [3, 2], [4, 5], [5, 6], [9, 9], [9, 5]]),
        different=np.array([[1.0, 1], [1, 1], [3, 3], [3, 3], [2, 2], [2, 2]]),
        far=np.array([[False, False], [False, False], [True, False], [False, False], [False, False], [False, False]]),
    )
    rows = matching.over_pairings(errors, 3, stride=4)
    assert [row.variant for row in rows] == [
        {"case": case, "stride": 4, "random_pairings": 3} for case in ("same", "different", "different, far")
    ]
    found = by_case(rows)
    assert found["same"] == (pytest.approx(5), pytest.approx(3), 3)  # of 2, 5 and 8: (9 + 0 + 9) / 2
    assert found["different"] == (pytest.approx(2), pytest.approx(1), 3)
    assert found["different, far"] == (3.0, None, 1)  # one pairing has any


def test_raw_patches_are_the_surroundings_without_their_mean_colour():
    images = np.random.default_rng(3).uniform(size=(2, 136, 136, 3)).astype(np.float32)
    found = np.asarray(matching.raw_patches(images))
    assert found.shape == (2, 96, 96, 675)
    for which, row, column in [(0, 0, 0), (1, 95, 95), (1, 10, 70), (0, 95, 0)]:
        patch = images[which, row + 13 : row + 28, column + 13 : column + 28]  # 15x15 around (20 + row, 20 + column)
        expected = (patch - patch.mean(axis=(0, 1))).transpose(2, 0, 1)
        np.testing.assert_allclose(found[which, row, column], expected.ravel(), atol=1e-6)


def test_baselines_on_real_faces_are_those_of_the_data_s_readme(ytf68: Path):
    with (ytf68 / "landmarks.csv").open() as file:
        rows = [row for row in csv.reader(file) if row[2] == "test"]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:120]]
    landmarks = five_points(np.array([row[3:] for row in rows], np.float32).reshape(-1, 68, 2))
    names = [row[0] for row in rows]
    folder = ytf68 if (ytf68 / names[0]).exists() else ytf68 / "images"
    images = np.stack([np.asarray(Image.open(folder / name).convert("RGB")) for name in names])
    faces, pairs = faces_of(images, landmarks), matching.consecutive_pairs(120)

    own = by_case(matching.match(faces, {"own": None}, pairs=pairs, seed=0)[Kind("own")].measurements())
    assert own["same"][0] == pytest.approx(3.85, rel=0.1)
    assert own["different"][0] == pytest.approx(11.05, rel=0.1)
    patches = by_case(
        matching.match(faces, {"raw": matching.raw_patches}, pairs=pairs[:4], seed=0)[Kind("raw")].measurements()
    )
    assert patches["same"][0] < 1  # 0.41 over 300 pairs
    assert 18 < patches["different"][0] < 30  # 24.06
