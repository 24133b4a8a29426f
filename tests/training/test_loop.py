import dataclasses
import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from scemae_jax.data.pipeline import training_batches
from scemae_jax.training import loop, metrics, optimizer, processes, sharding
from scemae_jax.training.checkpoints import Checkpoints, newest_step, restore_part
from scemae_jax.training.feed import Input, keep


def rows(workdir):
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in metrics.read_metrics(workdir)]


WEIGHTS = np.array([[1.0], [-2.0], [3.0]], np.float32)


class Points:
    inputs = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return {"x": self.inputs[index], "y": self.inputs[index] @ WEIGHTS + 0.5}


def linear_task(steps=20, log_every=4, checkpoint_every=5, spoilt_at=None, **settings):
    """`spoilt_at`: the step whose loss is NaN."""

    def loss(params, fixed, batch, key):
        points = batch["points"]
        error = points["x"] @ params["layer"]["kernel"] + params["layer"]["bias"] - points["y"] - fixed.constants
        noisy = error + 0.01 * jax.random.normal(key, error.shape)
        return (noisy**2).mean(), {"absolute_error": jnp.abs(error).mean()}

    config = optimiser_config(**settings)
    batches = training_batches([Points()], weights=[1.0], batch_size=8, seed=0)
    if spoilt_at:
        batches = Spoilt(batches, spoilt_at)
    return loop.Task(
        name="linear",
        loss=loss,
        outputs=("absolute_error",),
        params={"layer": {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}},
        constants=jnp.zeros(()),
        inputs={"points": Input(batches=batches, batch_size=8)},
        optimizer=optimizer.adamw(config, steps),
        schedule=optimizer.learning_rate(config, steps),
        steps=steps,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        seed=0,
    )


class Spoilt:
    """Batches, one of them not a number."""

    def __init__(self, batches, step):
        self.batches, self.left = batches, step
        self.get_state, self.set_state, self.close = batches.get_state, batches.set_state, batches.close

    def __next__(self):
        self.left -= 1
        batch = next(self.batches)
        return {**batch, "x": batch["x"] * np.nan} if self.left == 0 else batch


def optimiser_config(**changes):
    settings = {"learning_rate": 0.1, "warmup": 0.2, "betas": (0.9, 0.95), "weight_decay": 0.0, "clip": 0.0}
    return ml_collections.ConfigDict({**settings, **changes})


def newest_params(directory):
    return restore_part(directory, newest_step(directory), "params")


def fit(task, workdir, **settings):
    return loop.fit(task, workdir=workdir, mesh=sharding.make_mesh(), **settings).params


def test_learns_a_plane(tmp_path):
    params = fit(linear_task(steps=150, log_every=50, checkpoint_every=100), tmp_path)
    np.testing.assert_allclose(params["layer"]["kernel"], WEIGHTS, atol=0.02)
    np.testing.assert_allclose(params["layer"]["bias"], 0.5, atol=0.02)
    first, *_, last = rows(tmp_path)
    assert last["absolute_error"] < 0.05 < 0.5 < first["absolute_error"]
    assert first.keys() == {"stage", "step", "loss", "gradient_norm", "absolute_error", "learning_rate"}
    jax.tree.map(np.testing.assert_array_equal, newest_params(tmp_path / "checkpoints" / "linear"), params)


def test_the_time_limit_saves_and_the_run_goes_on(tmp_path):
    whole = fit(linear_task(), tmp_path / "whole")
    with pytest.raises(processes.OutOfTime, match="linear stopped at step 1 of 20; run the same command"):
        fit(linear_task(), tmp_path / "parts", stop_at=time.monotonic() - 1)
    with pytest.raises(processes.OutOfTime, match="linear stopped at step 2 of 20"):
        fit(linear_task(), tmp_path / "parts", stop_at=time.monotonic() - 1)
    parts = fit(linear_task(), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    assert [row["step"] for row in rows(tmp_path / "parts")] == [1, 2, 4, 5, 8, 10, 12, 15, 16, 20]


def test_a_run_that_was_cut_off_is_the_uninterrupted_one(tmp_path):
    """Rows written after the last checkpoint are dropped and written again: none twice, none missing."""
    whole, task = fit(linear_task(), tmp_path / "whole"), linear_task()
    batches = CutOff(task.inputs["points"].batches, step=14)
    with pytest.raises(ConnectionError):
        fit(dataclasses.replace(task, inputs={"points": Input(batches=batches, batch_size=8)}), tmp_path / "cut")
    assert rows(tmp_path / "cut")[-1]["step"] == 12
    assert newest_step(tmp_path / "cut" / "checkpoints" / "linear") == 10
    jax.tree.map(np.testing.assert_array_equal, fit(linear_task(), tmp_path / "cut"), whole)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


class CutOff:
    """Batches, up to a step."""

    def __init__(self, batches, step):
        self.batches, self.left = batches, step
        self.get_state, self.set_state, self.close = batches.get_state, batches.set_state, batches.close

    def __next__(self):
        self.left -= 1
        if not self.left:
            raise ConnectionError
        return next(self.batches)


def test_the_loss_is_traced_once(tmp_path):
    """The first step, those after it and those after a row was written are one compiled program."""
    task, traced = linear_task(), []
    counted = dataclasses.replace(task, loss=lambda *given: traced.append(0) or task.loss(*given))
    fit(counted, tmp_path)
    assert len(traced) == 1


@pytest.fixture
def read_on_the_host(monkeypatch):
    """`read_on_the_host(when)`: the list to which `when()` is added whenever this thread waits for or reads an array.

    But for `np.asarray`, which reads a CPU's memory without asking JAX.
    """

    def watch(when):
        found = []

        def noted(function):
            def call(array, *arguments):
                if threading.current_thread() is threading.main_thread():  # not the one that writes a checkpoint
                    found.append(when())
                return function(array, *arguments)

            return call

        kind = type(jnp.zeros(()))
        monkeypatch.setattr(kind, "_value", property(noted(kind._value.fget)))
        for name in ("block_until_ready", "item"):
            monkeypatch.setattr(kind, name, noted(getattr(kind, name)))
        return found

    return watch


@pytest.mark.parametrize("read", [float, jax.device_get, jax.block_until_ready, lambda x: x.item()])
def test_reading_an_array_is_seen(read_on_the_host, read):
    found = read_on_the_host(lambda: "now")
    read(jnp.ones(()) + 1)
    assert found


class Plain:
    """Images of one colour."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {"image": np.full((4, 4, 3), index, np.uint8)}


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("cache", ["none", "device"])
def test_nothing_is_compiled_transferred_or_read_unasked_once_the_loop_runs(
    tmp_path, read_on_the_host, cache, together
):
    """But for what the loop hands over on purpose: batches to the devices, a row of metrics back where one is due."""
    compiled = []

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(watched.asked)

    def loss(params, fixed, batch, key):
        error = batch["plain"]["image"].astype(jnp.float32).mean() - params["layer"]["bias"].sum() - fixed.constants
        return error**2, {"absolute_error": jnp.abs(error)}

    source = keep([Plain()], cache=cache, mesh=sharding.make_mesh()).batches([1.0], batch_size=8, seed=0)
    watched = Watched(source.batches)
    task = dataclasses.replace(
        linear_task(steps=40, log_every=4, checkpoint_every=8),
        loss=loss,
        inputs={"plain": dataclasses.replace(source, batches=watched)},
        steps_per_dispatch=together,
    )
    read = read_on_the_host(lambda: watched.asked)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        fit(task, tmp_path)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert compiled
    # Up to the second row and the first checkpoint everything has been used once.
    assert max(compiled) <= 8
    assert {step for step in read if step > 0} == set(range(4, 41, 4))


class Watched:
    """Batches; from the second on, JAX refuses to transfer what nobody asked it to."""

    def __init__(self, batches):
        self.batches, self.asked = batches, 0
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self):
        self.asked += 1
        if self.asked == 2:
            jax.config.update("jax_transfer_guard", "disallow")
        return next(self.batches)

    def close(self):
        jax.config.update("jax_transfer_guard", "allow")
        self.batches.close()


@pytest.mark.parametrize("together", [3, 5])
def test_several_steps_a_dispatch_are_the_steps_one_by_one(tmp_path, together):
    """Rows and checkpoints come where they are due, whatever the number of steps."""
    one = fit(linear_task(), tmp_path / "one")
    task = dataclasses.replace(linear_task(), steps_per_dispatch=together)
    several = fit(task, tmp_path / "several")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), several, one)
    there, expected = rows(tmp_path / "several"), rows(tmp_path / "one")
    assert [row["step"] for row in there] == [row["step"] for row in expected]
    np.testing.assert_allclose([row["loss"] for row in there], [row["loss"] for row in expected], rtol=1e-4)


def test_an_accumulated_gradient_is_that_of_the_whole_batch(tmp_path):
    """Without random numbers, of which each part has its own."""

    def loss(params, fixed, batch, key):
        points = batch["points"]
        error = points["x"] @ params["layer"]["kernel"] + params["layer"]["bias"] - points["y"]
        return (error**2).mean(), {"absolute_error": jnp.abs(error).mean()}

    def train(accumulate):
        task = dataclasses.replace(linear_task(), loss=loss, accumulate=accumulate)
        return fit(task, tmp_path / str(accumulate)), rows(tmp_path / str(accumulate))

    whole, expected = train(1)
    for accumulate in (2, 8):
        params, there = train(accumulate)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, whole)
        for name in ("loss", "gradient_norm", "absolute_error"):
            np.testing.assert_allclose([r[name] for r in there], [r[name] for r in expected], rtol=1e-4)


def test_sigterm_saves_and_the_run_goes_on(tmp_path):
    whole = fit(linear_task(), tmp_path / "whole")
    task = linear_task()

    class Terminated(Watched):
        def __next__(self):
            if self.asked == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            self.asked += 1
            return next(self.batches)

    processes.handle_sigterm()
    try:
        with pytest.raises(processes.Interrupted, match="linear stopped at step 7 of 20; run the same command"):
            fit(
                dataclasses.replace(
                    task, inputs={"points": Input(batches=Terminated(task.inputs["points"].batches), batch_size=8)}
                ),
                tmp_path / "cut",
            )
        with pytest.raises(processes.Interrupted):  # between the steps of a stage it does not wait
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cut = fit(linear_task(), tmp_path / "cut")
    jax.tree.map(np.testing.assert_array_equal, cut, whole)


def test_a_finished_stage_is_not_trained_again(tmp_path):
    params = fit(linear_task(), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    again = fit(linear_task(spoilt_at=1), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("step", "kept", "message"),
    [(7, 5, "step 7 of 20; the checkpoint of step 5 is finite"), (3, None, "step 3 of 20; there is no checkpoint")],
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, step, kept, message):
    with pytest.raises(loop.NonFiniteLossError, match=message) as error:
        fit(linear_task(spoilt_at=step), tmp_path)
    assert "--config.linear.learning_rate" in str(error.value)
    assert all(np.isfinite(row["loss"]) for row in metrics.read_metrics(tmp_path))
    checkpoints = Checkpoints(tmp_path / "checkpoints" / "linear")
    assert checkpoints.latest() == kept
    checkpoints.close()
    if kept:
        params = newest_params(tmp_path / "checkpoints" / "linear")
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_metrics_survive_a_line_cut_off(tmp_path):
    """Rows of other stages stay; those of this stage after the checkpoint, and half a line, go."""
    written = [("pretrain", 100), ("linear", 4), ("linear", 8)]
    lines = [json.dumps({"stage": stage, "step": step}) for stage, step in written]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"stage": "lin')
    writer = metrics.MetricsWriter(tmp_path, "linear", resumed_at=5)
    writer.write(9, {"loss": 1.0})
    writer.close()
    expected = [{"stage": "pretrain", "step": 100}, {"stage": "linear", "step": 4}]
    assert metrics.read_metrics(tmp_path) == [*expected, {"stage": "linear", "step": 9, "loss": 1.0}]
