"""300-W, faces in the wild with 68 landmarks, as a TFDS dataset."""

from scemae_jax.data.datasets.three_hundred_w.builder import ThreeHundredW

__all__ = ["ThreeHundredW"]
