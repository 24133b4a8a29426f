"""The Vision Transformer encoder (Dosovitskiy et al. 2021, with the details of He et al. 2022).

Pre-norm blocks, LayerNorm eps 1e-6, exact GELU, QKV bias, a CLS token; position codes are fixed 2-D sin-cos ones (MAE)
or a learned table (ViT, DeiT).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from scemae_jax.ops.attention import attention

LAYER_NORM_EPSILON = 1e-6

Positions = Literal["sincos", "learned"]
"""Position codes: the fixed function of He et al. 2022, or a trained table."""

xavier_uniform = nn.initializers.xavier_uniform()
token_init = nn.initializers.normal(stddev=0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """The sizes of an encoder."""

    width: int
    depth: int
    num_heads: int
    patch_size: int
    projection: int
    """Width of the CARB projector's output for this encoder (64, 128 and 256 for T, S and B in the paper)."""


_SIZES = {
    "XXS": {"width": 48, "depth": 4, "num_heads": 2, "projection": 32},
    "XS": {"width": 96, "depth": 6, "num_heads": 3, "projection": 64},
    "T": {"width": 192, "depth": 12, "num_heads": 3, "projection": 64},
    "S": {"width": 384, "depth": 12, "num_heads": 6, "projection": 128},
    "B": {"width": 768, "depth": 12, "num_heads": 12, "projection": 256},
    "L": {"width": 1024, "depth": 24, "num_heads": 16, "projection": 256},
}


def variant(name: str) -> Variant:
    """Sizes of a named encoder: `"S/8"` is DeiT-S with patches of 8x8 pixels.

    T, S and B are DeiT's tiny, small and base, L is ViT's large; XS and XXS are for CPUs and tests.

    Raises:
      ValueError: the name is not `SIZE/PATCH` with a known size.
    """
    size, _, patch = name.partition("/")
    if size not in _SIZES or not patch.isdigit() or int(patch) < 1:
        raise ValueError(f"unknown encoder {name!r}: use SIZE/PATCH, e.g. 'S/8', with SIZE one of {list(_SIZES)}")
    return Variant(patch_size=int(patch), **_SIZES[size])


def variant_name(width: int, depth: int, patch_size: int) -> str:
    """The name that `variant` knows an encoder of these sizes by; the heads follow from it.

    Raises:
      ValueError: no named encoder has this width and depth.
    """
    for size, known in _SIZES.items():
        if (width, depth) == (known["width"], known["depth"]):
            return f"{size}/{patch_size}"
    sizes = ", ".join(f"{size} ({known['width']}, {known['depth']})" for size, known in _SIZES.items())
    raise ValueError(f"no named encoder has width {width} and depth {depth}; those known, as (width, depth): {sizes}")


def sincos_position_code(width: int, rows: int, columns: int) -> np.ndarray:
    """Fixed 2-D sin-cos position code `[rows * columns, width]`, float32 (He et al. 2022, reference code).

    The first half of the width codes x, the second y; in each the sines come before the cosines, at frequencies
    `1 / 10000^(i / (width / 4))`.

    Raises:
      ValueError: width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"a 2-D sin-cos position code needs a width that is a multiple of 4, not {width}")
    frequencies = 1.0 / 10000.0 ** (np.arange(width // 4, dtype=np.float64) / (width // 4))
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")

    def code(position: np.ndarray) -> np.ndarray:
        angles = position.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    return np.concatenate([code(x), code(y)], axis=1).astype(np.float32)


def position_table(width: int, rows: int, columns: int) -> Float[np.ndarray, "1 1+n d"]:
    """The sin-cos code as a table for all tokens, with zeros for CLS first. A learned table starts from it."""
    return np.pad(sincos_position_code(width, rows, columns), ((1, 0), (0, 0)))[None]


def patchify(images: Float[Array, "b h w c"], patch_size: int) -> Float[Array, "b n p"]:
    """Cuts images into patches, row by row; a patch is flattened as (row, column, channel)."""
    b, h, w, c = images.shape
    if h % patch_size or w % patch_size:
        raise ValueError(f"an image of {h}x{w} pixels does not divide into patches of {patch_size}x{patch_size}")
    rows, columns = h // patch_size, w // patch_size
    patches = images.reshape(b, rows, patch_size, columns, patch_size, c)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, patch_size * patch_size * c)


def unpatchify(patches: Float[Array, "b n p"], patch_size: int, rows: int) -> Float[Array, "b h w c"]:
    """The inverse of `patchify`, for an image of `rows` rows of patches."""
    b, n, p = patches.shape
    columns, c = n // rows, p // patch_size**2
    images = patches.reshape(b, rows, columns, patch_size, patch_size, c)
    return images.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * patch_size, columns * patch_size, c)


def dense(features: int, name: str | None = None, dtype: DTypeLike = jnp.float32) -> nn.Dense:
    """A linear layer as MAE initialises it: xavier-uniform weights, zero bias."""
    return nn.Dense(features, kernel_init=xavier_uniform, dtype=dtype, name=name)


def layer_norm(name: str | None = None, dtype: DTypeLike = jnp.float32) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=dtype, name=name)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU in one pass; flax's, by `erfc`, takes several passes and more memory."""
    exact = x.astype(jnp.float32)
    return (0.5 * exact * (1 + jax.lax.erf(exact * np.float32(0.5**0.5)))).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one linear layer with bias."""

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b t d"]) -> tuple[Float[Array, "b t d"], Float[Array, "b h t"]]:
        """Returns the attended tokens, and each head's scaled logits of the CLS query (token 0) for all keys."""
        b, t, width = tokens.shape
        if width % self.num_heads:
            raise ValueError(f"a width of {width} does not divide into {self.num_heads} heads")
        qkv = jnp.split(dense(3 * width, "qkv", self.dtype)(tokens), 3, axis=-1)
        query, key, value = (x.reshape(b, t, self.num_heads, width // self.num_heads) for x in qkv)
        attended = attention(query, key, value).reshape(b, t, width)
        # Computed outside the attention, so that they cost nothing if they are not used.
        cls_query = query[:, 0] / np.sqrt(query.shape[-1])
        cls_logits = jnp.einsum("bhd,bkhd->bhk", cls_query, key, preferred_element_type=jnp.float32)
        return dense(width, "out", self.dtype)(attended), cls_logits


class Block(nn.Module):
    """A pre-norm transformer block."""

    num_heads: int
    mlp_ratio: float = 4.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b t d"]) -> tuple[Float[Array, "b t d"], Float[Array, "b h t"]]:
        """Returns the tokens, and the CLS query's logits of `Attention`."""
        width = tokens.shape[-1]
        attended, cls_logits = Attention(self.num_heads, self.dtype, name="attention")(
            layer_norm("norm_attention", self.dtype)(tokens)
        )
        tokens = tokens + attended
        hidden = dense(int(self.mlp_ratio * width), "mlp_in", self.dtype)(layer_norm("norm_mlp", self.dtype)(tokens))
        return tokens + dense(width, "mlp_out", self.dtype)(gelu(hidden)), cls_logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerLoop:
    """How the layers are run; the result is the same."""

    scan: bool = False
    """As a loop over a stacked copy of their weights, which compiles one layer only."""
    remat: bool = False
    """Recompute activations in the backward pass; keep only each layer's input. Less memory, more time.

    On a CPU it needs `scan`: without a loop XLA recognises the recomputation and keeps the first results instead.
    """

    def run(
        self, blocks: Sequence[Block], tokens: Float[Array, "b t d"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b h t"]]:
        """The tokens after all blocks, and the CLS query's logits of the last."""
        first = blocks[0]
        if first.is_initializing() or self == LayerLoop():
            *before, final = blocks
            for block in before:
                tokens, _ = block(tokens)
            return final(tokens)

        template = first.clone(parent=None)
        weights = [block.variables["params"] for block in blocks]

        def layer(tokens: Array, params: Any) -> tuple[Array, Array]:
            return cast(tuple[Array, Array], template.apply({"params": params}, tokens))

        layer = jax.checkpoint(layer, prevent_cse=not self.scan) if self.remat else layer  # a loop prevents CSE anyway
        if self.scan:
            tokens, cls_logits = jax.lax.scan(layer, tokens, jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights))
            return tokens, cls_logits[-1]
        for params in weights[:-1]:
            tokens, _ = layer(tokens, params)
        return layer(tokens, weights[-1])


ONE_BY_ONE = LayerLoop()


class ViT(nn.Module):
    """A ViT encoder without a head. Use `embed`, `layers` and `normalise` to run a part of it."""

    width: int
    depth: int
    num_heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    dtype: DTypeLike = jnp.float32
    positions: Positions = "sincos"
    """With "learned", `embed` adds the parameter `position_code` `[1, 1 + N, D]`, CLS first."""
    grid: tuple[int, int] = (12, 12)
    """Rows and columns of patches that a learned table is for; the sin-cos code takes any."""
    layer_loop: LayerLoop = ONE_BY_ONE

    def setup(self) -> None:
        self.patch_projection = dense(self.width, dtype=self.dtype)
        self.cls_token = self.param("cls_token", token_init, (1, 1, self.width))
        if self.positions == "learned":
            self.position_code = self.param("position_code", self._initial_positions)
        self.blocks = [Block(self.num_heads, self.mlp_ratio, self.dtype) for _ in range(self.depth)]
        self.norm = layer_norm(dtype=self.dtype)

    def _initial_positions(self, _: Key[Array, ""]) -> Float[Array, "1 1+n d"]:
        return jnp.asarray(position_table(self.width, *self.grid))

    def _positions(self, rows: int, columns: int) -> Float[Array, "1 1+n d"]:
        if self.positions == "sincos":
            return jnp.asarray(position_table(self.width, rows, columns))
        if (rows, columns) != self.grid:
            raise ValueError(
                f"images of {rows}x{columns} patches for an encoder whose learned position table is for "
                f"{self.grid[0]}x{self.grid[1]}: give images of that size, or use the sin-cos code"
            )
        return self.position_code

    def embed(self, images: Float[Array, "b h w c"], keep: Int[Array, "b k"] | None = None) -> Float[Array, "b 1+k d"]:
        """Patch embeddings with their position codes, CLS first; `keep` selects patches (all of them without it).

        Raises:
          ValueError: the images do not divide into patches, or into those that a learned position table is for.
        """
        table = self._positions(images.shape[1] // self.patch_size, images.shape[2] // self.patch_size)
        positions = table[:, 1:]
        patches = patchify(images, self.patch_size)
        if keep is not None:
            patches = jnp.take_along_axis(patches, keep[..., None], axis=1)
            positions = positions[0][keep]
        tokens = self.patch_projection(patches) + positions.astype(self.dtype)
        cls_token = (self.cls_token + table[:, :1]).astype(self.dtype)
        cls_token = jnp.broadcast_to(cls_token, (images.shape[0], 1, self.width))
        return jnp.concatenate([cls_token, tokens], axis=1)

    def layers(
        self, tokens: Float[Array, "b t d"], first: int, last: int
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b h t"]]:
        """Runs layers `first` to `last` (counted from 1, both included); with the CLS logits of layer `last`.

        Raises:
          ValueError: the layers are not in the encoder.
        """
        if not 1 <= first <= last <= self.depth:
            raise ValueError(f"layers {first} to {last} asked of an encoder that has layers 1 to {self.depth}")
        return self.layer_loop.run(self.blocks[first - 1 : last], tokens)

    def normalise(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """The last LayerNorm, whose output are the features."""
        return self.norm(tokens)

    @overload
    def __call__(
        self, images: Float[Array, "b h w c"], keep: Int[Array, "b k"] | None = None
    ) -> Float[Array, "b 1+k d"]: ...

    @overload
    def __call__(
        self, images: Float[Array, "b h w c"], keep: Int[Array, "b k"] | None = None, *, intermediates: Literal[True]
    ) -> tuple[Float[Array, "b 1+k d"], dict[str, Array]]: ...

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        keep: Int[Array, "b k"] | None = None,
        *,
        intermediates: bool = False,
    ) -> Float[Array, "b 1+k d"] | tuple[Float[Array, "b 1+k d"], dict[str, Array]]:
        """Encodes images (normalised, not raw pixels).

        With `intermediates` also returns a dict: `embedded`, `layer_1` ... `layer_<depth>` (tokens after that layer,
        before the last LayerNorm) and `cls_logits_1` ... (the CLS query's scaled logits `[B, heads, 1 + N]`).
        """
        tokens = self.embed(images, keep)
        if not intermediates:
            tokens, _ = self.layers(tokens, 1, self.depth)
            return self.normalise(tokens)
        seen = {"embedded": tokens}
        for layer in range(1, self.depth + 1):
            tokens, seen[f"cls_logits_{layer}"] = self.layers(tokens, layer, layer)
            seen[f"layer_{layer}"] = tokens
        return self.normalise(tokens), seen
