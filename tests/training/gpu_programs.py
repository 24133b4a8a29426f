"""What a program that is compiled for a GPU says of itself."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import program

CUDNN_FORWARD, CUDNN_BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"


def source(line: program.Instruction) -> str:
    """The operation that an instruction comes from; of a kernel of several, the last."""
    named = re.search(r'op_name="([^"]*)"', line.rest)
    return named[1] if named else ""


def shape(type: str) -> tuple[int, ...]:
    """Of the first array in a type."""
    return tuple(int(axis) for axis in type.split("[", 1)[1].split("]")[0].split(",") if axis)


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
    for lines in program.computations(text)[0].values():
        types = {line.name: line.type for line in lines}
        for line in lines:
            if line.op == "dot" or "__cublas" in line.rest:
                read = program.operands(line, types)[:2]
                contracted = re.search(r'lhs_contracting_dim(?:ension)?s"?[:=][{\[]"?(\d+)', line.rest)
                assert contracted, line.name
                summed = shape(read[0])[int(contracted[1])]
                flops = 2 * math.prod(shape(line.type)) * summed
                yield MatrixProduct(flops, tuple(type.split("[")[0] for type in read), source(line))


def cudnn_attention(text: str, target: str) -> list[tuple[int, ...]]:
    """Shape of the first array, `[b, h, t, d]`, of each call of `CUDNN_FORWARD` or `CUDNN_BACKWARD`."""
    computations = program.computations(text)[0].values()
    return [shape(line.type) for lines in computations for line in lines if f'_target="{target}"' in line.rest]


def float32_stores(text: str) -> Iterator[tuple[int, str]]:
    """Number of elements, and source, of each float32 array that a kernel of a compiled program leaves in memory."""
    found, entry = program.computations(text)
    bodies = {name for lines in found.values() for line in lines for name in re.findall(r"body=(%[\w.-]+)", line.rest)}
    for line in [line for name in {entry, *bodies} for line in found[name] if line.op not in program.NO_WORK]:
        for array in re.findall(r"\bf32\[[\d,]*\]", line.type):
            yield math.prod(shape(array)), source(line)
