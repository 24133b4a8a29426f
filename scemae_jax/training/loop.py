"""The training loop of all stages: masked autoencoder, projector, landmark heads."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt32
from tqdm import tqdm

from scemae_jax.training import metrics, processes, sharding
from scemae_jax.training.checkpoints import Checkpoints, NoCheckpoints
from scemae_jax.training.feed import Input


class Fixed(NamedTuple):
    """What a loss reads but no gradient changes."""

    constants: Any
    """Never changed, for example a frozen backbone."""
    state: Any
    """Changed after each step by `Task.next_state`: prototypes, an average of the weights."""


Batch = Mapping[str, dict[str, Array]]
"""What a step reads from each input, by its name."""
LossFn = Callable[[Any, Fixed, Batch, Array], tuple[Array, dict[str, Any]]]
NextState = Callable[[Any, Any, dict[str, Any]], Any]


def same_state(state: Any, params: Any, outputs: dict[str, Any]) -> Any:
    """The `next_state` of a task without state, or whose state does not change."""
    return state


class NonFiniteLossError(FloatingPointError):
    """The loss or a gradient became infinite or NaN."""


@struct.dataclass
class TrainState:
    """Everything that a step changes."""

    step: Int[Array, ""]
    params: Any
    state: Any
    """State without gradient (`Task.state`)."""
    opt_state: Any
    key: UInt32[Array, "..."]
    """Data of the run's random key; step n uses it folded with n."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to train, and for how long."""

    name: str
    """The stage's name, also of its checkpoints and its rows of metrics."""
    loss: LossFn
    """(params, fixed, batch, key) -> (loss, outputs); traced once."""
    outputs: tuple[str, ...]
    """Outputs of the loss that are averaged into the metrics; they must be scalars.

    `next_state` sees all outputs. If a batch is computed in parts (`accumulate`), it sees their mean over the parts, so
    outputs should be means themselves.
    """
    params: Any
    """Initial parameters."""
    constants: Any
    """Arrays that the loss reads and nothing changes, for example a frozen backbone."""
    inputs: Mapping[str, Input]
    """Where the batches come from, by the names that the loss uses."""
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    steps: int
    log_every: int
    checkpoint_every: int
    seed: int
    accumulate: int = 1
    """Parts of a batch that are computed one after the other, their gradients averaged: for batches too large for the
    devices' memory. Each part draws its own random numbers."""
    steps_per_dispatch: int = 1
    """Steps that the devices take for each call from the host: more than one helps small networks."""
    state: Any = dataclasses.field(default_factory=dict)
    """Initial state without gradient; saved, restored and divided over the devices like parameters."""
    next_state: NextState = same_state
    """(state, parameters after the step, outputs of the loss) -> state; traced."""

    @property
    def batch_size(self) -> int:
        """Examples of a step, over all inputs."""
        return sum(source.batch_size for source in self.inputs.values())


def pace(settings: Any) -> dict[str, Any]:
    """Fields of a `Task` that every training stage's settings (`config.training`) have under the same names."""
    return {name: settings[name] for name in ("log_every", "checkpoint_every", "accumulate", "steps_per_dispatch")}


class _Program(NamedTuple):
    """What a step is traced from, apart from shapes: two tasks that share all of it share a compiled step."""

    loss: LossFn
    outputs: tuple[str, ...]
    optimizer: optax.GradientTransformation
    next_state: NextState
    reads: tuple[tuple[str, Callable], ...]
    accumulate: int
    mesh: Mesh
    rules: sharding.Rules

    def step(self, state: TrainState, seen: Any, constants: Any, resident: Any, batch: Any) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        batch = {name: read(resident[name], batch[name]) for name, read in self.reads}
        (loss, outputs), gradients = self.gradients(state.params, Fixed(constants, state.state), batch, key)
        gradients = jax.lax.with_sharding_constraint(gradients, sharding.by_rules(self.mesh, gradients, self.rules))
        norm = optax.global_norm(gradients)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        carried = self.next_state(state.state, params, outputs)
        seen = seen.merge(
            seen.single_from_model_output(
                loss=loss,
                gradient_norm=norm,
                step=state.step + 1,
                finite=jnp.isfinite(loss + norm),
                **{name: outputs[name] for name in self.outputs},
            )
        )
        return TrainState(state.step + 1, params, carried, opt_state, state.key), seen

    def gradients(self, params: Any, fixed: Fixed, batch: Any, key: Array) -> Any:
        """((loss, outputs), gradients), averaged over the parts of the batch."""
        value_and_grad, count = jax.value_and_grad(self.loss, has_aux=True), self.accumulate
        if count == 1:
            return value_and_grad(params, fixed, batch, key)
        # Every count-th row makes a part, so that each device finds its rows of every part among its own.
        parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(len(x) // count, count, *x.shape[1:]), 1, 0), batch)
        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(
            lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(value_and_grad, params, fixed, first, key)
        )

        def add(total: Any, numbered: tuple[Array, Any]) -> tuple[Any, None]:
            number, part = numbered
            found = value_and_grad(params, fixed, part, jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, total, found), None

        total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), parts))
        return jax.tree.map(lambda x: x / count, total)


def compile_step(task: Task, mesh: Mesh, rules: sharding.Rules = (), *, steps: int = 1) -> Callable:
    """The training step (state, metrics, constants, resident, batch) -> (state, metrics), jitted.

    `resident` and `batch` are by the input's name; state and metrics are donated. With `steps` above 1 it takes that
    many, of stacked batches. Tasks of the same functions, such as many small heads, share what is compiled.
    """
    program = _Program(
        task.loss,
        task.outputs,
        task.optimizer,
        task.next_state,
        tuple((name, source.read) for name, source in task.inputs.items()),
        task.accumulate,
        mesh,
        tuple((pattern, tuple(axes)) for pattern, axes in rules),
    )
    shapes = jax.eval_shape(lambda: initial_state(task))
    shardings, structure = jax.tree.flatten(sharding.by_rules(mesh, shapes, rules))
    return _compiled(program, steps, tuple(shardings), structure)


@functools.lru_cache(maxsize=16)
def _compiled(program: _Program, steps: int, shardings: tuple, structure: Any) -> Callable:
    def several(state: TrainState, seen: Any, constants: Any, resident: Any, batches: Any) -> tuple[TrainState, Any]:
        def one(carry: tuple[TrainState, Any], batch: Any) -> tuple[tuple[TrainState, Any], None]:
            return program.step(*carry, constants, resident, batch), None

        return jax.lax.scan(one, (state, seen), batches)[0]

    return jax.jit(
        program.step if steps == 1 else several,
        donate_argnums=(0, 1),
        out_shardings=(structure.unflatten(shardings), sharding.replicated(program.mesh)),
    )


def gathered_metrics(task: Task) -> Any:
    """The class that averages metrics between two rows."""
    return metrics.collection(("loss", "gradient_norm", *task.outputs))


@functools.lru_cache(maxsize=16)
def _rows(gathered: Any, schedule: optax.Schedule, mesh: Mesh) -> tuple[Callable, Callable]:
    """() -> metrics of no step; (metrics, step) -> a row of them."""
    return (
        jax.jit(gathered.empty, out_shardings=sharding.replicated(mesh)),
        jax.jit(lambda seen, step: seen.compute() | {"learning_rate": schedule(step - 1)}),
    )


def initial_state(task: Task) -> TrainState:
    key = jax.random.key_data(jax.random.key(task.seed))
    return TrainState(jnp.zeros((), jnp.int32), task.params, task.state, task.optimizer.init(task.params), key)


def check_batch(name: str, batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raises ValueError if a task's batch does not divide over devices and parts."""
    shares = mesh.size * accumulate
    if batch_size % shares:
        raise ValueError(
            f"{name}: batch_size {batch_size} does not divide over {mesh.size} devices and accumulate={accumulate}: "
            f"make it a multiple of {shares}, or take as many devices as divide it"
        )


def fit(
    task: Task, *, workdir: Path | None, mesh: Mesh, rules: sharding.Rules = (), stop_at: float | None = None
) -> TrainState:
    """Trains a task to its last step and returns its state; continues from the newest checkpoint.

    Training may continue on another mesh than the checkpoint's.

    Args:
      task: what to train.
      workdir: checkpoints go to `checkpoints/<task name>`, metrics to metrics.jsonl and tensorboard. Several processes
        share it. None: nothing is written.
      mesh: devices to train on.
      rules: which parameters are divided over the mesh's axis `fsdp`.
      stop_at: time (`time.monotonic`) after which to save and stop early; None for no limit.

    Raises:
      NonFiniteLossError: with the step, the last finite checkpoint and what to try.
      OutOfTime: `stop_at` came before the last step; everything so far is saved.
      Interrupted: SIGTERM came (see `processes.handle_sigterm`); everything so far is saved.
      ValueError: the batch does not divide over devices and parts, or a rule does not fit a parameter.
    """
    for source in task.inputs.values():
        check_batch(task.name, source.batch_size, task.accumulate, mesh)
    state = initial_state(task)
    state = sharding.place(state, sharding.by_rules(mesh, state, rules))
    constants = sharding.place(task.constants, sharding.replicated(mesh))
    resident = {name: source.resident for name, source in task.inputs.items()}
    checkpoints = Checkpoints(workdir / "checkpoints" / task.name, mesh) if workdir else NoCheckpoints()
    part, parts = sharding.process_part(mesh)
    first = checkpoints.latest() or 0
    first = processes.broadcast_from_first(first) if parts > 1 else first
    if first > task.steps:
        checkpoints.close()
        raise ValueError(
            f"{task.name}: the checkpoint in {workdir} is of step {first}, beyond the {task.steps} steps asked "
            "for (did the data shrink?): use another --workdir"
        )
    if first:
        state, position = checkpoints.restore(first, state)
        for name, source in task.inputs.items():
            source.batches.set_state(position[name])
    if first == task.steps:
        checkpoints.close()
        return state

    writes = part == 0
    writer = metrics.MetricsWriter(workdir, task.name, resumed_at=first) if writes and workdir else None
    gathered = gathered_metrics(task)
    step_fns = {count: compile_step(task, mesh, rules, steps=count) for count in {1, task.steps_per_dispatch}}
    fresh, row = _rows(gathered, task.schedule, mesh)
    seen, stop = fresh(), processes.Stop(stop_at, alone=parts == 1)
    progress = tqdm(
        total=task.steps, initial=first, desc=task.name, unit="step", dynamic_ncols=True, disable=not writes,
        mininterval=1 if sys.stderr.isatty() else 30, delay=0 if workdir else 5,
    )  # fmt: skip
    logged_at, logged_step, step = time.monotonic(), first, first
    try:
        with processes.sigterm_waits():
            while step < task.steps:
                count = _steps_to_dispatch(task, step)
                # While the devices work on this step, the next batch is drawn and sent.
                batch = {name: source.put(mesh, source.draw(count)) for name, source in task.inputs.items()}
                state, seen = step_fns[count](state, seen, constants, resident, batch)
                step += count
                logs = step % task.log_every == 0 or step % task.checkpoint_every == 0 or step == task.steps
                interrupted = stop.interrupted()
                out_of_time = stop.out_of_time(synchronised=logs)
                saves = interrupted or out_of_time or step % task.checkpoint_every == 0 or step == task.steps
                if logs or saves:
                    values = {name: value.item() for name, value in jax.device_get(row(seen, state.step)).items()}
                    bad = int(values.pop("first_nonfinite"))
                    if bad != metrics.NEVER:
                        raise NonFiniteLossError(_advice(task, bad, checkpoints.latest()))
                    now = time.monotonic()
                    values["images_per_second"] = (step - logged_step) * task.batch_size / (now - logged_at)
                    if writer:
                        writer.write(step, values)
                    progress.update(step - logged_step)
                    shown = f"loss {values['loss']:.4f}, {values['images_per_second']:.0f} images/s"
                    progress.set_postfix_str(shown, refresh=workdir is not None)  # short fits are not worth a bar
                    seen, logged_at, logged_step = fresh(), now, step
                if saves:
                    position = {name: source.batches.get_state() for name, source in task.inputs.items()}
                    checkpoints.save(step, state, position)
                if (interrupted or out_of_time) and step < task.steps:
                    why = f"{task.name} stopped at step {step} of {task.steps}; run the same command to go on"
                    raise processes.Interrupted(why) if interrupted else processes.OutOfTime(why)
    finally:
        progress.close()
        if writer:
            writer.close()
        checkpoints.close()
        for source in task.inputs.values():
            source.batches.close()
    return state


def _steps_to_dispatch(task: Task, step: int) -> int:
    """As many as the task says, or one if a row or checkpoint is due before that; the same after a restart."""
    count = task.steps_per_dispatch
    due = [*(every - step % every for every in (task.log_every, task.checkpoint_every)), task.steps - step]
    return count if step % count == 0 and min(due) >= count else 1


def _advice(task: Task, step: int, checkpoint: int | None) -> str:
    section = re.sub(r"_\d+$", "", task.name)  # detect_68 is set by config.detect
    kept = f"the checkpoint of step {checkpoint} is finite" if checkpoint else "there is no checkpoint before it"
    return (
        f"{task.name}: the loss or a gradient was not finite at step {step} of {task.steps}; {kept}. Try a lower "
        f"learning rate (--config.{section}.learning_rate), gradient clipping (--config.{section}.clip=1.0), a "
        f"longer warm-up, or --config.dtype=float32, in a new workdir"
    )
