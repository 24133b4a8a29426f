"""NVIDIA GPUs that are only described: XLA's CUDA compiler compiles for them without a GPU or a driver.

It needs `jax[cuda12]`, in an environment of its own (launch/compilers.sh makes one).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks import program
from scemae_jax.training import sharding

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What XLA's compiler wants to know of an H100 SXM with 80 GB."""
H100_MEMORY = 84_929_347_584
"""Bytes of it."""

CUDNN_FORWARD, CUDNN_BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"


def describe_gpus() -> None:
    """Tells JAX, before it looks for devices, that the CUDA compiler is wanted and no GPU."""
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # else JAX wants a driver
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # Whether Triton's matrix products are faster than cuBLAS's is measured on the GPU: without one, cuBLAS's.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false".strip()


def h100_mesh(count: int, fsdp: int = 1) -> Mesh:
    """A mesh of so many H100s of one machine: programs can be compiled for it, not run. After `describe_gpus`."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=f"1x1x{count}")
    return sharding.make_mesh(topology.devices, fsdp=fsdp)


class MatrixProduct(NamedTuple):
    """A matrix product in a compiled program."""

    flops: int
    """A multiplication and an addition for each term."""
    operands: tuple[str, ...]
    """Types of its elements, such as `bf16`."""
    source: str
    """The operation it comes from, such as `jit(step)/jvp(MaskedAutoencoder)/.../mlp_in/dot_general`."""


def matrix_products(text: str) -> Iterator[MatrixProduct]:
    """Those that a compiled program calls cuBLAS for, or has in its own kernels; a loop's once."""
    found, _ = program.computations(text)
    for lines in found.values():
        for line in lines:
            if line.op == "dot" or "__cublas" in line.rest:
                read = program.operands(line, lines)[:2]
                contracted = re.search(r'lhs_contracting_dim(?:ension)?s"?[:=][{\[]"?(\d+)', line.rest)
                assert contracted, line.name
                summed = _shape(read[0])[int(contracted[1])]
                flops = 2 * math.prod(_shape(line.type)) * summed
                yield MatrixProduct(flops, tuple(type.split("[")[0] for type in read), source(line))


def source(line: program.Instruction) -> str:
    """The operation that an instruction comes from; of a kernel of several, the last."""
    named = re.search(r'op_name="([^"]*)"', line.rest)
    return named[1] if named else ""


def cudnn_attention(text: str, target: str) -> list[tuple[int, ...]]:
    """Shape of the first array, `[b, h, t, d]`, of each call of `CUDNN_FORWARD` or `CUDNN_BACKWARD`."""
    found, _ = program.computations(text)
    return [
        _shape(line.type) for lines in found.values() for line in lines if f'custom_call_target="{target}"' in line.rest
    ]


def float32_stores(text: str) -> Iterator[tuple[int, str]]:
    """Number of elements, and source, of each float32 array that a kernel of a compiled program leaves in memory."""
    found, entry = program.computations(text)
    bodies = {name for lines in found.values() for line in lines for name in re.findall(r"body=(%[\w.-]+)", line.rest)}
    for name in {entry, *bodies}:
        for line in found[name]:
            if line.op not in program.NO_WORK:
                for shape in re.findall(r"\bf32\[([\d,]*)\]", line.type):
                    yield math.prod(int(axis) for axis in shape.split(",") if axis), source(line)


def _shape(type: str) -> tuple[int, ...]:
    """Of the first array in a type."""
    first = re.search(r"\[([\d,]*)\]", type)
    assert first, type
    return tuple(int(axis) for axis in first[1].split(",") if axis)
