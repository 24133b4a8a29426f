"""What a dataset may know of its faces, beside the image; whatever it has travels with them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Field = Literal["landmarks", "visible", "parts", "occluder", "subject", "domain"]
"""What can be asked for of a prepared dataset, by the names of its features."""
DTYPES: dict[Field, Any] = {
    "landmarks": np.float32, "visible": np.bool_, "parts": np.uint8, "occluder": np.uint8, "subject": np.int32,
    "domain": np.int32,
}  # fmt: skip
MASKS = ("parts", "occluder")
"""Fields with a value for each pixel."""

AnyFaces = TypeVar("AnyFaces", bound="Faces")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faces:
    """Faces in memory, with what is known of them; None where that was not read, or the dataset lacks it."""

    images: UInt8[np.ndarray, "n h w 3"]
    landmarks: Float[np.ndarray, "n l 2"] | None = None
    """(x, y) in pixels; NaN where not annotated."""
    subjects: Int[np.ndarray, "n"] | None = None
    """Who it shows."""
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

    @property
    def points(self) -> Float[np.ndarray, "n l 2"]:
        """The landmarks; of unknown ones none, `[n, 0, 2]`."""
        return np.zeros((len(self), 0, 2), np.float32) if self.landmarks is None else self.landmarks

    @property
    def people(self) -> Int[np.ndarray, "n"]:
        """The subjects; where they are not known, each face is a person of its own."""
        return np.arange(len(self)) if self.subjects is None else self.subjects

    def annotated(self) -> AnnotatedFaces:
        """Those whose landmarks are all known."""
        known = np.isfinite(self.points).all(axis=(1, 2)) & (self.points.shape[1] > 0)
        return AnnotatedFaces(**self._known() | {"landmarks": self.points}).take(np.flatnonzero(known))

    def take(self: AnyFaces, indices: Int[np.ndarray, "k"]) -> AnyFaces:
        """These faces, with all that is known of them."""
        taken = {name: None if value is None else value[indices] for name, value in self._known().items()}
        return dataclasses.replace(self, **taken)

    def _known(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedFaces(Faces):
    """Faces whose landmarks are known."""

    landmarks: Float[np.ndarray, "n l 2"] = dataclasses.field()
