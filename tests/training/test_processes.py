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
from scemae_jax.training.checkpoints import newest_step, restore_part

CONFIG = """
from scemae_jax.systems.sce_mae.settings import default

def get_config():
    config = default()
    config.stages = ("pretrain", "refine", "match", "detect", "export")
    config.data.variant = "tiny"
    config.data.data_dir = {data_dir!r}
    config.model.encoder = "XXS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = config.refine.batch_size = 8
    config.pretrain.steps, config.refine.steps = 60, 6
    config.pretrain.log_every, config.pretrain.checkpoint_every = 5, 10
    config.detect.landmarks, config.detect.heatmaps, config.detect.steps = (5,), 2, 3
    config.detect.linear.below = 0
    config.data.synthetic_share = 0.25
    config.match.stride, config.match.max_pairs, config.match.baselines = 8, 2, False
    return config
"""


def restored(directory: Path):
    """Parameters of the newest checkpoint."""
    return restore_part(directory, newest_step(directory), "params")


class Runs:
    """Runs of the same experiment, each by two processes of two devices."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "config.py").write_text(CONFIG.format(data_dir=str(folder / "data")))

    def start(self, workdir: str, *arguments: str) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(scemae_jax.__file__).parents[1]),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip(),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        command = [
            sys.executable, "-m", "scemae_jax.main", "--config", self.folder / "config.py", "--workdir",
            self.folder / workdir, f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *arguments,
        ]  # fmt: skip
        return [
            subprocess.Popen(
                [*command, f"--process_id={number}"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(2)
        ]  # fmt: skip

    def rows(self, workdir: str) -> list[dict]:
        path = self.folder / workdir / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]

    def wait_for_step(self, workdir: str, step: int) -> None:
        deadline = time.monotonic() + 240
        while not any(row["step"] >= step for row in self.rows(workdir)):
            assert time.monotonic() < deadline, "the run does not come to its steps"
            time.sleep(0.05)


def finish(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def whole(runs) -> str:
    """The uninterrupted run; what the first process printed is its output."""
    statuses, outputs = finish(runs.start("whole"))
    assert statuses == [0, 0], outputs
    assert "match: finished" in outputs[0]
    assert "match: finished" not in outputs[1]
    return "whole"


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


def test_two_processes_run_all_stages(runs, whole):
    results = json.loads((runs.folder / whole / "results.json").read_text())
    assert results["pretrain"]["images_seen"] == 480
    assert (runs.folder / whole / "export" / "scemae.msgpack").exists()
    steps = [row["step"] for row in runs.rows(whole) if row["stage"] == "pretrain"]
    assert steps == list(range(5, 61, 5))  # one process writes them, once


def test_killed_processes_started_again_are_the_uninterrupted_run(runs, whole):
    processes = runs.start("killed")
    runs.wait_for_step("killed", 25)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    statuses, outputs = finish(processes)
    assert statuses == [-signal.SIGKILL] * 2, outputs
    assert runs.rows("killed")[-1]["step"] < 60
    statuses, outputs = finish(runs.start("killed"))
    assert statuses == [0, 0], outputs
    assert_same_run(runs, "killed", whole)
    assert runs.rows("killed") == runs.rows(whole)


def test_sigterm_to_one_process_stops_all_with_everything_saved(runs, whole):
    processes = runs.start("stopped")
    runs.wait_for_step("stopped", 5)
    processes[1].send_signal(signal.SIGTERM)
    statuses, outputs = finish(processes)
    assert statuses == [85, 85], outputs
    stopped_at = runs.rows("stopped")[-1]["step"]
    assert f"pretrain stopped at step {stopped_at} of 60; run the same command to go on" in outputs[0]
    statuses, outputs = finish(runs.start("stopped"))
    assert statuses == [0, 0], outputs
    assert_same_run(runs, "stopped", whole)


def test_the_time_limit_stops_all(runs):
    statuses, outputs = finish(runs.start("limited", "--stop_after_minutes=0"))
    assert statuses == [75, 75], outputs


def test_a_mistake_that_the_first_process_finds_ends_all(runs, whole):
    """The workdir is of another config: nobody waits for what will not come, and nobody starts again for it."""
    started = time.monotonic()
    statuses, outputs = finish(runs.start(whole, "--config.refine.temperature=0.3"))
    assert statuses == [1, 1], outputs
    assert all("holds a run of another config" in output for output in outputs)
    assert "the first process: " in outputs[1]
    assert time.monotonic() - started < 120


def test_one_process_goes_on_where_two_stopped(runs, whole):
    """From the checkpoint of the test above, on two devices; the loss is that of two processes to rounding."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(scemae_jax.__file__).parents[1]),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip(),
    }
    command = [
        sys.executable, "-m", "scemae_jax.main", "--config", runs.folder / "config.py",
        "--workdir", runs.folder / "limited",
    ]  # fmt: skip
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    there, expected = (
        {(row["stage"], row["step"]): row["loss"] for row in runs.rows(workdir) if row["stage"] != "detect_5"}
        for workdir in ("limited", whole)
    )
    common = sorted(there.keys() & expected.keys())
    assert len(common) > 10
    np.testing.assert_allclose([there[key] for key in common], [expected[key] for key in common], rtol=1e-4)


@pytest.mark.parametrize("arguments", [[], ["--num_processes=2"], ["--num_processes=2", "--process_id=2"]])
def test_a_coordinator_needs_the_number_of_processes(tmp_path, arguments):
    command = [
        sys.executable, "-m", "scemae_jax.main", "--config", "configs/quickstart.py", "--workdir", tmp_path / "run",
        "--coordinator=127.0.0.1:1", *arguments,
    ]  # fmt: skip
    root = Path(scemae_jax.__file__).parents[1]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "--coordinator=127.0.0.1:1 needs --num_processes and --process_id from 0 below it" in ended.stderr
