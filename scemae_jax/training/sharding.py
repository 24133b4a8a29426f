"""Where arrays live: on a mesh of all devices with axes `data` and `fsdp`. The code is the same for one device.

A batch is divided over both axes. Parameters, and what the optimiser keeps for them, are divided over `fsdp` where a
rule says so; otherwise every device holds all of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH = PartitionSpec(("data", "fsdp"))
"""The leading axis is divided over all devices."""

Rules = Sequence[tuple[str, Sequence[str]]]
"""Patterns of parameter names such as `encoder/blocks_0/mlp_in/kernel`. Each has a mesh axis, or "", for each of the
parameter's axes. The first pattern that matches anywhere in a name counts; names may have a prefix."""


def make_mesh(devices: Sequence[Any] | None = None, *, data: int = 0, fsdp: int = 1) -> Mesh:
    """A mesh of `devices` (default: all), those of a process side by side; `data` 0 takes what `fsdp` leaves.

    Raises:
      ValueError: data * fsdp is not the number of devices.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    count = len(devices)
    if fsdp < 1 or count % fsdp or data not in (0, count // fsdp):
        raise ValueError(
            f"config.mesh has data={data} and fsdp={fsdp} for {count} devices: make data * fsdp equal to {count}, or "
            "leave data at 0 and let fsdp divide it"
        )
    return Mesh(np.array(devices).reshape(count // fsdp, fsdp), ("data", "fsdp"))


def own_mesh() -> Mesh:
    """A mesh of this process's devices, for what it computes alone."""
    return make_mesh(jax.local_devices())


def process_part(mesh: Mesh) -> tuple[int, int]:
    """This process's number among the mesh's processes, and how many these are."""
    processes = sorted({device.process_index for device in mesh.devices.flat})
    return processes.index(jax.process_index()), len(processes)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rules(mesh: Mesh, tree: Any, rules: Rules) -> Any:
    """A sharding for each leaf (an array or its shape) of a training state, by its name.

    Raises:
      ValueError: a rule does not fit a parameter that it matches.
    """

    def of_leaf(path: tuple, leaf: Any) -> NamedSharding:
        name = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
        for pattern, axes in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, _spec(mesh, name, np.shape(leaf), pattern, axes))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...], pattern: str, axes: Sequence[str]) -> PartitionSpec:
    rule = f"config.mesh.rules has {tuple(axes)} for {pattern!r}, and {name} has the shape {shape}"
    if len(axes) != len(shape):
        raise ValueError(f"{rule}: give as many axes")
    if unknown := set(axes) - {"", *mesh.axis_names}:
        raise ValueError(f"{rule}: {sorted(unknown)} is no axis of the mesh; choose from {list(mesh.axis_names)} or ''")
    for size, axis in zip(shape, axes, strict=True):
        if axis and size % mesh.shape[axis]:
            raise ValueError(f"{rule}: {size} does not divide over {mesh.shape[axis]} devices of axis {axis!r}")
    return PartitionSpec(*(axis or None for axis in axes))


def place(tree: Any, shardings: Any) -> Any:
    """A copy of a tree of arrays with these shardings, in new buffers (so that a step may donate them)."""
    # An array on one device is copied to the others first; to devices of other processes through the host.
    tree = jax.device_get(tree) if jax.process_count() > 1 else jax.device_put(tree, shardings)
    leaves, structure = jax.tree.flatten(shardings)
    return _copy(tuple(leaves), structure)(tree)


@functools.lru_cache(maxsize=16)
def _copy(shardings: tuple, structure: Any) -> Callable:
    return jax.jit(lambda t: jax.tree.map(lambda x: x + 0, t), out_shardings=structure.unflatten(shardings))


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray], *, stacked: bool = False) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch (or of several `stacked` batches) on its devices.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    _, parts = process_part(mesh)
    devices = mesh.size // parts
    size = next(iter(batch.values())).shape[int(stacked)]
    if size % devices:
        raise ValueError(f"a batch of {size} does not divide over {devices} devices: make batch_size a multiple")
    sharding = NamedSharding(mesh, PartitionSpec(None, *BATCH) if stacked else BATCH)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def replicate_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts small arrays, the same in every process, on every device."""
    everywhere = replicated(mesh)
    return {name: jax.make_array_from_process_local_data(everywhere, value) for name, value in batch.items()}
