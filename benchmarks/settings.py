"""What is measured, at which sizes and for how long."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from benchmarks.chips import Peak, peak_flops
from scemae_jax import config as configuration
from scemae_jax.config import Config
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Architecture
from scemae_jax.training import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a run of the benchmark."""

    encoder: str = "S/8"
    decoder: tuple[int, int, int] = (512, 8, 16)
    """Width, depth and heads."""
    batch_size: int = 0
    """Of both stages; 0: each has the config's own."""
    dtype: str = "float32"
    scan_layers: bool = False
    """In stage 1, as `remat`: see config.pretrain."""
    remat: bool = False
    repeats: int = 5
    seconds: float = 2.0
    """A timed block lasts at least so long."""
    peer: bool = False
    """Whether PyTorch's turn comes too."""
    compile_peer: bool = False
    workers: int = 0
    """Processes that decode; 0: threads."""
    cluster_batch: int = 512
    cluster_tokens: int = 130
    scaling_tokens: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    feature_images: int = 256
    small: bool = False
    """Rough peaks and few traced steps."""

    @classmethod
    def smoke(cls, **fields: Any) -> Settings:
        """A few minutes on a CPU, to see that all of it works."""
        tiny = cls(
            encoder="XXS/8", decoder=(32, 1, 2), batch_size=4, repeats=2, seconds=0.02, cluster_batch=4,
            cluster_tokens=20, scaling_tokens=(16, 32), feature_images=4, small=True,
        )  # fmt: skip
        return dataclasses.replace(tiny, **fields)

    @functools.cached_property
    def config(self) -> Config:
        config = configuration.default()
        sizes = {encoder: size for size, encoder in configuration.PAPER_ENCODERS.items()}
        if self.encoder in sizes:
            configuration.paper_network(config, sizes[self.encoder])
        config.model.encoder = self.encoder
        config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = self.decoder
        config.dtype = self.dtype
        config.pretrain.scan_layers, config.pretrain.remat = self.scan_layers, self.remat
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

    @functools.cached_property
    def peak(self) -> Peak:
        return peak_flops(self.dtype, small=self.small)

    def images(self, count: int) -> UInt8[np.ndarray, "n 136 136 3"]:
        """Noise: no arithmetic here depends on what is seen."""
        return np.random.default_rng(0).integers(0, 256, (count, FRAME.image_size, FRAME.image_size, 3), np.uint8)

    def plain(self) -> dict[str, Any]:
        """As JSON would hold them."""
        fields = dataclasses.asdict(self) | {"devices": jax.device_count()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def decoder_sizes(text: str) -> tuple[int, int, int]:
    """Width, depth and heads from a text such as "512x8x16".

    Raises:
      ValueError: it is none.
    """
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdigit() and int(size) for size in sizes):
        raise ValueError(f"--decoder is {text!r}: give width x depth x heads, as in 512x8x16")
    width, depth, heads = map(int, sizes)
    return width, depth, heads
