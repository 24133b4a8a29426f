"""Weights of PyTorch checkpoints as models of this package, and back.

Reads and writes the names of the MAE release (He et al. 2022), of timm's ViT and DeiT, and of Hugging Face's ViTMAE and
ViT, those of today and those of the published files:

  python -m scemae_jax.convert --checkpoint mae_pretrain_vit_base.pth --output mae_b16.msgpack
  python -m scemae_jax.convert --checkpoint mae_pretrain_vit_base.pth --output mae_b8.msgpack --patch_size 8
  python -m scemae_jax.convert --model runs/mine/export/scemae.msgpack --to mae --output mine.safetensors

The first two give files to start stage 1 from, `--config.init=mae_b8.msgpack --config.model.encoder=B/8`, with
`--config.model.positions=learned` where the list that is printed says so. Reading and writing .pth needs PyTorch,
.safetensors does not. Exit status: 0 done, 1 error.

What a checkpoint does not say: the heads follow from the named encoder; images are taken to be normalised with
ImageNet's mean and deviation, as those of MAE and DeiT were (some of timm's ViTs were not); LayerNorms have eps 1e-6 as
in MAE and timm, where Hugging Face's default is 1e-12, a difference that only tokens of almost no variance feel; a
decoder's target is taken to be normalised by patch.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import flags
from flax import traverse_util
from jaxtyping import Float

from scemae_jax import config as configuration
from scemae_jax.command_line import exit_status, start
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Model
from scemae_jax.model_file import load, save_model
from scemae_jax.models import vit
from scemae_jax.models.architecture import Architecture
from scemae_jax.systems.sce_mae import settings

Dialect = Literal["mae", "timm", "huggingface"]

SINCOS_TOLERANCE = 1e-4
"""A position table this near the sin-cos code is that code. In float32 the released ones are within 1e-6 of it; one
that was rounded to half precision is not, and is kept as it is, as a learned table."""
DECODER_HEAD = 32
"""Width of a head of the MAE release's decoders: 512 in 16 heads."""

_Rules = Sequence[tuple[str, str]]

# Our names, joined by dots, to those of the MAE release, which timm's encoder shares.
_TO_MAE: _Rules = (
    (r"^encoder\.position_code$", "pos_embed"),
    (r"^encoder\.patch_projection\.", "patch_embed.proj."),
    (r"^encoder\.blocks_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.", ""),
    (r"^decoder\.blocks_(\d+)\.", r"decoder_blocks.\1."),
    (r"^decoder\.mask_token$", "mask_token"),
    (r"^decoder\.pixels\.", "decoder_pred."),
    (r"^decoder\.", "decoder_"),
    (r"\.norm_attention\.", ".norm1."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.norm_mlp\.", ".norm2."),
    (r"\.mlp_in\.", ".mlp.fc1."),
    (r"\.mlp_out\.", ".mlp.fc2."),
    (r"\.(kernel|scale)$", ".weight"),
)
_MAE_TO_HUGGINGFACE: _Rules = (
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^cls_token$", "vit.embeddings.cls_token"),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^norm\.", "vit.layernorm."),
    (r"^blocks\.", "vit.layers."),
    (r"^decoder_blocks\.", "decoder.decoder_layers."),
    (r"^(mask_token|decoder_)", r"decoder.\1"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
)
# Names of published files, of files that the library writes, and of encoders saved alone, to those of its modules.
_TO_HUGGINGFACE_OF_TODAY: _Rules = (
    (r"^(embeddings|encoder|layers|layernorm)\.", r"vit.\1."),
    (r"^vit\.encoder\.layer\.", "vit.layers."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_HEADS = re.compile(r"^(vit\.)?(head|pre_logits|pooler|classifier)\.")
"""Classifiers and what leads to them alone: nothing of ours needs them."""
_OF_A_DECODER = ("decoder", "mask_token")
_TABLES = ("pos_embed", "decoder_pos_embed")
_PARTS: dict[Dialect, tuple[str, ...]] = {
    "mae": ("encoder", "decoder"),
    "timm": ("encoder",),
    "huggingface": ("encoder", "decoder"),
}
PATCH_KERNEL = "encoder.patch_projection.kernel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    note: str
    """Which of our parameters it became, or why it was left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """A model made of a checkpoint, and what became of each tensor."""

    model: Model
    dialect: Dialect
    taken: list[Entry]
    left: list[Entry]
    missing: list[str]
    """Parts of a model that the checkpoint does not have: `decoder`, or nothing."""


def _renamed(name: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _names(name: str, dialect: Dialect) -> tuple[str, ...]:
    """A tensor of the MAE release in a dialect; in Hugging Face's, queries, keys and values are three."""
    if dialect != "huggingface":
        return (name,)
    name = _renamed(name, _MAE_TO_HUGGINGFACE)
    if ".attn.qkv." not in name:
        return (name,)
    return tuple(name.replace(".attn.qkv.", f".attention.{part}_proj.") for part in "qkv")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "nothing"


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint's tensors by the names of the MAE release, whatever its own."""

    state: Mapping[str, Any]
    dialect: Dialect
    own: dict[str, str]
    """Its own names, by those that the dialect has today."""

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> _Checkpoint:
        if distilled := [name for name in state if name.endswith(("dist_token", "distillation_token"))]:
            raise ValueError(
                f"the checkpoint is a distilled DeiT (it has {distilled[0]}), whose encoder needs two class tokens, "
                "and ours has one: take the DeiT that was trained without distillation"
            )
        names = {_renamed(name, _TO_HUGGINGFACE_OF_TODAY): name for name in state}
        if "patch_embed.proj.weight" in state:
            checkpoint = cls(state, "timm", {name: name for name in state})
            return dataclasses.replace(checkpoint, dialect="mae") if checkpoint.has_decoder else checkpoint
        if "vit.embeddings.patch_embeddings.projection.weight" in names:
            return cls(state, "huggingface", names)
        raise ValueError(
            "a ViT has patch_embed.proj.weight (MAE, timm) or embeddings.patch_embeddings.projection.weight (Hugging "
            f"Face), and the checkpoint has neither, but {_listed(list(state))}: take a checkpoint of one of these"
        )

    @property
    def has_decoder(self) -> bool:
        return any(name.startswith(_OF_A_DECODER) for name in self.own)

    def __contains__(self, name: str) -> bool:
        return all(own in self.own for own in _names(name, self.dialect))

    def called(self, name: str) -> str:
        return " with ".join(self.own[n] for n in _names(name, self.dialect))

    def tensor(self, name: str) -> np.ndarray:
        parts = [np.asarray(self.state[self.own[n]], np.float32) for n in _names(name, self.dialect)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def depth(self, blocks: str) -> int:
        """How many blocks there are whose names begin so."""
        (prefix,) = _names(f"{blocks}.", self.dialect)
        numbers = [re.match(re.escape(prefix) + r"(\d+)\.", name) for name in self.own]
        return max((int(number[1]) + 1 for number in numbers if number), default=0)

    def table(self, name: str, width: int) -> tuple[np.ndarray, int]:
        """A position table, and the side of the square grid of patches that it is for."""
        table = self.tensor(name)
        side = math.isqrt(max(0, table.shape[1] - 1)) if table.ndim == 3 else 0
        if not side or table.shape != (1, 1 + side**2, width):
            raise ValueError(
                f"{self.called(name)} has shape {list(table.shape)}: [1, 1 + a square number, {width}] is needed, a "
                "row for CLS and one for each patch of a square image"
            )
        return table, side


def _encoder_name(checkpoint: _Checkpoint) -> str:
    shape = checkpoint.tensor("patch_embed.proj.weight").shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(
            f"the checkpoint's patch projection has shape {list(shape)}: [width, 3, patch, patch] is needed, square "
            "patches of RGB images"
        )
    try:
        return vit.variant_name(shape[0], checkpoint.depth("blocks"), shape[2])
    except ValueError as error:
        raise ValueError(f"the checkpoint: {error}") from None


def _decoder_sizes(checkpoint: _Checkpoint, heads: int | None) -> dict[str, int]:
    depth = checkpoint.depth("decoder_blocks")
    if "decoder_embed.weight" not in checkpoint:
        return {"decoder_depth": depth}
    width = len(checkpoint.tensor("decoder_embed.weight"))
    if heads is None and width % DECODER_HEAD:
        raise ValueError(
            f"the checkpoint's decoder has width {width}; the number of its heads is not stored, and it does not "
            f"divide into heads of {DECODER_HEAD} as the MAE release has them: give decoder_heads"
        )
    heads = width // DECODER_HEAD if heads is None else heads
    if heads < 1 or width % heads:
        raise ValueError(f"decoder_heads is {heads}, and the checkpoint's decoder has width {width}: choose a divisor")
    return {"decoder_width": width, "decoder_depth": depth, "decoder_heads": heads}


def _check_asked(asked: str | None, there: str, here: str) -> None:
    """The encoder is the one asked for, and can look at our window."""
    patch_size = vit.variant(here).patch_size
    if asked is not None and vit.variant(asked) != vit.variant(here):
        resampled = "" if here == there else f", {here!r} once its patches are resampled"
        advice = "ask for that one, or take another checkpoint"
        if asked.partition("/")[0] == there.partition("/")[0]:
            advice = f"patch_size {vit.variant(asked).patch_size} brings its patches to that"
        raise ValueError(f"encoder {asked!r} was asked for, and the checkpoint is {there!r}{resampled}: {advice}")
    window = FRAME.window
    if window % patch_size:
        raise ValueError(
            f"encoder {here!r}: the {window}x{window} window does not divide into patches of {patch_size}x{patch_size}"
            ": patch_size resamples them, for example to 16"
        )


def _architecture(encoder: str, positions: vit.Positions, decoder: Mapping[str, int]) -> Architecture:
    config = settings.default()
    config.data.normalisation = "imagenet"
    config.model.update({"encoder": encoder, "positions": positions, **decoder})
    return configuration.architecture(config)


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Of the parameters of encoder and decoder, by their names joined by dots."""
    side = 2 * architecture.backbone.variant.patch_size  # any number of patches will do
    network, images, noise = architecture.build_mae(), jnp.zeros((1, side, side, 3)), jnp.zeros((1, 4))
    tree = jax.eval_shape(network.init, jax.random.key(0), images, noise)["params"]
    flat = cast(dict[str, jax.ShapeDtypeStruct], traverse_util.flatten_dict(tree, sep="."))
    return {name: leaf.shape for name, leaf in flat.items()}


def _check_fits(checkpoint: _Checkpoint, shapes: Mapping[str, tuple[int, ...]], there: str) -> None:
    """Nothing is missing or unknown, and all is of the shape that an encoder of this name has."""
    dialect, own = checkpoint.dialect, checkpoint.own
    sources = [_renamed(name, _TO_MAE) for name in shapes] + [*_TABLES[: 1 + checkpoint.has_decoder]]
    expected = {name for source in sources for name in _names(source, dialect)}
    problems = []
    if missing := sorted(expected - own.keys()):
        problems.append(f"it lacks {_listed(missing)}")
    if unknown := [own[name] for name in own if name not in expected and not _HEADS.match(name)]:
        problems.append(f"it has {_listed(unknown)}, which an encoder {there!r} of ours does not have")
    if problems:
        raise ValueError(
            f"the checkpoint, by its names one of {dialect}, does not fit: {'; '.join(problems)}: take the weights of "
            "a plain ViT or MAE, whole and under the names they were published with"
        )
    for name, shape in shapes.items():
        source = _renamed(name, _TO_MAE)
        needed, found = _to_layout(name, np.broadcast_to(np.float32(0), shape)).shape, checkpoint.tensor(source).shape
        if needed != found:
            raise ValueError(
                f"{checkpoint.called(source)} has shape {list(found)}, and an encoder {there!r} needs {list(needed)}: "
                "the checkpoint is of another architecture"
            )


def _to_layout(name: str, value: np.ndarray) -> np.ndarray:
    """Our parameter as PyTorch lays it out: linear layers `[out, in]`, the patch projection a convolution."""
    if name == PATCH_KERNEL:
        side = math.isqrt(value.shape[0] // 3)
        return value.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
    return value.T if name.endswith(".kernel") else value


def _from_layout(name: str, value: np.ndarray) -> np.ndarray:
    if name == PATCH_KERNEL:
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


def _is_sincos(table: np.ndarray, side: int) -> bool:
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

    Its dialect is seen from the names. A position table that equals the sin-cos code of its own grid, to 1e-4, becomes
    our fixed code; any other becomes a learned table, resampled bicubically where the grids differ. A decoder is left
    out where the patches are resampled (it predicts pixels of the old ones), or its own position table is not the
    sin-cos code.

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
    there = _encoder_name(checkpoint)
    size, _, old_patch = there.partition("/")
    here = there if patch_size is None else f"{size}/{patch_size}"
    _check_asked(encoder, there, here)
    decoder = _decoder_sizes(checkpoint, decoder_heads)
    shapes = _shapes(_architecture(there, "sincos", decoder))
    if not checkpoint.has_decoder:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("decoder.")}
    _check_fits(checkpoint, shapes, there)

    notes = {_renamed(name, _TO_MAE): name for name in shapes}
    params = {name: _from_layout(name, checkpoint.tensor(source)) for source, name in notes.items()}
    v = vit.variant(here)
    side = FRAME.window // v.patch_size
    if here != there:
        kernel = resample_patches(checkpoint.tensor("patch_embed.proj.weight"), v.patch_size)
        params[PATCH_KERNEL] = _from_layout(PATCH_KERNEL, kernel)
        notes["patch_embed.proj.weight"] += f", resampled from patches of {old_patch} pixels to {v.patch_size}"

    table, old_side = checkpoint.table("pos_embed", v.width)
    learned = positions == "resample" or not _is_sincos(table, old_side)
    notes["pos_embed"] = f"the fixed sin-cos code, computed anew for {side}x{side} patches"
    if learned:
        params["encoder.position_code"] = resample_positions(table, side)
        notes["pos_embed"] = "encoder.position_code, a learned table"
        if side != old_side:
            notes["pos_embed"] += f", resampled bicubically from {old_side}x{old_side} patches to {side}x{side}"

    obstacle = None
    if checkpoint.has_decoder:
        notes["decoder_pos_embed"] = "the fixed sin-cos code, computed anew"
        if here != there:
            obstacle = f"its pixel layer is for patches of {old_patch} pixels, not {v.patch_size}"
        elif not _is_sincos(*checkpoint.table("decoder_pos_embed", decoder["decoder_width"])):
            obstacle = "its position table is not the sin-cos code, and our decoder has no other"
    if obstacle:
        params = {name: value for name, value in params.items() if not name.startswith("decoder.")}
        decoder = {}

    taken, left = [], []
    read = {name: note for source, note in notes.items() for name in _names(source, checkpoint.dialect)}
    for name, own in checkpoint.own.items():
        if obstacle and name.startswith(_OF_A_DECODER):
            group, note = left, f"the decoder is left out: {obstacle}"
        else:
            group, note = (taken, read[name]) if name in read else (left, "of a classifier, which is not needed")
        group.append(Entry(name=own, shape=tuple(np.shape(state[own])), note=note))
    model = Model(
        architecture=_architecture(here, "learned" if learned else "sincos", decoder),
        params=jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(params, sep=".")),
        provenance={"converted_from": f"PyTorch weights of {there}, {checkpoint.dialect} names"},
    )
    missing = [] if checkpoint.has_decoder else ["decoder"]
    return Converted(model=model, dialect=checkpoint.dialect, taken=taken, left=left, missing=missing)


def to_torch(model: Model, dialect: Dialect, *, image_size: int | None = None) -> dict[str, np.ndarray]:
    """The weights of a model under the names, and in the layout, of a PyTorch one; `from_torch` gives the same back.

    Encoder and decoder (timm has encoders only). The projector and the landmark heads, which have no like there, are
    left out.

    Args:
      model: of any kind.
      dialect: "mae", "timm" or "huggingface" (today's names of its modules, as `load_state_dict` needs them).
      image_size: in pixels; the images that the tables of the sin-cos position code are written for; None: the
        model's window.

    Returns:
      Arrays by name, float32.

    Raises:
      ValueError: the dialect is unknown, the image size does not divide into patches, or a learned position table is
        for another.
    """
    if dialect not in get_args(Dialect):
        raise ValueError(f"dialect is {dialect!r}: choose one of {', '.join(get_args(Dialect))}")
    architecture, backbone = model.architecture, model.architecture.backbone
    patch_size, window = backbone.variant.patch_size, backbone.frame.window
    image_size = window if image_size is None else image_size
    side, rest = divmod(image_size, patch_size)
    if rest or side < 1:
        raise ValueError(f"image_size is {image_size}: choose a multiple of the patch size {patch_size}")
    if backbone.positions == "learned" and image_size != window:
        raise ValueError(
            f"image_size is {image_size}, and the model's learned position table is for {window}: leave it"
        )
    parts = {part: model.params[part] for part in _PARTS[dialect] if part in model.params}
    flat = traverse_util.flatten_dict(parts, sep=".")
    state = {_renamed(name, _TO_MAE): _to_layout(name, np.asarray(value)) for name, value in flat.items()}
    if backbone.positions == "sincos":
        state["pos_embed"] = vit.position_table(backbone.variant.width, side, side)
    if "decoder" in parts:
        state["decoder_pos_embed"] = vit.position_table(architecture.build_mae().decoder_width, side, side)
    written = {}
    for source, value in state.items():
        names = _names(source, dialect)
        pieces = np.split(value, len(names))
        written |= {name: np.ascontiguousarray(piece) for name, piece in zip(names, pieces, strict=True)}
    return written


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path} needs PyTorch, which is not installed: pip install torch, or use a .safetensors file"
        ) from None
    return torch


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    tensors = {}
    with safetensors.safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            try:
                value = file.get_tensor(name)  # bfloat16 is among NumPy's types once JAX is imported
            except (AttributeError, TypeError) as error:  # what NumPy says of a type that it does not know
                raise ValueError(
                    f"{path} holds {name} as {file.get_slice(name).get_dtype()}, numbers that cannot be read: save "
                    "its tensors as float32, float16 or bfloat16"
                ) from error
            tensors[name] = value.astype(np.float32)
    return tensors


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file, or of what `torch.save` wrote; float32.

    Of a dict that holds the weights under "model" (MAE, DeiT) or "state_dict" these are taken. Nothing in the file is
    run (`weights_only`).

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: PyTorch is not installed, and the file needs it.
      ValueError: the file is not a checkpoint, or holds other things than tensors by name, or numbers of a type that
        NumPy does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {str(path)!r}")
    if path.suffix == ".safetensors":
        try:
            return _read_safetensors(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # MAE's own checkpoints hold their arguments so
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch has no error of its own for files that are something else
        raise ValueError(
            f"{path} is not a checkpoint of weights alone ({type(error).__name__} from torch.load): write one with "
            "torch.save(network.state_dict(), FILE), or a .safetensors file"
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, and tensors by name are needed: save a state dict")
    if others := [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]:
        raise ValueError(
            f"{path} holds {_listed(others)}, which are no tensors, and no weights under 'model' or 'state_dict': "
            "save a state dict"
        )
    return {str(name): value.to(torch.float32).numpy() for name, value in content.items()}


def write_checkpoint(state: Mapping[str, np.ndarray], path: str | Path, dialect: Dialect) -> None:
    """Writes tensors to a .safetensors or .pth file, all or nothing.

    In .pth those of MAE and timm are under "model", as they were published.

    Raises:
      ImportError: PyTorch is not installed, and the file is to be .pth.
      ValueError: the file's name ends otherwise.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"output is {str(path)!r}: let its name end in .safetensors or .pth")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(dict(state), partial, metadata={"format": "pt"})
    else:
        torch = _torch(path)
        tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}  # a copy may be written to
        torch.save(tensors if dialect == "huggingface" else {"model": tensors}, partial)
    partial.replace(path)


def _print_entries(title: str, entries: Sequence[Entry]) -> None:
    """One line for tensors that differ in the number of their block only."""

    def pattern(text: str) -> str:
        return re.sub(r"(?<=[._])\d+(?=\.)", "*", text)

    print(f"{title}: {len(entries)} tensors, {sum(math.prod(entry.shape) for entry in entries):,} numbers")
    groups = collections.Counter((pattern(entry.name), entry.shape, pattern(entry.note)) for entry in entries)
    for (name, shape, note), count in groups.items():
        print(f"  {name}  {f'{count} x ' if count > 1 else ''}{list(shape)}  {note}".rstrip())


def convert_checkpoint(
    path: str,
    output: str,
    *,
    encoder: str | None = None,
    patch_size: int | None = None,
    positions: str = "auto",
    decoder_heads: int | None = None,
) -> None:
    """Makes a model file of a checkpoint file and prints what became of each tensor; options as of `from_torch`."""
    if Path(output).suffix != ".msgpack":
        raise ValueError(f"output is {output!r}, and a model file is to be written: let its name end in .msgpack")
    converted = from_torch(
        read_checkpoint(path),
        encoder=encoder,
        patch_size=patch_size,
        positions="resample" if positions == "resample" else "auto",
        decoder_heads=decoder_heads,
    )
    model = converted.model
    provenance = {**model.provenance, "checkpoint": Path(path).name}
    save_model(dataclasses.replace(model, provenance=provenance), Path(output))
    _print_entries("taken", converted.taken)
    _print_entries("left", converted.left)
    print(f"missing: {', '.join(converted.missing) or 'nothing'}")
    a = model.architecture.backbone
    print(
        f"{output}: to start stage 1 from it, --config.init={output} --config.model.encoder={a.encoder} "
        f"--config.model.positions={a.positions}"
    )


def convert_model(name: str, output: str, dialect: Dialect, *, image_size: int | None = None) -> None:
    """Makes a checkpoint file of a model file (or a model's name) and prints what is in it and what was left out."""
    model = load(name)
    state = to_torch(model, dialect, image_size=image_size)
    write_checkpoint(state, output, dialect)
    _print_entries("written", [Entry(name=name, shape=value.shape, note="") for name, value in state.items()])
    left = [part for part in model.params if part not in _PARTS[dialect]]
    left += [f"head {name}" for name in model.heads]
    print(f"left out, as {dialect} has no place for it: {', '.join(left) or 'nothing'}")


CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A PyTorch checkpoint to make a model file of.")
MODEL = flags.DEFINE_string("model", None, "A model file, or the name of one in the package, to make a checkpoint of.")
OUTPUT = flags.DEFINE_string("output", None, "The file to write: .msgpack, or with --to .safetensors or .pth.")
ENCODER = flags.DEFINE_string("encoder", None, "With --checkpoint: the encoder that is expected, such as S/8.")
PATCH_SIZE = flags.DEFINE_integer("patch_size", None, "With --checkpoint: resample the patch projection to this size.")
POSITIONS = flags.DEFINE_enum(
    "positions", "auto", ["auto", "resample"], "With --checkpoint: resample makes a learned table of a sin-cos one too."
)
DECODER_HEADS = flags.DEFINE_integer("decoder_heads", None, "With --checkpoint: of its decoder, if not 32 wide each.")
TO = flags.DEFINE_enum("to", None, list(get_args(Dialect)), "With --model: the names that the checkpoint is to have.")
TO_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "With --model: images that the position table is for, if not the model's window."
)


def _refuse(without: str, **given: flags.FlagHolder) -> None:
    """Options of the other way, which would do nothing."""
    if idle := [f"--{name}" for name, flag in given.items() if flag.present]:
        raise ValueError(f"{', '.join(idle)}: of no effect without --{without}, leave out")


def main() -> None:
    assert OUTPUT.value is not None  # `start` asks for it
    checkpoint, model, dialect = CHECKPOINT.value, MODEL.value, TO.value
    with exit_status():
        if checkpoint is not None and model is None and dialect is None:
            _refuse("model", image_size=TO_IMAGE_SIZE)
            convert_checkpoint(
                checkpoint,
                OUTPUT.value,
                encoder=ENCODER.value,
                patch_size=PATCH_SIZE.value,
                positions=POSITIONS.value,
                decoder_heads=DECODER_HEADS.value,
            )
        elif checkpoint is None and model is not None and dialect is not None:
            _refuse(
                "checkpoint",
                encoder=ENCODER,
                patch_size=PATCH_SIZE,
                positions=POSITIONS,
                decoder_heads=DECODER_HEADS,
            )
            convert_model(model, OUTPUT.value, cast(Dialect, dialect), image_size=TO_IMAGE_SIZE.value)
        else:
            raise ValueError(
                "give --checkpoint FILE to make a model, or --model FILE and --to DIALECT for the way back"
            )


if __name__ == "__main__":
    start(main, "output")
