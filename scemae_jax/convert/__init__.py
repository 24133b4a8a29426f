"""PyTorch checkpoints become models of this package, and models become checkpoints."""

from scemae_jax.convert.files import read_checkpoint, write_checkpoint
from scemae_jax.convert.weights import from_torch, to_torch

__all__ = ["from_torch", "read_checkpoint", "to_torch", "write_checkpoint"]
