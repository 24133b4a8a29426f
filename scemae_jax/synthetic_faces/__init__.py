"""The drawer: faces drawn from seeds, with exact landmarks, parts and occluder masks. No photograph, no JAX.

`draw_face` draws one; `python -m scemae_jax.synthetic_faces` draws a sheet of them. The dataset made of them is
`scemae_jax.data.datasets.synthetic_faces`.
"""

from scemae_jax.synthetic_faces.anatomy import Expression, Pose
from scemae_jax.synthetic_faces.drawing import SyntheticFace, draw_face
from scemae_jax.synthetic_faces.occluders import OCCLUDERS
from scemae_jax.synthetic_faces.texture import PARTS

__all__ = ["OCCLUDERS", "PARTS", "Expression", "Pose", "SyntheticFace", "draw_face"]
