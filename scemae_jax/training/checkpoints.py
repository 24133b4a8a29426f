"""Orbax checkpoints of a training stage: its state on the devices, and its position in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one stage; saves asynchronously, keeps the newest two."""

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, step: int, state: Any, data_position: dict[str, Any]) -> None:
        """Starts to write; returns when the state may be changed again."""
        # The step donates the state's buffers, and on a CPU the write reads them in place: give it its own copy.
        snapshot = jax.tree.map(jnp.copy, state)
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


def restore_params(directory: Path) -> Any:
    """Parameters of a finished stage, from its newest checkpoint.

    Raises:
      FileNotFoundError: there is no checkpoint.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint in {directory}: run the stage that trains it first")
    with ocp.CheckpointManager(directory.absolute()) as manager:
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {directory}: run the stage that trains it first")
        restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    return jax.tree.map(jnp.asarray, restored["state"]["params"])
