"""What a dataset may know of its faces, beside the image; whatever it has travels with them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Field = Literal["landmarks", "visible", "parts", "occluder", "subject", "domain"]
"""What can be asked for of a prepared dataset, by the names of its features."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faces:
    """Faces in memory, with what is known of them."""

    images: UInt8[np.ndarray, "n 136 136 3"]
    landmarks: Float[np.ndarray, "n l 2"]
    """(x, y) in pixels; NaN where not annotated, and l = 0 where there are none."""
    subjects: Int[np.ndarray, "n"]
    """Who it shows; numbers of their own where that is not known."""
    visible: Bool[np.ndarray, "n l"] | None = None
    """Whether each landmark can be seen."""
    parts: UInt8[np.ndarray, "n h w"] | None = None
    """The part of the face that each pixel is of."""
    occluder: UInt8[np.ndarray, "n h w"] | None = None
    """The kind of thing before the face at each pixel; 0 for none."""
    domains: Int[np.ndarray, "n"] | None = None
    """The kind of picture, such as photograph or painting."""

    def __len__(self) -> int:
        return len(self.images)

    def annotated(self) -> Faces:
        """Those whose landmarks are all known."""
        known = np.isfinite(self.landmarks).all(axis=(1, 2)) & (self.landmarks.shape[1] > 0)
        return self.take(np.flatnonzero(known))

    def take(self, indices: Int[np.ndarray, "k"]) -> Faces:
        """These faces, with all that is known of them."""
        known = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        taken: dict[str, Any] = {name: None if value is None else value[indices] for name, value in known.items()}
        return Faces(**taken)
