"""AFLW in tighter crops of varying size, five landmarks, as a TFDS dataset."""

from scemae_jax.data.datasets.aflw_r.builder import AflwR

__all__ = ["AflwR"]
