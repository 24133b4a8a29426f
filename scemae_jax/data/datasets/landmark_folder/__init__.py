"""A person's own folder of face images, with or without landmarks, as a TFDS dataset."""

from scemae_jax.data.datasets.landmark_folder.builder import LandmarkFolder, folder_config

__all__ = ["LandmarkFolder", "folder_config"]
