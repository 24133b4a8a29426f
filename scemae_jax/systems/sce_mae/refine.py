"""Stage 2: the projector learns by Locality-Constrained Repellence on a frozen backbone."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from scemae_jax.config import Config
from scemae_jax.data.augment import Crops, random_views
from scemae_jax.models import carb
from scemae_jax.models.architecture import Architecture
from scemae_jax.ops.lcr import lcr_loss, lcr_loss_across
from scemae_jax.training import loop, optimizer
from scemae_jax.training.feed import Input


def initial_projector(architecture: Architecture, seed: int) -> Any:
    """Random parameters of the projector."""
    projector = architecture.build_carb().projector
    return projector.init(jax.random.key(seed), jnp.zeros((1, architecture.backbone.variant.width)))["params"]


def positions_in_image(
    selected: carb.SelectedTokens, crops: Crops, patch_size: int, scale: float = 1.0
) -> Float[Array, "b t 2"]:
    """Places of the selected tokens in the source image, in units of the patch grid at the window's own scale.

    `scale` is that of the window: its pixels per pixel of the source image.
    """
    side = crops.output // patch_size
    grid = jnp.asarray(carb.patch_positions(side, side))[selected.patches]
    centres = grid * patch_size + (patch_size - 1) / 2
    return crops.to_source(centres) * scale / patch_size


def task(
    config: Config,
    architecture: Architecture,
    encoder: Any,
    projector: Any,
    source: Input,
    steps: int,
) -> loop.Task:
    """The refinement task; `encoder` are the frozen parameters, `projector` those to start from.

    `config.refine.two_crops` takes the loss across two random crops of each image (ours), instead of within one.
    """
    settings, network = config.refine, architecture.build_carb()
    augmentation = ml_collections.FrozenConfigDict(settings.augment)
    terms = {
        "temperature": settings.temperature,
        "repellence": tuple(settings.repellence),
        "locality": settings.locality,
    }
    two_crops, backbone = settings.two_crops, architecture.backbone
    patch_size, side, frame = backbone.variant.patch_size, backbone.side, backbone.frame

    def project(params: Any, encoder: Any, images: Array) -> tuple[Array, carb.SelectedTokens]:
        variables = {"params": {"encoder": encoder, "projector": params}}
        return cast(tuple[Array, carb.SelectedTokens], network.apply(variables, backbone.normalise(images)))

    def loss(params: Any, fixed: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        key_a, key_b = jax.random.split(key)
        encoder, faces = fixed.constants, batch["unlabelled"]
        views, crops = random_views(key_a, faces, augmentation, frame.window)
        features, selected = project(params, encoder, views["image"])
        if two_crops:
            scale = frame.image_size / faces["image"].shape[1]
            views_b, crops_b = random_views(key_b, faces, augmentation, frame.window)
            features_b, selected_b = project(params, encoder, views_b["image"])
            losses = jax.vmap(lambda *sides: lcr_loss_across(*sides, **terms))(
                features,
                positions_in_image(selected, crops, patch_size, scale),
                selected.attentive,
                features_b,
                positions_in_image(selected_b, crops_b, patch_size, scale),
                selected_b.attentive,
            )
        else:
            positions = jnp.asarray(carb.patch_positions(side, side))[selected.patches]
            losses = jax.vmap(lambda *tokens: lcr_loss(*tokens, **terms))(features, positions, selected.attentive)
        cosine = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
        likeness = jnp.einsum("btc,bsc->bts", cosine, cosine)
        t = likeness.shape[1]
        return losses.mean(), {"mean_cosine": (likeness.sum(axis=(1, 2)) - t).mean() / (t * (t - 1))}

    return loop.Task(
        name="refine",
        loss=loss,
        outputs=("mean_cosine",),
        params=projector,
        constants=encoder,
        inputs={"unlabelled": source},
        optimizer=optimizer.adamw(settings, steps),
        schedule=optimizer.learning_rate(settings, steps),
        steps=steps,
        seed=config.seed + 1,
        **loop.pace(settings),
    )
