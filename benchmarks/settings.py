"""What is measured, at which sizes and for how long."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from scemae_jax import config as configuration
from scemae_jax.config import Config
from scemae_jax.model import IMAGE_SIZE, Architecture
from scemae_jax.training import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a run of the benchmark."""

    encoder: str = "S/8"
    decoder: str = "512x8x16"
    """Width, depth and heads."""
    batch_size: int = 0
    """Of both stages; 0: each has the config's own."""
    dtype: str = "float32"
    repeats: int = 5
    seconds: float = 2.0
    """A turn lasts at least so long."""
    peer: bool = False
    """Whether PyTorch takes turns too."""
    compile: bool = False
    """Whether the peer is also measured with `torch.compile`."""
    workers: int = 0
    """Processes that decode; 0: threads."""
    cluster_images: int = 512
    token_counts: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    """To cluster, four images at a time."""

    @functools.cached_property
    def config(self) -> Config:
        config = configuration.default()
        sizes = {encoder: size for size, encoder in configuration.PAPER_ENCODERS.items()}
        if self.encoder in sizes:
            configuration.paper_network(config, sizes[self.encoder])
        model = config.model
        model.encoder, config.dtype = self.encoder, self.dtype
        model.decoder_width, model.decoder_depth, model.decoder_heads = map(int, self.decoder.split("x"))
        for stage in (config.pretrain, config.refine):
            stage.batch_size = self.batch_size or stage.batch_size
        configuration.check(config)
        return config

    @property
    def architecture(self) -> Architecture:
        return configuration.architecture(self.config)

    @functools.cached_property
    def mesh(self) -> Mesh:
        return sharding.make_mesh()

    def images(self, count: int) -> UInt8[np.ndarray, "n 136 136 3"]:
        """Noise: no time depends on what is seen."""
        return np.random.default_rng(0).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


SMOKE = {
    "encoder": "XXS/8", "decoder": "32x1x2", "batch_size": 4, "repeats": 2, "seconds": 0.02, "cluster_images": 4,
    "token_counts": (16, 32),
}  # fmt: skip
"""Settings that show in a few minutes on a CPU that all of it works."""
