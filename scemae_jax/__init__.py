"""SCE-MAE in JAX: landmarks from unlabelled faces and few annotations; parts of faces by SPCL.

model = scemae_jax.load("runs/mine/export/scemae.msgpack")
maps = model.features(images, stride=4, which="projected")     # images: uint8 [B, 136, 136, 3]
model = scemae_jax.fit_detector(model, images, landmarks)
points = model.detect(images)
there = model.match(image_a, points_a, image_b)
model = scemae_jax.fit_parser(model, images, masks, target=others)
parts = model.parse(images)                                    # uint8 [B, 136, 136], indices of model.part_names
"""

import importlib
from typing import TYPE_CHECKING, Any

from scemae_jax.version import __version__

if TYPE_CHECKING:
    from scemae_jax.model import Model, match
    from scemae_jax.model_file import load
    from scemae_jax.systems.sce_mae.landmark_heads import fit_detector
    from scemae_jax.systems.spcl.fitting import fit_parser

__all__ = ["Model", "__version__", "fit_detector", "fit_parser", "load", "match"]

_HOMES = {
    "Model": "model",
    "fit_detector": "systems.sce_mae.landmark_heads",
    "fit_parser": "systems.spcl.fitting",
    "load": "model_file",
    "match": "model",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: the processes that draw synthetic faces need no JAX."""
    if name not in _HOMES:
        raise AttributeError(f"scemae_jax has no attribute {name!r}")
    return getattr(importlib.import_module(f"scemae_jax.{_HOMES[name]}"), name)
