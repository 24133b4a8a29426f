"""Schemes of face parts: the names of the values of a part mask, and which of them mirror each other."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import UInt8

IGNORED = 255
"""Value of a mask's pixels of which nothing is known: outside the image, say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartScheme:
    """The classes of a part mask."""

    names: tuple[str, ...]
    """By value."""
    mirror: tuple[tuple[str, str], ...] = ()
    """Parts that change places when an image is mirrored: left and right eye, say."""
    groups: tuple[str, ...] = ()
    """Of each part, the group that it is also measured in; empty: no groups."""

    def mirrored_values(self) -> UInt8[np.ndarray, "256"]:
        """Value of each value's mirror image."""
        values = np.arange(256, dtype=np.uint8)
        for pair in self.mirror:
            left, right = map(self.names.index, pair)
            values[[left, right]] = right, left
        return values


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
