"""What a device could do at most: as its maker states it, or as a large matrix product shows."""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

BFLOAT16 = {
    "H200": 989e12,
    "H100": 989e12,  # SXM
    "A100": 312e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,  # as JAX calls v5p; after the names that begin with it
    "TPU v6": 918e12,
}
"""Operations per second in bfloat16, dense, by a part of the device's name."""


class Peak(NamedTuple):
    """The most operations per second of one device."""

    flops: float
    source: str
    """Where the number is from."""


def stated_peak(device_kind: str) -> Peak | None:
    """What the maker states for bfloat16; None of a device that is not in the table."""
    for name, flops in BFLOAT16.items():
        known = name == device_kind if name == "NVIDIA L4" else name in device_kind  # "NVIDIA L40" is another
        if known:
            return Peak(flops, f"{name}, bfloat16, as stated")
    return None


def measured_peak(dtype: str, size: int) -> Peak:
    """The fastest of five products of two `size` x `size` matrices."""
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()

    def seconds() -> float:
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        return time.perf_counter() - start

    fastest = min(seconds() for _ in range(5))
    return Peak(2 * size**3 / fastest, f"{dtype} product of {size}x{size} matrices, measured")


def peak_flops(dtype: str, *, small: bool = False) -> Peak:
    """Of this machine's first device in a dtype; `small` measures it quickly and roughly."""
    device = jax.devices()[0]
    stated = stated_peak(device.device_kind) if dtype == "bfloat16" else None
    size = 256 if small else 2048 if device.platform == "cpu" else 8192
    return stated or measured_peak(dtype, size)
