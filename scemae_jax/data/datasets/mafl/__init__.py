"""MAFL, the images of CelebA on which prior work evaluates, as a TFDS dataset."""

from scemae_jax.data.datasets.mafl.builder import Mafl

__all__ = ["Mafl"]
