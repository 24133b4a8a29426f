"""Floating-point operations that the method needs for an image, counted by hand.

Matrix products alone, a multiplication and an addition for each term: a linear layer from d to e features takes 2 d e
for each token. A block of width d on t tokens has a linear layer for queries, keys and values (6 t d^2), the products
of queries with keys and of attention with values (2 t^2 d each), a linear layer out (2 t d^2) and an MLP (16 t d^2):

    block(t, d) = 24 t d^2 + 4 t^2 d

Training takes three times the forward pass: each product has two of the same size in the backward pass. What is frozen
takes the forward pass once. Augmentation, losses, norms, softmax and the optimiser do not count, nor does what an
implementation computes beyond need: the masked autoencoder's encoder needs the visible tokens, stage 2 after the split
the kept ones.
"""

from __future__ import annotations

from scemae_jax.model import Architecture
from scemae_jax.models.carb import num_attentive

TRAINING = 3
"""Forward and backward, in forward passes."""


def linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def block(tokens: int, width: int) -> int:
    """A transformer block whose MLP is four times as wide."""
    layers = linear(tokens, width, 3 * width) + linear(tokens, width, width) + 2 * linear(tokens, width, 4 * width)
    return layers + attention(tokens, width)


def attention(tokens: int, width: int) -> int:
    """The products of queries with keys and of attention with values, of all heads."""
    return 2 * linear(tokens, width, tokens)


def num_patches(architecture: Architecture) -> int:
    return architecture.side**2


def _patch_values(architecture: Architecture) -> int:
    return 3 * architecture.variant.patch_size**2


def encoder(architecture: Architecture, patches: int) -> int:
    """The whole encoder, forward, on so many patches of an image and CLS."""
    v = architecture.variant
    return linear(patches, _patch_values(architecture), v.width) + v.depth * block(1 + patches, v.width)


def decoder(architecture: Architecture, visible: int) -> int:
    """The decoder, forward: so many patches and CLS come in, all patches and CLS go through."""
    n, width = num_patches(architecture), architecture.decoder_width
    return (
        linear(1 + visible, architecture.variant.width, width)
        + architecture.decoder_depth * block(1 + n, width)
        + linear(n, width, _patch_values(architecture))
    )


def projector(architecture: Architecture, tokens: int) -> int:
    """The projector, forward."""
    return _projector(tokens, architecture.variant.width, architecture.projection, hidden=architecture.projector_hidden)


def _projector(tokens: int, width: int, features: int, *, hidden: bool) -> int:
    return (linear(tokens, width, width) if hidden else 0) + linear(tokens, width, features)


def clustering(tokens: int, width: int) -> int:
    """The tokens' inner products, from which density peaks have their distances."""
    return linear(tokens, width, tokens)


def pretrain_step(architecture: Architecture) -> int:
    """Of an image in a training step of stage 1."""
    visible = int(num_patches(architecture) * (1 - architecture.mask_ratio))
    return TRAINING * (encoder(architecture, visible) + decoder(architecture, visible))


def pretrain_attention(architecture: Architecture) -> int:
    """Of an image in a training step of stage 1: the part that `attention` is."""
    v, n = architecture.variant, num_patches(architecture)
    in_encoder = v.depth * attention(1 + int(n * (1 - architecture.mask_ratio)), v.width)
    return TRAINING * (in_encoder + architecture.decoder_depth * attention(1 + n, architecture.decoder_width))


def inattentive(architecture: Architecture) -> int:
    """Tokens that are clustered."""
    n = num_patches(architecture)
    return n - num_attentive(architecture.attentive_fraction, n)


def refine_step(architecture: Architecture) -> int:
    """Of an image in a training step of stage 2."""
    v, n = architecture.variant, num_patches(architecture)
    kept = n - inattentive(architecture) + architecture.num_clusters
    before = linear(n, _patch_values(architecture), v.width) + architecture.split_layer * block(1 + n, v.width)
    after = (v.depth - architecture.split_layer) * block(1 + kept, v.width)
    clusters = clustering(inattentive(architecture), v.width) if architecture.num_clusters else 0
    return before + clusters + after + TRAINING * projector(architecture, kept)


def refine_all_tokens(architecture: Architecture) -> int:
    """Of an image in a step of `alternatives.all_tokens_loss`."""
    n = num_patches(architecture)
    return encoder(architecture, n) + TRAINING * projector(architecture, n)


def refine_hypercolumns(architecture: Architecture, *, hidden: bool) -> int:
    """Of an image in a step of `alternatives.hypercolumn_loss`, whose projector may have a hidden layer."""
    n, v = num_patches(architecture), architecture.variant
    projecting = _projector(n, v.depth * v.width, architecture.projection, hidden=hidden)
    return encoder(architecture, n) + TRAINING * projecting


def features(architecture: Architecture, stride: int, *, projected: bool) -> int:
    """Of an image whose features are computed by cover-and-stride."""
    n, shifts = num_patches(architecture), (architecture.variant.patch_size // stride) ** 2
    return shifts * (encoder(architecture, n) + (projector(architecture, n) if projected else 0))
