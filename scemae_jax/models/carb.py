"""The Correspondence Approximation and Refinement Block: stage 2 (SCE-MAE, sections 3.2 and 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from scemae_jax.models import vit
from scemae_jax.ops.density_peaks import Density, density_peaks_of_images


class Split(NamedTuple):
    """The patches of an image, split by their similarity to the CLS token (method step 1)."""

    attentive: Int[Array, "b a"]
    inattentive: Int[Array, "b n-a"]
    similarity: Float[Array, "b n"]


class SelectedTokens(NamedTuple):
    """The tokens that an image is reduced to: attentive ones, then cluster centres (T = a + k of them)."""

    features: Float[Array, "b t d"]
    """After the last layer and its norm."""
    patches: Int[Array, "b t"]
    """Index of each token's patch."""
    attentive: Bool[Array, "b t"]
    source: Int[Array, "b n"]
    """For each patch, which of the T tokens replaces it: itself, or the centre of its cluster (step 4)."""
    similarity: Float[Array, "b n"]
    """Softmax similarity of the CLS query to each patch, heads averaged."""


def num_attentive(fraction: float, num_patches: int) -> int:
    """`eta * N`, rounded: 36 of 144 at 0.25, 14 at 0.1."""
    return round(fraction * num_patches)


def split_by_attention(cls_logits: Float[Array, "b h 1+n"], fraction: float) -> Split:
    """The `fraction * N` patches that the CLS query attends to most, and the others, each in falling order."""
    similarity = nn.softmax(cls_logits[:, :, 1:]).mean(axis=1)
    order = jnp.argsort(-similarity, axis=1)
    count = num_attentive(fraction, similarity.shape[1])
    return Split(order[:, :count], order[:, count:], similarity)


def patch_positions(rows: int, columns: int) -> Float[np.ndarray, "n 2"]:
    """(x, y) of each patch on the patch grid."""
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def approximate(selected: SelectedTokens) -> Float[Array, "b n d"]:
    """The full map, with every discarded token replaced by its cluster's centre (step 4)."""
    return jnp.take_along_axis(selected.features, selected.source[..., None], axis=1)


class Projector(nn.Module):
    """Phi: the only trained part of stage 2. The paper says "light-weight" and leaves its form open.

    A linear layer with an orthogonal start, which keeps the tokens' similarities as far as its width allows. With
    `hidden`: a LayerNorm, a hidden layer as wide as the tokens, GELU and a linear layer.
    """

    features: int
    hidden: bool = False
    normalise: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "*b d"]) -> Float[Array, "*b features"]:
        kernel_init = vit.xavier_uniform if self.hidden else nn.initializers.orthogonal()
        if self.hidden:
            tokens = vit.layer_norm("norm", self.dtype)(tokens)
            tokens = nn.gelu(vit.dense(tokens.shape[-1], "hidden", self.dtype)(tokens), approximate=False)
        out = nn.Dense(self.features, kernel_init=kernel_init, dtype=self.dtype, name="out")
        projected = out(tokens).astype(jnp.float32)
        if not self.normalise:
            return projected
        return projected * jax.lax.rsqrt((projected**2).sum(axis=-1, keepdims=True) + 1e-12)


def select_tokens(
    encoder: vit.ViT,
    images: Float[Array, "b h w c"],
    *,
    split_layer: int,
    attentive_fraction: float,
    num_clusters: int,
    density: Density,
) -> SelectedTokens:
    """Runs a bound encoder whose layers after `split_layer` see only CLS, attentive tokens and cluster centres.

    With `num_clusters` 0 the inattentive tokens are dropped; their `source` is then the attentive token of the
    highest similarity.

    Raises:
      ValueError: there is no attentive or no inattentive token, there are more clusters than inattentive tokens, or
        `split_layer` is not before the last layer.
    """
    if not 1 <= split_layer < encoder.depth:
        raise ValueError(f"split_layer is {split_layer}: choose one from 1 to {encoder.depth - 1}, before the last")
    tokens, cls_logits = encoder.layers(encoder.embed(images), 1, split_layer)
    n = tokens.shape[1] - 1
    count = num_attentive(attentive_fraction, n)
    if not 0 < count < n or num_clusters > n - count:
        raise ValueError(
            f"attentive_fraction {attentive_fraction} makes {count} of {n} tokens attentive, and num_clusters is "
            f"{num_clusters}: choose at least one attentive token, and at most as many clusters as there are others"
        )
    split = split_by_attention(cls_logits, attentive_fraction)
    patch_tokens = tokens[:, 1:]

    source = jnp.zeros((len(images), n), jnp.int32)
    each = jnp.arange(len(images))[:, None]
    source = source.at[each, split.attentive].set(jnp.arange(count))
    patches = split.attentive
    if num_clusters:
        inattentive = jnp.take_along_axis(patch_tokens, split.inattentive[..., None], axis=1)
        peaks = density_peaks_of_images(inattentive.astype(jnp.float32), num_clusters, density=density)
        centers = jnp.take_along_axis(split.inattentive, peaks.centers, axis=1)
        source = source.at[each, split.inattentive].set(count + peaks.assignment)
        patches = jnp.concatenate([patches, centers], axis=1)

    kept = jnp.take_along_axis(patch_tokens, patches[..., None], axis=1)
    tokens, _ = encoder.layers(jnp.concatenate([tokens[:, :1], kept], axis=1), split_layer + 1, encoder.depth)
    features = encoder.normalise(tokens)[:, 1:]
    attentive = jnp.broadcast_to(jnp.arange(patches.shape[1]) < count, patches.shape)
    return SelectedTokens(features, patches, attentive, source, split.similarity)


class CARB(nn.Module):
    """A frozen encoder, and a projector that the Locality-Constrained Repellence loss trains.

    The fields have no defaults; the config has them.
    """

    encoder: vit.ViT
    projector: Projector
    split_layer: int
    attentive_fraction: float
    num_clusters: int
    density: Density

    def select(self, images: Float[Array, "b h w c"]) -> SelectedTokens:
        """Steps 1 to 4: split, cluster, reduce; the encoder gets no gradient."""
        selected = select_tokens(
            self.encoder,
            images,
            split_layer=self.split_layer,
            attentive_fraction=self.attentive_fraction,
            num_clusters=self.num_clusters,
            density=self.density,
        )
        return jax.lax.stop_gradient(selected)

    def __call__(self, images: Float[Array, "b h w c"]) -> tuple[Float[Array, "b t p"], SelectedTokens]:
        """Projected features of the selected tokens, and the tokens."""
        selected = self.select(images)
        return self.projector(selected.features), selected

    def features(self, images: Float[Array, "b h w c"]) -> tuple[Float[Array, "b n d"], Float[Array, "b n p"]]:
        """Inference: all patches through the encoder and the projector, no split; backbone and projected features."""
        tokens = self.encoder(images)[:, 1:]
        return tokens, self.projector(tokens)
