"""Checkpoint files: .safetensors, and what `torch.save` writes (which needs PyTorch)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from scemae_jax.convert.names import Dialect


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint file by name, float32.

    Weights under "model" (MAE, DeiT) or "state_dict" are found there. Nothing in the file is run.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: PyTorch is not installed, and the file needs it.
      ValueError: the file is not a checkpoint, or holds other things than tensors of numbers that NumPy knows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {str(path)!r}")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    tensors, name = {}, "it"
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensors[name] = file.get_tensor(name).astype(np.float32)
    except (safetensors.SafetensorError, AttributeError, TypeError) as error:  # the last two: a type NumPy lacks
        raise ValueError(
            f"{path} is not a safetensors file of float32, float16 or bfloat16: {name} is not: {error}"
        ) from error
    return tensors


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the MAE release saves its arguments as one
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch has no error of its own for files that are something else
        raise ValueError(
            f"{path} is not a checkpoint of weights alone ({type(error).__name__} from torch.load): write one with "
            "torch.save(network.state_dict(), FILE), or a .safetensors file"
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    others = (
        content
        if not isinstance(content, dict)
        else {name for name, value in content.items() if not isinstance(value, torch.Tensor)}
    )
    if not isinstance(content, dict) or others:
        raise ValueError(f"{path} holds {str(others)[:200]}, and tensors by name are needed: save a state dict")
    return {str(name): value.to(torch.float32).numpy() for name, value in content.items()}


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError(f"{path} needs PyTorch: pip install torch, or use a .safetensors file") from None
    return torch


def write_checkpoint(state: Mapping[str, np.ndarray], path: str | Path, dialect: Dialect) -> None:
    """Writes tensors to a .safetensors or .pth file, all or nothing; in .pth as the dialect's files were published.

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
