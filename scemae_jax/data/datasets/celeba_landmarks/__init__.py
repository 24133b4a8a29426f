"""CelebA with its five landmarks, MAFL's images kept out of training, as a TFDS dataset."""

from scemae_jax.data.datasets.celeba_landmarks.builder import CelebaLandmarks

__all__ = ["CelebaLandmarks"]
