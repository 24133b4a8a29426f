"""Synthetic faces: the embedded default dataset, drawn from seeds, with exact landmarks and masks.

`draw_face` draws one; `SyntheticFaces` is the TFDS builder. ``python -m
scemae_jax.data.builders.synthetic_faces`` draws a sheet of them.
"""

from scemae_jax.data.builders.synthetic_faces.anatomy import Expression, Pose
from scemae_jax.data.builders.synthetic_faces.builder import SyntheticFaces, SyntheticFacesConfig
from scemae_jax.data.builders.synthetic_faces.drawing import SyntheticFace, draw_face
from scemae_jax.data.builders.synthetic_faces.occluders import OCCLUDERS
from scemae_jax.data.builders.synthetic_faces.texture import PARTS

__all__ = [
    "OCCLUDERS",
    "PARTS",
    "Expression",
    "Pose",
    "SyntheticFace",
    "SyntheticFaces",
    "SyntheticFacesConfig",
    "draw_face",
]
