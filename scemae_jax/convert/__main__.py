"""Makes a model file of a PyTorch checkpoint, and the other way round.

Reads and writes the names of the MAE release, of timm's ViT and DeiT, and of Hugging Face's ViTMAE and ViT:

  python -m scemae_jax.convert --checkpoint mae_pretrain_vit_base.pth --output mae_b16.msgpack
  python -m scemae_jax.convert --checkpoint mae_pretrain_vit_base.pth --output mae_b8.msgpack --patch_size 8
  python -m scemae_jax.convert --model runs/mine/export/scemae.msgpack --to mae --output mine.safetensors

Stage 1 starts from the first two, with the settings that the last line printed names. Only .pth needs PyTorch.
Exit status: 0 done, 1 error.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

import numpy as np
from absl import flags

from scemae_jax.command_line import exit_status, start
from scemae_jax.convert import from_torch, read_checkpoint, to_torch, write_checkpoint
from scemae_jax.convert.names import PARTS, Dialect
from scemae_jax.model_file import load, save_model

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
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "With --model: images that the position table is for, if not the model's window."
)


def _print(title: str, state: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Lists tensors, in one line those that differ by the number of their block alone."""
    rows = [
        tuple(re.sub(r"(?<=[._])\d+(?=\.)", "*", text) for text in (name, str(list(np.shape(state[name]))), note))
        for name, note in notes.items()
    ]
    print(f"{title}: {len(rows)} tensors, {sum(math.prod(np.shape(state[name])) for name in notes):,} numbers")
    for (name, shape, note), count in collections.Counter(rows).items():
        print(f"  {name}  {f'{count} x ' if count > 1 else ''}{shape}  {note}".rstrip())


def _from_checkpoint(path: str, output: str) -> None:
    if Path(output).suffix != ".msgpack":
        raise ValueError(f"output is {output!r}, and a model file is to be written: let its name end in .msgpack")
    state = read_checkpoint(path)
    converted = from_torch(
        state,
        encoder=ENCODER.value,
        patch_size=PATCH_SIZE.value,
        positions="resample" if POSITIONS.value == "resample" else "auto",
        decoder_heads=DECODER_HEADS.value,
    )
    model = converted.model
    save_model(dataclasses.replace(model, provenance={**model.provenance, "checkpoint": Path(path).name}), Path(output))
    _print("taken", state, converted.taken)
    _print("left", state, converted.left)
    print(f"missing: {'nothing' if 'decoder' in model.params else 'decoder'}")
    a = model.architecture.backbone
    print(
        f"{output}: to start stage 1 from it, --config.init={output} --config.model.encoder={a.encoder} "
        f"--config.model.positions={a.positions}"
    )


def _to_checkpoint(name: str, output: str, dialect: Dialect) -> None:
    model = load(name)
    state = to_torch(model, dialect, image_size=IMAGE_SIZE.value)
    write_checkpoint(state, output, dialect)
    _print("written", state, dict.fromkeys(state, ""))
    left = [part for part in model.params if part not in PARTS[dialect]]
    left += [f"head {name}" for name in model.heads] + ["parser"] * (model.parser is not None)
    print(f"left out, as {dialect} has no place for it: {', '.join(left) or 'nothing'}")


def main() -> None:
    assert OUTPUT.value is not None  # `start` asks for it
    ways = {"checkpoint": [ENCODER, PATCH_SIZE, POSITIONS, DECODER_HEADS], "model": [IMAGE_SIZE]}
    with exit_status():
        if (CHECKPOINT.value is None) == (MODEL.value is None) or (MODEL.value is None) != (TO.value is None):
            raise ValueError(
                "give --checkpoint FILE to make a model, or --model FILE and --to DIALECT for the way back"
            )
        other = "checkpoint" if CHECKPOINT.value is None else "model"
        if idle := [f"--{flag.name}" for flag in ways[other] if flag.present]:
            raise ValueError(f"{', '.join(idle)}: of no effect without --{other}, leave out")
        if CHECKPOINT.value is not None:
            _from_checkpoint(CHECKPOINT.value, OUTPUT.value)
        elif MODEL.value is not None:
            _to_checkpoint(MODEL.value, OUTPUT.value, cast(Dialect, TO.value))


if __name__ == "__main__":
    start(main, "output")
