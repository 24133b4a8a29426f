"""Schemes of face parts: the names of the values of a part mask, and which of them mirror each other."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
from jaxtyping import UInt8

IGNORED = 255
"""Value of a mask's pixels of which nothing is known: outside the image, say."""


COLOURS = {
    "background": (72, 78, 86), "other": (72, 78, 86), "skin": (240, 196, 160), "brows": (128, 74, 30),
    "eyes": (64, 180, 240), "nose": (240, 150, 10), "lips": (220, 50, 80), "inner_mouth": (110, 10, 50),
    "hair": (0, 98, 170), "neck": (214, 130, 180), "clothing": (0, 150, 110), "glasses": (242, 228, 60),
}  # fmt: skip
"""Of drawn parts, red, green and blue from 0 to 255."""
COLOUR_OF_IGNORED = (255, 255, 255)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartScheme:
    """The classes of a part mask."""

    names: tuple[str, ...]
    """By value."""
    mirror: tuple[tuple[str, str], ...] = ()
    """Parts that change places when an image is mirrored: left and right eye, say."""

    def mirrored_values(self) -> UInt8[np.ndarray, "256"]:
        """Value of each value's mirror image."""
        values = np.arange(256, dtype=np.uint8)
        for pair in self.mirror:
            left, right = map(self.names.index, pair)
            values[[left, right]] = right, left
        return values

    def colours(self) -> UInt8[np.ndarray, "k 3"]:
        """Of each part its colour; those without one in `COLOURS` have hues spread by the golden ratio."""
        return np.array([COLOURS.get(name) or _spread(number) for number, name in enumerate(self.names)], np.uint8)

    def painted(self, masks: UInt8[np.ndarray, "*place"]) -> UInt8[np.ndarray, "*place 3"]:
        """The masks as pictures; what is of no part is white."""
        table = np.full((256, 3), COLOUR_OF_IGNORED, np.uint8)
        table[: len(self.names)] = self.colours()
        return table[masks]


def _spread(number: int) -> tuple[int, int, int]:
    hue, bright = number * 0.618034 % 1, (0.95, 0.7, 0.5)[number % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, bright)
    return round(255 * red), round(255 * green), round(255 * blue)


DRAWN = PartScheme(
    names=(
        "background",
        "skin",
        "brows",
        "eyes",
        "nose",
        "lips",
        "inner_mouth",
        "hair",
        "neck",
        "clothing",
        "glasses",
    )
)
"""Of the synthetic faces: left and right are one part."""
