"""One loop for whatever trains: the masked autoencoder, the projector, the landmark head."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt32
from tqdm import tqdm

from scemae_jax.training import metrics, sharding
from scemae_jax.training.checkpoints import Checkpoints

LossFn = Callable[[Any, Any, dict[str, Array], Array], tuple[Array, dict[str, Array]]]


class NonFiniteLossError(FloatingPointError):
    """The loss or a gradient became infinite or NaN."""


@struct.dataclass
class TrainState:
    """Everything that a step changes."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    key: UInt32[Array, "..."]
    """Data of the run's random key; step n uses it folded with n."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to train, and for how long."""

    name: str
    """Of the stage: names its checkpoints and its rows of metrics."""
    loss: LossFn
    """(params, constants, batch, key) -> (loss, outputs to average); traced once."""
    outputs: tuple[str, ...]
    """Names of what `loss` returns beside the loss."""
    params: Any
    """Initial parameters."""
    constants: Any
    """Arrays the loss reads and nothing changes: a frozen backbone, say."""
    batches: grain.DatasetIterator
    batch_size: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    steps: int
    log_every: int
    checkpoint_every: int
    seed: int


def make_step(task: Task, mesh: Mesh) -> Callable:
    """The jitted training step (state, metrics, constants, batch) -> (state, metrics); donates the first two."""
    gathered = metrics.collection(("loss", "gradient_norm", *task.outputs))

    def step(state: TrainState, seen: Any, constants: Any, batch: dict[str, Array]) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (loss, outputs), gradients = jax.value_and_grad(task.loss, has_aux=True)(state.params, constants, batch, key)
        norm = optax.global_norm(gradients)
        updates, opt_state = task.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        seen = seen.merge(
            gathered.single_from_model_output(
                loss=loss,
                gradient_norm=norm,
                step=state.step + 1,
                finite=jnp.isfinite(loss + norm),
                **outputs,
            )
        )
        return TrainState(state.step + 1, params, opt_state, state.key), seen

    everywhere = sharding.replicated(mesh)
    return jax.jit(
        step,
        donate_argnums=(0, 1),
        in_shardings=(everywhere, everywhere, everywhere, sharding.split_batch(mesh)),
        out_shardings=(everywhere, everywhere),
    )


def fit(task: Task, *, workdir: Path, mesh: Mesh, stop_at: float | None = None) -> Any:
    """Trains a task to its last step and returns the parameters; continues from the newest checkpoint.

    Args:
      task: what to train.
      workdir: checkpoints go to `checkpoints/<task name>`, metrics to metrics.jsonl and tensorboard.
      mesh: devices to train on.
      stop_at: time (`time.monotonic`) after which to save and stop early; None for no limit.

    Raises:
      NonFiniteLossError: with the step, the last finite checkpoint and what to try.
      OutOfTime: `stop_at` came before the last step; everything so far is saved.
    """
    gathered = metrics.collection(("loss", "gradient_norm", *task.outputs))
    key = jax.random.key_data(jax.random.key(task.seed))
    state = TrainState(jnp.zeros((), jnp.int32), task.params, task.optimizer.init(task.params), key)
    state = sharding.replicate(mesh, state)
    constants = jax.device_put(task.constants, sharding.replicated(mesh))
    checkpoints = Checkpoints(workdir / "checkpoints" / task.name)
    first = checkpoints.latest() or 0
    if first:
        state, position = checkpoints.restore(first, state)
        task.batches.set_state(position)
    if first > task.steps:
        raise ValueError(
            f"{task.name}: the checkpoint in {workdir} is of step {first}, beyond the {task.steps} steps asked "
            "for (did the data shrink?): use another --workdir"
        )
    if first == task.steps:
        checkpoints.close()
        return state.params

    writer = metrics.MetricsWriter(workdir, task.name, resumed_at=first)
    step_fn = make_step(task, mesh)
    seen = sharding.replicate(mesh, gathered.empty())
    progress = tqdm(
        total=task.steps, initial=first, desc=task.name, unit="step", dynamic_ncols=True,
        mininterval=1 if sys.stderr.isatty() else 30,
    )  # fmt: skip
    logged_at, logged_step = time.monotonic(), first
    try:
        for step in range(first + 1, task.steps + 1):
            batch = sharding.shard_batch(mesh, next(task.batches))
            state, seen = step_fn(state, seen, constants, batch)
            out_of_time = stop_at is not None and time.monotonic() > stop_at
            ends = step == task.steps or out_of_time
            saves = ends or step % task.checkpoint_every == 0
            if saves or step % task.log_every == 0:
                values = {name: value.item() for name, value in seen.compute().items()}
                bad = int(values.pop("first_nonfinite"))
                if bad != metrics.NEVER:
                    raise NonFiniteLossError(_advice(task, bad, checkpoints.latest()))
                now = time.monotonic()
                values["images_per_second"] = (step - logged_step) * task.batch_size / (now - logged_at)
                values["learning_rate"] = float(jnp.asarray(task.schedule(step - 1)))
                writer.write(step, values)
                progress.update(step - logged_step)
                progress.set_postfix_str(f"loss {values['loss']:.4f}, {values['images_per_second']:.0f} images/s")
                seen, logged_at, logged_step = sharding.replicate(mesh, gathered.empty()), now, step
            if saves:
                checkpoints.save(step, state, task.batches.get_state())
            if out_of_time and step < task.steps:
                raise OutOfTime(f"{task.name} stopped at step {step} of {task.steps}; run the same command to go on")
    finally:
        progress.close()
        writer.close()
        checkpoints.close()
    return state.params


class OutOfTime(TimeoutError):
    """The time limit came before the last step; a checkpoint was saved."""


def _advice(task: Task, step: int, checkpoint: int | None) -> str:
    section = task.name.split("_")[0]  # detect_68 is set by config.detect
    kept = f"the checkpoint of step {checkpoint} is finite" if checkpoint else "there is no checkpoint before it"
    return (
        f"{task.name}: the loss or a gradient was not finite at step {step} of {task.steps}; {kept}. Try a lower "
        f"learning rate (--config.{section}.learning_rate), gradient clipping (--config.{section}.clip=1.0), a "
        f"longer warm-up, or --config.dtype=float32, in a new workdir"
    )
