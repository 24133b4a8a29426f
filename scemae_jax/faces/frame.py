"""Sizes and coordinates: from an image of any size to the square of the datasets, and to the window in its centre.

Points are (x, y) in pixels whose centres have whole coordinates: an image of width w reaches from -0.5 to w - 0.5.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Num

if TYPE_CHECKING:
    from jaxtyping import Array  # imports JAX, which preparing data does not need

AnyArray = TypeVar("AnyArray", "Array", np.ndarray)


@dataclasses.dataclass(frozen=True)
class Frame:
    """The square that a face lies in, and the window in its centre that networks see.

    Raises:
      ValueError: the window is empty, larger than the square, or not in the centre of whole pixels.
    """

    image_size: int = 136
    """Width and height of the square, in pixels."""
    window: int = 96
    """Width and height of the window (DVE's, Thewlis et al. 2019, which all prior work has kept)."""

    def __post_init__(self) -> None:
        if not 0 < self.window <= self.image_size:
            raise ValueError(
                f"window is {self.window} and image_size {self.image_size}: choose a window from 1 to the image's size"
            )

        if (self.image_size - self.window) % 2:
            raise ValueError(
                f"window is {self.window} and image_size {self.image_size}: one is odd, so that no window of whole "
                "pixels lies in the centre; choose two even or two odd numbers"
            )

    @property
    def offset(self) -> int:
        """Pixels of the square before the window, along x and y."""
        return (self.image_size - self.window) // 2

    def place(self, size: tuple[int, int]) -> Placement:
        """Where an image of this (width, height) lies in the square."""
        return Placement(size, self.image_size)

    def to_window(self, points: AnyArray) -> AnyArray:
        """Points of the square as points of the window."""
        return points - self.offset

    def from_window(self, points: AnyArray) -> AnyArray:
        """Points of the window as points of the square."""
        return points + self.offset

    def normalise(self, points: AnyArray) -> AnyArray:
        """Points of the square in [-1, 1] over the window, the ends being the centres of its outer pixels."""
        return 2 * self.to_window(points) / (self.window - 1) - 1

    def denormalise(self, points: AnyArray) -> AnyArray:
        """Points in [-1, 1] over the window as points of the square."""
        return self.from_window((points + 1) / 2 * (self.window - 1))

    def centre_window(self, images: Num[AnyArray, "b h w c"]) -> Num[AnyArray, "b window window c"]:
        """The centre window of squares, which networks see."""
        return images[:, self.offset : self.offset + self.window, self.offset : self.offset + self.window]


@dataclasses.dataclass(frozen=True)
class WholeImage:
    """In the place of a `Frame` where images, of whatever size, are seen whole."""

    def centre_window(self, images: Num[AnyArray, "b h w c"]) -> Num[AnyArray, "b h w c"]:
        """All of the images."""
        return images


FRAME = Frame()
"""The frame of the prepared datasets, and of every model unless it has another."""


class Placement(NamedTuple):
    """Where an image lies in the square: centred, as large as fits, mid-grey around it."""

    size: tuple[int, int]
    """(width, height) of the image, in its own pixels."""
    square: int
    """Width and height of the square."""

    @property
    def scaled(self) -> tuple[int, int]:
        """(width, height) of the image in the square."""
        width, height = (max(1, round(side * self.square / max(self.size))) for side in self.size)
        return width, height

    @property
    def padding(self) -> tuple[int, int]:
        """(columns, rows) of padding before the image."""
        return (self.square - self.scaled[0]) // 2, (self.square - self.scaled[1]) // 2

    @property
    def scale(self) -> Float[np.ndarray, "2"]:
        """Pixels of the square per pixel of the image, along x and y; they differ by rounding."""
        return np.divide(self.scaled, self.size)

    def to_square(self, points: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 2"]:
        """Points of the image as float32 points of the square."""
        return ((points + 0.5) * self.scale - 0.5 + self.padding).astype(np.float32)

    def from_square(self, points: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 2"]:
        """Points of the square as float32 points of the image."""
        return ((points - np.array(self.padding) + 0.5) / self.scale - 0.5).astype(np.float32)
