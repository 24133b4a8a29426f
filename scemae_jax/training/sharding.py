"""Where arrays live: a data-parallel mesh over all devices. One device is the same code."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices along one axis, `data`."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis is divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """A copy of a tree of arrays on every device, in new buffers (so that the step may donate them)."""
    return jax.jit(lambda t: jax.tree.map(lambda x: x + 0, t), out_shardings=replicated(mesh))(tree)


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a batch on its devices.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    size, devices = len(next(iter(batch.values()))), len(mesh.local_devices)
    if size % devices:
        raise ValueError(f"a batch of {size} does not divide over {devices} devices: make batch_size a multiple")
    sharding = split_batch(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
