"""Landmark schemes: which points are the eyes, which mirror each other, and how five points come from 68."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LandmarkScheme:
    """What is known of a dataset's landmarks; for an unknown scheme only their number."""

    name: str
    num_landmarks: int
    eyes: tuple[int, int] | None = None
    """The two points that the inter-ocular distance is measured between."""
    mirror: tuple[int, ...] | None = None
    """Index of each landmark's mirror image."""
    five: tuple[tuple[int, ...], ...] | None = None
    """Landmarks whose means are the five points: both eyes, nose, corners of the mouth."""
    point_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each landmark, numbered from 1 where the scheme has no names."""
        return self.point_names or tuple(f"point {i + 1}" for i in range(self.num_landmarks))

    @property
    def forms(self) -> tuple[int, ...]:
        """Numbers of landmarks that `in_form` can give."""
        return (self.num_landmarks,) if self.five is None else (len(self.five), self.num_landmarks)

    def mirrored_order(self) -> Int[np.ndarray, "l"]:
        """Index of each landmark's mirror image.

        Raises:
          ValueError: it is not known.
        """
        if self.mirror is None:
            known = sorted(number for number, scheme in _KNOWN.items() if scheme.mirror is not None)
            raise ValueError(
                f"flipping is defined for {known} landmarks, not {self.num_landmarks}: set flip=False for these data"
            )
        return np.array(self.mirror, np.int64)

    def choose_forms(self, asked: Sequence[int]) -> list[int]:
        """The requested numbers of landmarks that `in_form` can give; if it can give none, all landmarks."""
        return [number for number in asked if number in self.forms] or [self.num_landmarks]


NO_LANDMARKS = LandmarkScheme(name="no landmarks", num_landmarks=0, mirror=())
FIVE = LandmarkScheme(
    name="five points",
    num_landmarks=5,
    eyes=(0, 1),
    mirror=(1, 0, 2, 4, 3),
    point_names=("right eye", "left eye", "nose", "right mouth corner", "left mouth corner"),
)
"""MAFL's. Right and left are the person's own."""
SIXTY_EIGHT = LandmarkScheme(
    name="68 points",
    num_landmarks=68,
    eyes=(36, 45),
    mirror=(
        *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
        45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
        54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
    ),
    five=(tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,)),
)  # fmt: skip
"""300-W's; its eyes are their outer corners, and five points of it have the centres of the eyes."""
_KNOWN = {scheme.num_landmarks: scheme for scheme in (NO_LANDMARKS, FIVE, SIXTY_EIGHT)}


@functools.cache
def scheme_of(num_landmarks: int) -> LandmarkScheme:
    """The scheme with so many landmarks: MAFL's 5, the usual 68, or an unknown one."""
    return _KNOWN.get(num_landmarks) or LandmarkScheme(name=f"{num_landmarks} points", num_landmarks=num_landmarks)


def in_form(landmarks: Float[np.ndarray, "... l 2"], num_landmarks: int) -> Float[np.ndarray, "... k 2"]:
    """Landmarks reduced to a number: all of them, or five of 68.

    Raises:
      ValueError: they cannot be brought to this number.
    """
    scheme = scheme_of(landmarks.shape[-2])
    if num_landmarks == scheme.num_landmarks:
        return landmarks
    if num_landmarks not in scheme.forms:
        raise ValueError(f"five points can be taken of 68 landmarks, not {num_landmarks} of {scheme.num_landmarks}")
    assert scheme.five is not None  # another form is possible
    return np.stack([landmarks[..., list(points), :].mean(axis=-2) for points in scheme.five], axis=-2)


def five_points(landmarks: Float[np.ndarray, "... l 2"]) -> Float[np.ndarray, "... 5 2"]:
    """MAFL's five of the usual 68 points: both eyes' centres, nose tip, mouth corners. Five stay as they are.

    Raises:
      ValueError: there are neither 5 nor 68 landmarks.
    """
    return in_form(landmarks, FIVE.num_landmarks)
