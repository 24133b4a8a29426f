"""A diagnostic of the attentive/inattentive split: does the CLS token attend to the face?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scemae_jax.data.record import AnnotatedFaces
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.model import CHUNK, Model
from scemae_jax.models.carb import patch_positions, split_by_attention

NEAR = 6.0
"""A patch is near a landmark if its centre is within so many pixels of it."""


def attentive_near_landmarks(model: Model, faces: AnnotatedFaces, **fields: Any) -> list[Measurement]:
    """Share of the attentive patches that are near a landmark, and of all patches; needs annotated faces.

    If both shares are equal, the split has nothing to do with the face.
    """
    backbone, network = model.architecture.backbone, model.architecture.build_carb()
    encoder, size, frame, side = network.encoder, backbone.variant.patch_size, backbone.frame, backbone.side
    centres = frame.from_window(patch_positions(side, side) * size + (size - 1) / 2)

    @jax.jit
    def cls_logits(params, images):
        windows = backbone.normalise(frame.centre_window(images))
        bound = encoder.bind({"params": params})
        return bound.layers(bound.embed(windows), 1, network.split_layer)[1]

    distance = np.linalg.norm(faces.landmarks[:, None] - centres[:, None], axis=-1)  # [faces, patches, landmarks]
    near = distance.min(axis=-1) <= NEAR
    attentive = []
    for start in range(0, len(faces), CHUNK):
        logits = cls_logits(model.params["encoder"], jnp.asarray(faces.images[start : start + CHUNK]))
        attentive.append(np.asarray(split_by_attention(logits, network.attentive_fraction).attentive))
    chosen = np.take_along_axis(near, np.concatenate(attentive), axis=1)
    return [
        Measurement.of(
            metric="share near a landmark", method=patches, value=float(share.mean()), n=share.size, **fields
        )
        for patches, share in {"attentive patches": chosen, "all patches": near}.items()
    ]
