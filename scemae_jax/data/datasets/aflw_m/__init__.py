"""AFLW in MTFL's crops, five landmarks, as a TFDS dataset."""

from scemae_jax.data.datasets.aflw_m.builder import AflwM

__all__ = ["AflwM"]
