"""Stage 2 without its savings: what a refinement step costs if no token is left out."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scemae_jax.model import Architecture
from scemae_jax.models import carb, vit
from scemae_jax.ops.lcr import Repellence, lcr_loss


def selected_tokens_loss(
    projector: Any,
    encoder: Any,
    images: Float[Array, "b 96 96 3"],
    architecture: Architecture,
    *,
    temperature: float,
    repellence: Repellence,
) -> Float[Array, ""]:
    """The loss of stage 2 on normalised images, as `training.refine` has it: what the two below are held against.

    Args:
      projector: parameters of the projector, to differentiate by.
      encoder: parameters of the frozen encoder.
      images: normalised images, no crops drawn.
      architecture: sizes, split layer, attentive fraction and clusters.
      temperature: of the LCR loss.
      repellence: of the LCR loss.
    """
    network = architecture.build_carb()
    variables = {"params": {"encoder": encoder, "projector": projector}}
    features, selected = cast(tuple[Array, carb.SelectedTokens], network.apply(variables, images))
    positions = _all_positions(architecture)[selected.patches]
    return _mean_loss(features, positions, selected.attentive, temperature, repellence)


def all_tokens_loss(
    projector: Any,
    encoder: Any,
    images: Float[Array, "b 96 96 3"],
    architecture: Architecture,
    *,
    temperature: float,
    repellence: Repellence,
) -> Float[Array, ""]:
    """No split: every layer sees every token, and the projector and the loss take all patches.

    Patches still count as attentive or not by the CLS query of the split layer. Arguments as in
    `selected_tokens_loss`.
    """
    tokens, attentive = _every_layer(encoder, images, architecture)
    final = architecture.build_encoder().apply({"params": encoder}, tokens[-1], method=vit.ViT.normalise)
    final = jax.lax.stop_gradient(cast(Array, final)[:, 1:])
    features = architecture.build_carb().projector.apply({"params": projector}, final)
    return _loss_of_all(cast(Array, features), attentive, architecture, temperature, repellence)


def hypercolumn_projector(architecture: Architecture, *, hidden: bool) -> carb.Projector:
    """Stage 2's projector for hypercolumns; without `hidden` one linear layer, which costs least."""
    return carb.Projector(architecture.projection, hidden, dtype=jnp.dtype(architecture.dtype))


def hypercolumn_loss(
    projector: Any,
    encoder: Any,
    images: Float[Array, "b 96 96 3"],
    architecture: Architecture,
    *,
    temperature: float,
    repellence: Repellence,
) -> Float[Array, ""]:
    """All patches, each described by its tokens after every layer side by side (depth * width channels).

    Args:
      projector: parameters of `hypercolumn_projector`, to differentiate by.
      encoder: as in `selected_tokens_loss`, and so are the others.
    """
    tokens, attentive = _every_layer(encoder, images, architecture)
    columns = jax.lax.stop_gradient(jnp.concatenate([layer[:, 1:] for layer in tokens], axis=-1))
    features = hypercolumn_projector(architecture, hidden="hidden" in projector).apply({"params": projector}, columns)
    return _loss_of_all(cast(Array, features), attentive, architecture, temperature, repellence)


def _every_layer(
    encoder: Any, images: Array, architecture: Architecture
) -> tuple[list[Float[Array, "b 1+n d"]], Array]:
    """Tokens after each layer, and which patches are attentive."""
    network = architecture.build_encoder()
    _, seen = cast(tuple[Array, dict[str, Array]], network.apply({"params": encoder}, images, intermediates=True))
    split = carb.split_by_attention(seen[f"cls_logits_{architecture.split_layer}"], architecture.attentive_fraction)
    each = jnp.arange(len(images))[:, None]
    attentive = jnp.zeros(split.similarity.shape, bool).at[each, split.attentive].set(True)
    return [seen[f"layer_{layer}"] for layer in range(1, network.depth + 1)], attentive


def _all_positions(architecture: Architecture) -> Float[Array, "n 2"]:
    side = architecture.side
    return jnp.asarray(carb.patch_positions(side, side))


def _loss_of_all(
    features: Array, attentive: Array, architecture: Architecture, temperature: float, repellence: Repellence
) -> Float[Array, ""]:
    positions = jnp.broadcast_to(_all_positions(architecture), (*features.shape[:2], 2))
    return _mean_loss(features, positions, attentive, temperature, repellence)


def _mean_loss(
    features: Array, positions: Array, attentive: Array, temperature: float, repellence: Repellence
) -> Float[Array, ""]:
    terms = {"temperature": temperature, "repellence": repellence}
    return jax.vmap(lambda *tokens: lcr_loss(*tokens, **terms))(features, positions, attentive).mean()
