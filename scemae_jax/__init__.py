"""SCE-MAE in JAX: landmarks from unlabelled faces and few annotations.

model = scemae_jax.load("runs/mine/export/scemae.msgpack")
maps = model.features(images, stride=4, which="projected")     # images: uint8 [B, 136, 136, 3]
model = scemae_jax.fit_detector(model, images, landmarks)
points = model.detect(images)
there = scemae_jax.match(model, image_a, points_a, image_b)
"""

from scemae_jax.evaluation.detection import fit_detector
from scemae_jax.export import load
from scemae_jax.matcher import match
from scemae_jax.model import Model
from scemae_jax.version import __version__

__all__ = ["Model", "__version__", "fit_detector", "load", "match"]
