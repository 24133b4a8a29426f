"""The masked autoencoder: stage 1 (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners")."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from scemae_jax.models import vit

VARIANCE_EPSILON = 1e-6


class MAEOutput(NamedTuple):
    """What the masked autoencoder returns."""

    loss: Float[Array, ""]
    """Mean squared error over masked patches."""
    reconstruction: Float[Array, "b n p"]
    """The decoder's patches, in the units of the target (normalised per patch if `normalise_target`)."""
    mask: Float[Array, "b n"]
    """1 where the patch was hidden from the encoder."""


class Masking(NamedTuple):
    """Which patches the encoder sees."""

    keep: Int[Array, "b k"]
    restore: Int[Array, "b n"]
    mask: Float[Array, "b n"]


def mask_by_noise(noise: Float[Array, "b n"], ratio: float) -> Masking:
    """Keeps the `(1 - ratio) * N` patches of the lowest noise (He et al. 2022, section 3)."""
    n = noise.shape[1]
    num_kept = int(n * (1 - ratio))
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return Masking(order[:, :num_kept], restore, (restore >= num_kept).astype(jnp.float32))


def target_statistics(patches: Float[Array, "b n p"]) -> tuple[Float[Array, "b n 1"], Float[Array, "b n 1"]]:
    """Mean and deviation by which a patch is normalised: the unbiased variance plus 1e-6, square-rooted."""
    variance = patches.var(axis=-1, ddof=1, keepdims=True)
    return patches.mean(axis=-1, keepdims=True), jnp.sqrt(variance + VARIANCE_EPSILON)


class Decoder(nn.Module):
    """Predicts every patch from the visible tokens and mask tokens."""

    width: int
    depth: int
    num_heads: int
    patch_values: int
    dtype: DTypeLike = jnp.float32
    layer_loop: vit.LayerLoop = vit.ONE_BY_ONE

    @nn.compact
    def __call__(self, tokens: Float[Array, "b 1+k d"], restore: Int[Array, "b n"], rows: int) -> Float[Array, "b n p"]:
        """`tokens` are the encoder's, CLS first; `restore` is their place among all patches (`Masking`)."""
        b, n = restore.shape
        tokens = vit.dense(self.width, "embed", self.dtype)(tokens)
        mask_token = self.param("mask_token", vit.token_init, (1, 1, self.width)).astype(self.dtype)
        num_masked = n + 1 - tokens.shape[1]
        shuffled = jnp.concatenate([tokens[:, 1:], jnp.broadcast_to(mask_token, (b, num_masked, self.width))], axis=1)
        patches = jnp.take_along_axis(shuffled, restore[..., None], axis=1)
        positions = vit.sincos_position_code(self.width, rows, n // rows)
        tokens = jnp.concatenate([tokens[:, :1], patches + jnp.asarray(positions, self.dtype)], axis=1)
        blocks = [vit.Block(self.num_heads, dtype=self.dtype, name=f"blocks_{layer}") for layer in range(self.depth)]
        if blocks:  # a checkpoint without a decoder has none
            tokens, _ = self.layer_loop.run(blocks, tokens)
        tokens = vit.layer_norm("norm", self.dtype)(tokens)
        return vit.dense(self.patch_values, "pixels", self.dtype)(tokens[:, 1:])


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible patches, decoder on all of them, loss on the hidden ones."""

    encoder: vit.ViT
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    normalise_target: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], noise: Float[Array, "b n"]) -> MAEOutput:
        """Masks by `noise` (the lowest are kept), encodes, decodes.

        Raises:
          ValueError: the noise is not one number per patch, or the ratio leaves no patch visible or none hidden.
        """
        patch_size = self.encoder.patch_size
        target = vit.patchify(images, patch_size)
        if noise.shape != target.shape[:2]:
            raise ValueError(f"noise of shape {noise.shape} given for patches of shape {target.shape[:2]}")
        if not 0 < int(noise.shape[1] * (1 - self.mask_ratio)) < noise.shape[1]:
            raise ValueError(
                f"a mask ratio of {self.mask_ratio} of {noise.shape[1]} patches: nothing visible or hidden"
            )
        masking = mask_by_noise(noise, self.mask_ratio)
        tokens = self.encoder(images, masking.keep)
        decoder = Decoder(
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads,
            target.shape[-1],
            self.dtype,
            self.encoder.layer_loop,
            name="decoder",
        )
        reconstruction = decoder(tokens, masking.restore, images.shape[1] // patch_size).astype(jnp.float32)
        if self.normalise_target:
            mean, deviation = target_statistics(target)
            target = (target - mean) / deviation
        error = ((reconstruction - target) ** 2).mean(axis=-1)
        return MAEOutput((error * masking.mask).sum() / masking.mask.sum(), reconstruction, masking.mask)
