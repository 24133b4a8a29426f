"""Orbax checkpoints of a training stage: its state on the devices, and its position in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding


class Checkpoints:
    """The checkpoints of one stage; saves asynchronously, keeps the newest two."""

    def __init__(self, directory: Path, mesh: Mesh | None = None):
        """The state lives on `mesh`, or on this process's devices without one; the mesh's processes write together."""
        self._manager = _manager(directory, mesh, max_to_keep=2, cleanup_tmp_directories=True)
        # With several processes Orbax takes arrays that are spread over all of them, or plain ones.
        self._copy = np.array if len(_processes(mesh)) < jax.process_count() else jnp.copy

    def save(self, step: int, state: Any, data_position: dict[str, Any]) -> None:
        """Starts to write, and returns as soon as the state may change again."""
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


class NoCheckpoints:
    """Stands in for `Checkpoints` if nothing is to be written."""

    def save(self, step: int, state: Any, data_position: dict[str, Any]) -> None: ...

    def latest(self) -> None: ...

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        raise AssertionError("there is no checkpoint to restore")

    def close(self) -> None: ...


def _processes(mesh: Mesh | None) -> set[int]:
    return {jax.process_index()} if mesh is None else {device.process_index for device in mesh.devices.flat}


def _manager(
    directory: Path, mesh: Mesh | None, state: Any = ocp.StandardCheckpointHandler, **options: Any
) -> ocp.CheckpointManager:
    """`state` is the handler of the state: the standard one restores all of it, the PyTree one parts of it."""
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
        item_handlers={"state": state(), "data_position": ocp.JsonCheckpointHandler()},
        options=ocp.CheckpointManagerOptions(create=False, multiprocessing_options=among, **options),
    )


def newest_step(directory: Path) -> int | None:
    """Step of the newest complete checkpoint in a directory; None if there is none."""
    if not directory.is_dir():
        return None
    with _manager(directory, None) as manager:
        return manager.latest_step()


def restore_part(directory: Path, step: int, part: str) -> Any:
    """Reads only one part of a checkpoint's state, "params" or "state", onto this process's first device."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    with _manager(directory, None, ocp.PyTreeCheckpointHandler) as manager:
        written = cast(Any, manager.item_metadata(step))["state"].tree[part]
        wanted = {part: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), written)}
        arguments = ocp.args.PyTreeRestore(
            item=wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
        )
        return manager.restore(step, args=ocp.args.Composite(state=arguments))["state"][part]
