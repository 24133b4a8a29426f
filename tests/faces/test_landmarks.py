"""Landmark schemes against the anatomy: who mirrors whom, where the five points lie, and what is known of others."""

import csv

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from scemae_jax.faces.landmarks import FIVE, five_points, in_form, scheme_of


@pytest.mark.parametrize("count", [5, 68])
def test_mirroring_twice_changes_nothing(count):
    order = scheme_of(count).mirrored_order()
    np.testing.assert_array_equal(order[order], np.arange(count))


def test_who_changes_places_with_whom():
    """Chin, nose bridge and lip middles stay; jaw ends, brows, eye corners and mouth corners swap."""
    order = scheme_of(68).mirrored_order()
    stay = [8, *range(27, 31), 33, 51, 57, 62, 66]
    np.testing.assert_array_equal(np.flatnonzero(order == np.arange(68)), stay)
    for right, left in [(0, 16), (17, 26), (21, 22), (31, 35), (36, 45), (39, 42), (37, 44), (41, 46), (48, 54)]:
        assert order[right] == left
    for right, left in [(60, 64), (61, 63), (67, 65), (50, 52), (59, 55)]:
        assert order[right] == left
    np.testing.assert_array_equal(scheme_of(5).mirrored_order(), [1, 0, 2, 4, 3])
    with pytest.raises(ValueError, match=r"\[0, 5, 68\] landmarks, not 21: set flip=False"):
        scheme_of(21).mirrored_order()


def test_the_mean_of_real_faces_is_its_own_mirror_image(ytf68):
    with (ytf68 / "landmarks.csv").open() as file:
        rows = [row[3:] for row in csv.reader(file) if row[2] == "train"]
    landmarks = np.array(rows, float).reshape(-1, 68, 2)
    for shapes in (landmarks, five_points(landmarks)):
        mean = shapes.mean(axis=0)
        mean -= mean.mean(axis=0)
        cost = cdist(mean, mean * [-1, 1], "sqeuclidean")
        _, best = linear_sum_assignment(cost)  # of all ways to pair the points with their mirror images
        np.testing.assert_array_equal(scheme_of(len(mean)).mirrored_order(), best)


def test_five_points():
    landmarks = np.random.default_rng(0).random((3, 68, 2))
    five = five_points(landmarks)
    np.testing.assert_allclose(five[:, 0], landmarks[:, 36:42].mean(axis=1))
    np.testing.assert_allclose(five[:, 1], landmarks[:, 42:48].mean(axis=1))
    np.testing.assert_array_equal(five[:, 2:], landmarks[:, [30, 48, 54]])
    np.testing.assert_array_equal(five_points(five), five)
    with pytest.raises(ValueError, match="not 5 of 21"):
        five_points(landmarks[:, :21])


def test_forms_are_those_that_the_landmarks_can_be_brought_to():
    landmarks = np.random.default_rng(0).random((3, 68, 2))
    assert (scheme_of(68).forms, scheme_of(5).forms, scheme_of(21).forms) == ((5, 68), (5,), (21,))
    for form in scheme_of(68).forms:
        assert in_form(landmarks, form).shape == (3, form, 2)
    assert scheme_of(68).choose_forms((5, 68)) == [5, 68]
    assert scheme_of(68).choose_forms((68,)) == [68]
    assert scheme_of(21).choose_forms((5, 68)) == [21]
    with pytest.raises(ValueError, match="not 68 of 5"):
        in_form(landmarks[:, :5], 68)


def test_the_eyes_of_68_points_lie_outside_those_of_five(ytf68):
    """On the mean of real faces the outer corners are further out than the centres, at the same height."""
    with (ytf68 / "landmarks.csv").open() as file:
        rows = [row[3:] for row in csv.reader(file) if row[2] == "train"]
    mean = np.array(rows, float).reshape(-1, 68, 2).mean(axis=0)
    corners, centres = mean[list(scheme_of(68).eyes)], five_points(mean)[list(FIVE.eyes)]
    distance = centres[1, 0] - centres[0, 0]
    outward = (corners - centres) / distance * [[-1, 1], [1, 1]]
    assert (outward[:, 0] > 0.1).all()
    assert (outward[:, 0] < 0.3).all()
    assert (np.abs(outward[:, 1]) < 0.05).all()


def test_of_an_unknown_scheme_only_the_number_is_known():
    scheme = scheme_of(3)
    assert (scheme.num_landmarks, scheme.eyes, scheme.mirror, scheme.five) == (3, None, None, None)
    assert scheme.names == ("point 1", "point 2", "point 3")
    assert scheme_of(0).mirrored_order().shape == (0,)  # unannotated images may be flipped
    assert scheme_of(5).names[2] == "nose"
