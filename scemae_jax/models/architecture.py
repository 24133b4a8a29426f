"""What networks are built from, part by part: hashable, and plain enough for JSON."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from scemae_jax.faces.frame import FRAME, Frame
from scemae_jax.models import carb, mae, vit
from scemae_jax.ops.density_peaks import Density


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """The encoder, and the images that it takes."""

    encoder: str
    """Variant, such as "S/8"."""
    positions: vit.Positions = "sincos"
    """Position codes of the encoder; the decoder's are always sin-cos."""
    frame: Frame = FRAME
    """Sizes of the images, and of the window that is looked at."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: str = "float32"
    """Of the arithmetic of all parts."""

    @functools.cached_property
    def variant(self) -> vit.Variant:
        return vit.variant(self.encoder)

    @property
    def side(self) -> int:
        """Patches along a side of the window."""
        return self.frame.window // self.variant.patch_size

    def normalise(self, images: Num[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Standardises images: uint8, or floats in [0, 1]."""
        if jnp.issubdtype(images.dtype, jnp.integer):
            images = images.astype(jnp.float32) / 255.0
        return (images - jnp.array(self.mean)) / jnp.array(self.std)

    def build(self, layer_loop: vit.LayerLoop = vit.ONE_BY_ONE) -> vit.ViT:
        v, grid = self.variant, (self.side, self.side)
        return vit.ViT(
            v.width, v.depth, v.num_heads, v.patch_size, dtype=jnp.dtype(self.dtype), positions=self.positions,
            grid=grid, layer_loop=layer_loop,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """The decoder of the masked autoencoder, and what it is asked for."""

    width: int
    depth: int
    heads: int
    mask_ratio: float
    normalise_target: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carb:
    """The projector, and how stage 2 chooses the tokens that it learns from."""

    projection: int
    projector_hidden: bool
    projector_normalise: bool
    split_layer: int
    attentive_fraction: float
    num_clusters: int
    density: Density


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A backbone, and the parts that a system adds to it."""

    backbone: Backbone
    decoder: Decoder | None = None
    carb: Carb | None = None

    def build_mae(self, layer_loop: vit.LayerLoop = vit.ONE_BY_ONE) -> mae.MaskedAutoencoder:
        """`layer_loop` is of the encoder's and the decoder's layers.

        Raises:
          ValueError: there is no decoder.
        """
        if self.decoder is None:
            raise ValueError(f"a model of {self.backbone.encoder} without a decoder cannot reconstruct images")
        d, encoder = self.decoder, self.backbone.build(layer_loop)
        return mae.MaskedAutoencoder(
            encoder, d.width, d.depth, d.heads, d.mask_ratio, d.normalise_target, jnp.dtype(self.backbone.dtype)
        )

    def build_carb(self) -> carb.CARB:
        """The encoder, the choice of its tokens, and the projector.

        Raises:
          ValueError: there is no such part.
        """
        if self.carb is None:
            raise ValueError(f"a model of {self.backbone.encoder} without CARB has no projector and chooses no tokens")
        c, dtype = self.carb, jnp.dtype(self.backbone.dtype)
        projector = carb.Projector(c.projection, c.projector_hidden, c.projector_normalise, dtype)
        return carb.CARB(
            self.backbone.build(), projector, c.split_layer, c.attentive_fraction, c.num_clusters, c.density
        )
