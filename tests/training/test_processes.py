"""Several processes on one machine: the command line, as on the hosts of a pod."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import scemae_jax
from scemae_jax.training import processes
from scemae_jax.training.checkpoints import newest_step, restore_part

CONFIG = """
from scemae_jax.systems.sce_mae.settings import default

def get_config():
    config = default()
    config.stages = ("pretrain", "export")
    config.data.variant = "tiny"
    config.data.data_dir = {data_dir!r}
    config.model.encoder = "XXS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = config.refine.batch_size = 8
    config.pretrain.steps, config.refine.steps = 40, 4
    config.pretrain.log_every, config.pretrain.checkpoint_every = 5, 10
    config.data.synthetic_share = 0.25
    return config
"""


def restored(directory: Path):
    """Parameters of the newest checkpoint."""
    return restore_part(directory, newest_step(directory), "params")


class Runs:
    """Runs of the same experiment, each by two processes of two devices."""

    def __init__(self, folder: Path, data_dir: Path):
        self.folder = folder
        (folder / "config.py").write_text(CONFIG.format(data_dir=str(data_dir)))

    def start(self, workdir: str, *arguments: str, count: int = 2) -> list[subprocess.Popen]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(scemae_jax.__file__).parents[1]),
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip(),
        }
        command = [sys.executable, "-m", "scemae_jax.main", "--config", self.folder / "config.py",
                   "--workdir", self.folder / workdir, *arguments]  # fmt: skip
        if count > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
        together = [[f"--process_id={number}"] for number in range(count)] if count > 1 else [[]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return [subprocess.Popen([*command, *one], env=environment, **pipes) for one in together]

    def rows(self, workdir: str) -> list[dict]:
        path = self.folder / workdir / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]

    def wait_for_step(self, workdir: str, step: int) -> None:
        deadline = time.monotonic() + 240
        while not any(row["step"] >= step for row in self.rows(workdir)):
            assert time.monotonic() < deadline, "the run does not come to its steps"
            time.sleep(0.05)


def finish(started: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    outputs = [process.communicate(timeout=280)[0] for process in started]
    return [process.returncode for process in started], outputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir) -> Runs:
    return Runs(tmp_path_factory.mktemp("processes"), data_dir)


@pytest.fixture(scope="module")
def whole(runs) -> str:
    """The uninterrupted run; what the first process printed is its output."""
    statuses, outputs = finish(runs.start("whole"))
    assert statuses == [0, 0], outputs
    assert "export: finished" in outputs[0]
    assert "export: finished" not in outputs[1]
    return "whole"


BOTH = "--config.stages=('pretrain', 'refine', 'export')"


@pytest.fixture(scope="module")
def refined(runs, whole) -> str:
    """The same run, which has gone on with stage 2."""
    statuses, outputs = finish(runs.start(whole, BOTH))
    assert statuses == [0, 0], outputs
    return whole


def assert_same_run(runs: Runs, workdir: str, whole: str) -> None:
    for stage in ("pretrain", "refine"):
        there, expected = (restored(runs.folder / run / "checkpoints" / stage) for run in (workdir, whole))
        assert str(there.keys()) == str(expected.keys())
        for (path, a), (_, b) in zip(flat(there), flat(expected), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=path)


def flat(params: dict, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    found = []
    for name, value in params.items():
        found += flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, np.asarray(value))]
    return found


def test_two_processes_train_together(runs, whole):
    results = json.loads((runs.folder / whole / "results.json").read_text())
    assert results["pretrain"]["images_seen"] == 320
    steps = [row["step"] for row in runs.rows(whole) if row["stage"] == "pretrain"]
    assert steps == list(range(5, 41, 5))  # one process writes them, once


@pytest.mark.slow
def test_killed_processes_started_again_are_the_uninterrupted_run(runs, refined):
    started = runs.start("killed", BOTH)
    runs.wait_for_step("killed", 15)
    for process in started:
        process.send_signal(signal.SIGKILL)
    statuses, outputs = finish(started)
    assert statuses == [-signal.SIGKILL] * 2, outputs
    assert runs.rows("killed")[-1]["step"] < 40
    statuses, outputs = finish(runs.start("killed", BOTH))
    assert statuses == [0, 0], outputs
    assert_same_run(runs, "killed", refined)
    assert runs.rows("killed") == runs.rows(refined)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_with_everything_saved(runs, refined):
    started = runs.start("stopped", BOTH)
    runs.wait_for_step("stopped", 5)
    started[1].send_signal(signal.SIGTERM)
    statuses, outputs = finish(started)
    assert statuses == [85, 85], outputs
    stopped_at = runs.rows("stopped")[-1]["step"]
    assert f"pretrain stopped at step {stopped_at} of 40; run the same command to go on" in outputs[0]
    statuses, outputs = finish(runs.start("stopped", BOTH))
    assert statuses == [0, 0], outputs
    assert_same_run(runs, "stopped", refined)


@pytest.mark.slow
def test_a_mistake_that_the_first_process_finds_ends_all(runs, whole):
    """The workdir is of another config: nobody waits for what will not come, and nobody starts again for it."""
    started = time.monotonic()
    statuses, outputs = finish(runs.start(whole, "--config.refine.temperature=0.3"))
    assert statuses == [1, 1], outputs
    assert all("holds a run of another config" in output for output in outputs)
    assert "the first process: " in outputs[1]
    assert time.monotonic() - started < 120


@pytest.mark.slow
def test_the_time_limit_stops_all_and_one_process_goes_on(runs, refined):
    """On two devices; the loss is that of two processes to rounding."""
    statuses, outputs = finish(runs.start("limited", BOTH, "--stop_after_minutes=0"))
    assert statuses == [75, 75], outputs
    statuses, outputs = finish(runs.start("limited", BOTH, count=1))
    assert statuses == [0], outputs
    there, expected = (
        {(row["stage"], row["step"]): row["loss"] for row in runs.rows(workdir)} for workdir in ("limited", refined)
    )
    common = sorted(there.keys() & expected.keys())
    assert len(common) > 5
    np.testing.assert_allclose([there[key] for key in common], [expected[key] for key in common], rtol=1e-4)


@pytest.mark.parametrize("numbers", [(0, -1), (2, -1), (2, 2)])
def test_a_coordinator_needs_the_number_of_processes(numbers):
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:1 needs --num_processes and --process_id from 0 below it"):
        processes.join("127.0.0.1:1", *numbers)
