"""Sizes and coordinates against arithmetic by hand, and there and back again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scemae_jax.faces.frame import FRAME, Frame


def test_the_window_lies_in_the_centre():
    images = np.random.default_rng(0).integers(0, 256, (2, 136, 136, 3), np.uint8)
    np.testing.assert_array_equal(FRAME.centre_window(images), images[:, 20:116, 20:116])
    larger = Frame(image_size=184, window=128)
    assert larger.offset == 28
    images = np.random.default_rng(0).integers(0, 256, (2, 184, 184, 3), np.uint8)
    np.testing.assert_array_equal(larger.centre_window(images), images[:, 28:156, 28:156])


@pytest.mark.parametrize("sizes", [(7, 4), (136, 95)])
def test_a_window_that_is_not_in_the_centre_is_refused(sizes):
    """A mirrored image's window would not be the mirrored window."""
    with pytest.raises(ValueError, match=f"window is {sizes[1]} and image_size {sizes[0]}: one is odd"):
        Frame(*sizes)


def test_the_window_of_a_mirrored_image_is_the_mirrored_window():
    images = np.random.default_rng(0).random((2, 9, 9, 3))
    frame = Frame(image_size=9, window=5)
    np.testing.assert_array_equal(frame.centre_window(images[:, :, ::-1]), frame.centre_window(images)[:, :, ::-1])


def test_landmarks_are_normalised_over_the_window():
    """-1 and 1 are the centres of the window's outer pixels."""
    points = np.array([[[20.0, 20.0], [115.0, 115.0], [67.5, 20.0]]])
    np.testing.assert_allclose(FRAME.normalise(points), [[[-1, -1], [1, 1], [0, -1]]])
    np.testing.assert_allclose(FRAME.denormalise(np.array([[-1.0, 1.0], [0.0, 0.0]])), [[20, 115], [67.5, 67.5]])
    points = np.array([[28.0, 155.0], [91.5, 28.0]])
    np.testing.assert_allclose(Frame(image_size=184, window=128).normalise(points), [[-1, 1], [0, -1]])


@given(
    st.tuples(st.integers(2, 150), st.integers(0, 75)).map(lambda drawn: (drawn[0] + 2 * drawn[1], drawn[0])),
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
)
def test_there_and_back(sizes, size):
    frame = Frame(*sizes)
    points = np.random.default_rng(0).uniform(0, frame.image_size, (5, 2))
    np.testing.assert_allclose(frame.from_window(frame.to_window(points)), points)
    np.testing.assert_allclose(frame.denormalise(frame.normalise(points)), points)
    placed, given_points = frame.place(size), np.random.default_rng(1).uniform(0, 1, (5, 2)) * size
    back = placed.from_square(placed.to_square(given_points))
    np.testing.assert_allclose(back, given_points, atol=1e-3 * max(size))
    assert max(placed.scaled) == frame.image_size
    assert all(
        0 <= before <= frame.image_size - side for before, side in zip(placed.padding, placed.scaled, strict=True)
    )


def test_an_image_lies_in_the_middle_of_the_square():
    """By hand: 272x100 is halved to 136x50, with 43 rows of padding above."""
    placed = FRAME.place((272, 100))
    assert (placed.scaled, placed.padding) == ((136, 50), (0, 43))
    np.testing.assert_allclose(placed.to_square(np.array([[0.5, 0.5]])), [[0, 43]])
    placed = Frame(image_size=68, window=48).place((272, 100))
    assert (placed.scaled, placed.padding) == ((68, 25), (0, 21))


@pytest.mark.parametrize(("image_size", "window"), [(96, 136), (136, 0), (0, 0)])
def test_a_frame_without_a_window_is_refused(image_size, window):
    with pytest.raises(ValueError, match=f"window is {window} and image_size {image_size}: choose a window from 1"):
        Frame(image_size, window)
