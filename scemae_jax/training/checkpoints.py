"""Orbax checkpoints of a training stage: its state on the devices, and its position in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding


class Checkpoints:
    """The checkpoints of one stage; saves asynchronously, keeps the newest two."""

    def __init__(self, directory: Path, mesh: Mesh | None = None):
        """`mesh` is where the state lives (without one: on this process's devices); its processes write together."""
        self._manager = _manager(directory, mesh, max_to_keep=2, cleanup_tmp_directories=True)
        # Of several processes' runs Orbax takes arrays that all of them have part in, or plain ones.
        self._copy = np.array if len(_processes(mesh)) < jax.process_count() else jnp.copy

    def save(self, step: int, state: Any, data_position: dict[str, Any]) -> None:
        """Starts to write; returns when the state may be changed again."""
        # The step donates the state's buffers, and on a CPU the write reads them in place: give it its own copy.
        snapshot = jax.tree.map(self._copy, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(snapshot), data_position=ocp.args.JsonSave(data_position)
            ),
        )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State (with the shardings of `like`) and data position of a step."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data_position=ocp.args.JsonRestore()),
        )
        return restored["state"], restored["data_position"]

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _processes(mesh: Mesh | None) -> set[int]:
    return {jax.process_index()} if mesh is None else {device.process_index for device in mesh.devices.flat}


def _manager(directory: Path, mesh: Mesh | None, **options: Any) -> ocp.CheckpointManager:
    processes = _processes(mesh)
    directory.mkdir(parents=True, exist_ok=True)
    among = ocp.options.MultiprocessingOptions()
    if len(processes) < jax.process_count():
        first = min(processes)
        among = ocp.options.MultiprocessingOptions(
            primary_host=first, active_processes=processes, barrier_sync_key_prefix=f"of_{first}"
        )
    return ocp.CheckpointManager(
        directory.absolute(),
        item_handlers={"state": ocp.StandardCheckpointHandler(), "data_position": ocp.JsonCheckpointHandler()},
        options=ocp.CheckpointManagerOptions(create=False, multiprocessing_options=among, **options),
    )


def restore_params(directory: Path) -> Any:
    """Parameters of a finished stage, from its newest checkpoint, on this process's first device.

    Raises:
      FileNotFoundError: there is no checkpoint.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint in {directory}: run the stage that trains it first")
    here = SingleDeviceSharding(jax.local_devices()[0])
    with _manager(directory, None) as manager:
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {directory}: run the stage that trains it first")
        written = manager.item_metadata(step)["state"]
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), written)
        restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
    return restored["state"]["params"]
