"""Weights of PyTorch checkpoints as models, and back.

A checkpoint does not say everything. Images are taken to be normalised with ImageNet's mean and deviation (true of MAE
and DeiT, not of all of timm's ViTs), LayerNorms to have eps 1e-6 (Hugging Face's default is 1e-12), and a decoder to
predict pixels normalised by patch. The number of heads follows from the named encoder.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Float

from scemae_jax import config as configuration
from scemae_jax.convert.names import PARTS, Dialect, is_of_classifier, is_of_decoder, name_of_today, names_in
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Model
from scemae_jax.models import vit
from scemae_jax.models.architecture import Architecture
from scemae_jax.systems.sce_mae import settings

SINCOS_TOLERANCE = 1e-4
"""A position table this near the sin-cos code is that code. In float32 the released ones are within 1e-6 of it; one
that was rounded to half precision is not, and becomes a learned table."""
DECODER_HEAD = 32
"""Width of a head of the MAE release's decoders: 512 in 16 heads."""
PATCHES = "encoder.patch_projection.kernel"
POSITIONS, DECODER_POSITIONS = "encoder.position_code", "decoder.position_code"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """A model made of a checkpoint, and what became of each tensor, by its name in the checkpoint."""

    model: Model
    dialect: Dialect
    taken: dict[str, str]
    """Which of our weights each became."""
    left: dict[str, str]
    """Why each was left."""


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint's tensors, found by our names."""

    state: Mapping[str, Any]
    dialect: Dialect
    own: dict[str, str]
    """Its own names, by those that the dialect has today."""

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> _Checkpoint:
        if names_in("mae", PATCHES)[0] in state:
            dialect = "mae" if any(map(is_of_decoder, state)) else "timm"
            return cls(state, dialect, {name: name for name in state})
        names = {name_of_today(name): name for name in state}
        if names_in("huggingface", PATCHES)[0] in names:
            return cls(state, "huggingface", names)
        raise ValueError(
            "a ViT has patch_embed.proj.weight (MAE, timm) or embeddings.patch_embeddings.projection.weight (Hugging "
            f"Face), and the checkpoint has neither, but {_listed(state)}: take a checkpoint of one of these"
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return ("encoder", "decoder") if any(map(is_of_decoder, self.own)) else ("encoder",)

    def called(self, ours: str) -> list[str]:
        """Its own names of one of our weights."""
        return [self.own.get(name, name) for name in names_in(self.dialect, ours)]

    def tensor(self, ours: str) -> np.ndarray:
        names = self.called(ours)
        if missing := [name for name in names if name not in self.state]:
            raise ValueError(f"the checkpoint lacks {_listed(missing)}: take the weights of a whole ViT or MAE")
        return np.concatenate([np.atleast_1d(np.asarray(self.state[name], np.float32)) for name in names])

    def depth(self, part: str) -> int:
        """The number of blocks of encoder or decoder."""
        (prefix,) = names_in(self.dialect, f"{part}.blocks_")
        numbers = [re.match(re.escape(prefix) + r"(\d+)\.", name) for name in self.own]
        return max((int(number[1]) + 1 for number in numbers if number), default=0)

    def encoder(self) -> str:
        """The name of an encoder of its sizes."""
        shape = self.tensor(PATCHES).shape
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"the checkpoint's patches have shape {list(shape)}: [width, 3, patch, patch] is needed")
        return vit.variant_name(shape[0], self.depth("encoder"), shape[2])

    def decoder(self, heads: int | None) -> dict[str, int]:
        """Its decoder's sizes, as fields of `config.model`."""
        if "decoder" not in self.parts:
            return {}
        width = len(self.tensor("decoder.embed.kernel"))
        of_release = None if width % DECODER_HEAD else width // DECODER_HEAD
        heads = of_release if heads is None else heads
        if not heads or heads < 1 or width % heads:
            raise ValueError(
                f"decoder_heads is {heads}, which the checkpoint does not say, and its decoder has width {width}: "
                "give a divisor"
            )
        return {"decoder_width": width, "decoder_depth": self.depth("decoder"), "decoder_heads": heads}

    def weights(self, encoder: str, decoder: Mapping[str, int]) -> dict[str, np.ndarray]:
        """All its weights, named and laid out as ours, and its position tables.

        Raises:
          ValueError: it lacks some of them, has others, or has some of another shape.
        """
        shapes = _shapes(_architecture(encoder, "sincos", decoder), self.parts)
        ours = [*shapes, *(POSITIONS, DECODER_POSITIONS)[: len(self.parts)]]
        needed = {name for weight in ours for name in self.called(weight)}
        problems = []
        if missing := sorted(needed - self.state.keys()):
            problems.append(f"it lacks {_listed(missing)}")
        if unknown := [own for name, own in self.own.items() if own not in needed and not is_of_classifier(name)]:
            problems.append(f"it has {_listed(unknown)}, which an encoder {encoder!r} of ours does not have")
        if problems:
            raise ValueError(
                f"the checkpoint, by its names one of {self.dialect}, does not fit: {'; '.join(problems)}: take the "
                "weights of a plain ViT or MAE, whole and under the names they were published with"
            )
        weights = {}
        for name in ours:
            value = self.tensor(name)
            if name in shapes:
                expected = _to_layout(name, np.broadcast_to(np.float32(0), shapes[name])).shape
            else:
                width = decoder["decoder_width"] if name == DECODER_POSITIONS else vit.variant(encoder).width
                patches = math.isqrt(max(1, value.size // width - 1)) ** 2  # of a square image
                expected = (1, 1 + patches, width)
            if value.shape != expected:
                raise ValueError(
                    f"{' with '.join(self.called(name))} has shape {list(value.shape)}, and an encoder {encoder!r} "
                    f"needs {list(expected)}: the checkpoint is of another architecture"
                )
            weights[name] = _from_layout(name, value)
        return weights


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "nothing"


def _architecture(encoder: str, positions: vit.Positions, decoder: Mapping[str, int]) -> Architecture:
    config = settings.default()
    config.data.normalisation = "imagenet"
    config.model.update({"encoder": encoder, "positions": positions, **decoder})
    return configuration.architecture(config)


def _shapes(architecture: Architecture, parts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Of the weights of these parts, by our names; without position tables."""
    side = 2 * architecture.backbone.variant.patch_size  # any number of patches will do
    network, images, noise = architecture.build_mae(), jnp.zeros((1, side, side, 3)), jnp.zeros((1, 4))
    tree = jax.eval_shape(network.init, jax.random.key(0), images, noise)["params"]
    flat = traverse_util.flatten_dict({part: tree[part] for part in parts}, sep=".")
    return {name: leaf.shape for name, leaf in cast(dict[str, jax.ShapeDtypeStruct], flat).items()}


def _to_layout(name: str, value: np.ndarray) -> np.ndarray:
    """Our weight as PyTorch lays it out: linear layers `[out, in]`, the patch projection a convolution."""
    if name == PATCHES:
        side = math.isqrt(value.shape[0] // 3)
        return value.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
    return value.T if name.endswith(".kernel") else value


def _from_layout(name: str, value: np.ndarray) -> np.ndarray:
    if name == PATCHES:
        return value.transpose(2, 3, 1, 0).reshape(-1, len(value))
    return value.T if name.endswith(".kernel") else value


def resample_patches(kernel: Float[np.ndarray, "d c p p"], patch_size: int) -> Float[np.ndarray, "d c q q"]:
    """A patch projection for patches of another size (FlexiViT, Beyer et al. 2023, equation 4).

    With B the bilinear resizing of a patch, the new weights are `pinv(B^T) w`: larger patches have the same inner
    products with them as before resizing, smaller ones the nearest that there are for white noise. Computed in float64.
    """
    old = kernel.shape[-1]
    place = np.clip((np.arange(patch_size) + 0.5) * old / patch_size - 0.5, 0, old - 1)
    along_one_side = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old)))  # B is its Kronecker square
    inverse = np.linalg.pinv(along_one_side.T)
    return (inverse @ kernel.astype(np.float64) @ inverse.T).astype(np.float32)


def resample_positions(table: Float[np.ndarray, "1 1+n d"], side: int) -> Float[np.ndarray, "1 1+m d"]:
    """A position table of a square grid for `side` x `side` patches, resampled bicubically; the row of CLS stays.

    `jax.image.resize` places samples as for pixels, so that both grids cover the same image, and smooths before it
    shrinks; `scipy.ndimage.zoom` does not smooth, and puts a spline through the samples.
    """
    old = math.isqrt(table.shape[1] - 1)
    if side == old:
        return table
    grid = table[0, 1:].reshape(old, old, -1)
    resized = np.asarray(jax.image.resize(grid, (side, side, grid.shape[-1]), "cubic"))
    return np.concatenate([table[:, :1], resized.reshape(1, side * side, -1)], axis=1)


def _is_sincos(table: Float[np.ndarray, "1 1+n d"]) -> bool:
    side = math.isqrt(table.shape[1] - 1)
    return np.allclose(table, vit.position_table(table.shape[-1], side, side), rtol=0, atol=SINCOS_TOLERANCE)


def from_torch(
    state: Mapping[str, Any],
    *,
    encoder: str | None = None,
    patch_size: int | None = None,
    positions: Literal["auto", "resample"] = "auto",
    decoder_heads: int | None = None,
) -> Converted:
    """Makes a model of a PyTorch checkpoint: the encoder, and an MAE decoder where there is one that fits.

    The names say whose it is. A position table that equals the sin-cos code of its own grid, to 1e-4, becomes our fixed
    code; any other becomes a learned table, resampled bicubically where the grids differ. A decoder is left out where
    the patches are resampled (it predicts pixels of the old ones), or its own position table is not the sin-cos code.

    Args:
      state: arrays by name (`network.state_dict()`, or NumPy's); taken as float32.
      encoder: such as "B/16"; an error unless that is what comes out.
      patch_size: in pixels; resamples the patch projection (`resample_patches`) where the checkpoint has another.
      positions: "resample" makes a learned table of a sin-cos one too.
      decoder_heads: of the MAE decoder, which is not stored; without it heads are 32 wide.

    Raises:
      ValueError: not such a checkpoint, or of sizes that have no name, or not of those asked for; tensors are missing,
        of another shape, or unknown (those of a classifier are left); a distilled DeiT.
    """
    checkpoint = _Checkpoint.recognise(state)
    there = checkpoint.encoder()
    size, _, old_patch = there.partition("/")
    here = there if patch_size is None else f"{size}/{patch_size}"
    v, window = vit.variant(here), FRAME.window
    if encoder not in (None, here):
        raise ValueError(f"encoder {encoder!r} was asked for, and this is {here!r}: ask for that, or give patch_size")
    if window % v.patch_size:
        raise ValueError(
            f"the {window}x{window} window does not divide into patches of {v.patch_size}: give patch_size"
        )
    decoder = checkpoint.decoder(decoder_heads)
    weights = checkpoint.weights(there, decoder)
    notes = {name: name for name in weights}

    if here != there:
        kernel = resample_patches(checkpoint.tensor(PATCHES), v.patch_size)
        weights[PATCHES] = _from_layout(PATCHES, kernel)
        notes[PATCHES] += f", resampled from patches of {old_patch} pixels to {v.patch_size}"
    table, side = weights.pop(POSITIONS), window // v.patch_size
    learned = positions == "resample" or not _is_sincos(table)
    if learned:
        weights[POSITIONS] = resample_positions(table, side)
    notes[POSITIONS] = "a learned table, resampled bicubically" if learned else "the fixed sin-cos code, computed anew"
    notes[POSITIONS] += f" for {side}x{side} patches"

    obstacle = ""
    if "decoder" in checkpoint.parts:
        notes[DECODER_POSITIONS] = "the fixed sin-cos code, computed anew"
        if here != there:
            obstacle = f"its pixel layer is for patches of {old_patch} pixels, not {v.patch_size}"
        elif not _is_sincos(weights.pop(DECODER_POSITIONS)):
            obstacle = "its position table is not the sin-cos code, and our decoder has no other"
    if obstacle:
        decoder = {}
        weights = {name: value for name, value in weights.items() if not is_of_decoder(name)}
        notes = {name: note for name, note in notes.items() if not is_of_decoder(name)}
    taken = {own: note for name, note in notes.items() for own in checkpoint.called(name)}
    left = {
        own: f"the decoder is left out: {obstacle}" if is_of_decoder(name) else "of a classifier, which is not needed"
        for name, own in checkpoint.own.items()
        if own not in taken
    }
    model = Model(
        architecture=_architecture(here, "learned" if learned else "sincos", decoder),
        params=jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(weights, sep=".")),
        provenance={"converted_from": f"PyTorch weights of {there}, {checkpoint.dialect} names"},
    )
    return Converted(model=model, dialect=checkpoint.dialect, taken=taken, left=left)


def to_torch(model: Model, dialect: Dialect, *, image_size: int | None = None) -> dict[str, np.ndarray]:
    """The weights of a model under the names, and in the layout, of a PyTorch one; `from_torch` gives the same back.

    Encoder and decoder (timm has encoders only). PyTorch has no counterpart of the projector and the landmark heads.

    Args:
      model: of any kind.
      dialect: "mae", "timm" or "huggingface" (today's names of its modules, as `load_state_dict` needs them).
      image_size: of the images that sin-cos position tables are written for, in pixels; None: the model's window.

    Returns:
      Arrays by name, float32.

    Raises:
      ValueError: the dialect is unknown, the image size does not divide into patches, or a learned position table is
        for another.
    """
    if dialect not in get_args(Dialect):
        raise ValueError(f"dialect is {dialect!r}: choose one of {', '.join(get_args(Dialect))}")
    backbone = model.architecture.backbone
    patch_size, window = backbone.variant.patch_size, backbone.frame.window
    image_size = window if image_size is None else image_size
    side, rest = divmod(image_size, patch_size)
    if rest or side < 1:
        raise ValueError(f"image_size is {image_size}: choose a multiple of the patch size {patch_size}")
    if backbone.positions == "learned" and image_size != window:
        raise ValueError(
            f"image_size is {image_size}, and the model's learned position table is for {window}: leave it"
        )
    parts = {part: model.params[part] for part in PARTS[dialect] if part in model.params}
    flat = traverse_util.flatten_dict(parts, sep=".")
    weights = {name: _to_layout(name, np.asarray(value)) for name, value in flat.items()}
    if backbone.positions == "sincos":
        weights[POSITIONS] = vit.position_table(backbone.variant.width, side, side)
    if "decoder" in parts:
        weights[DECODER_POSITIONS] = vit.position_table(model.architecture.build_mae().decoder_width, side, side)
    state = {}
    for ours, value in weights.items():
        names = names_in(dialect, ours)
        state |= {
            name: np.ascontiguousarray(part) for name, part in zip(names, np.split(value, len(names)), strict=True)
        }
    return state
