"""The GPU scripts with a Python that only notes what it is asked to do."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
BOTH = ["gpu_suite.sh", "gpu_run.sh"]
PYTHON = """#!/usr/bin/env bash
asked=$*
echo "$asked" >>"$CALLS"
case $asked in
  *"jax.devices"*) ${DEVICES:-echo cuda [CudaDevice(id=0)]} ;;
  *"${HANG:-what is never asked}"*) exec sleep 60 ;;
  *scemae_jax.benchmark*t8.profile*) exit 1 ;;
  *scemae_jax.benchmark*) output=${asked#*--output }; echo '{"finished": true}' >"${output%% *}" ;;
esac
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Makes a script's command, among stand-ins."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "some.whl").touch()
    (tmp_path / "faces").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def make(script, *arguments):
        where = {"data": "faces", "out": "out", "work": "work", "wheels": "wheels"}
        named = [text for name, folder in where.items() for text in (f"--{name}", str(tmp_path / folder))]
        return ["bash", LAUNCH / script, *named, *arguments]

    return make


@pytest.fixture
def run(tmp_path, command):
    def call(*arguments, script="gpu_suite.sh"):
        (tmp_path / "calls").write_text("")
        ended = subprocess.run(command(script, *arguments), capture_output=True, text=True)
        calls = (tmp_path / "calls").read_text().splitlines()
        return ended, [line.partition("benchmark --output ")[2] for line in calls if "benchmark --output" in line]

    return call


def test_what_it_measures_and_that_it_is_not_measured_twice(run, tmp_path):
    ended, calls = run("--sizes", "t8 b8", "--minutes", "1")
    files = ["agreement", "t8.benchmark", "b8.benchmark", "t8.profile", "b8.profile"]
    assert [call.split()[0] for call in calls] == [f"{tmp_path}/out/{file}.json" for file in files]
    assert "--encoder=T/8 --suite=agreement" in calls[0]
    assert "--encoder=B/8 --dtype=bfloat16" in calls[2]
    assert "--peer=torch --compile --suite=pretrain,refine,features,cluster,input" in calls[2]
    assert "t8.profile: ended early; what it has is in" in ended.stderr
    assert "less than two minutes" in ended.stderr  # for training
    assert ended.returncode == 1  # an error counts more than a lack of time

    ended, calls = run("--sizes", "t8 b8", "--minutes", "1")
    assert [call.split()[0] for call in calls] == [f"{tmp_path}/out/t8.profile.json"]
    assert "== b8.benchmark: done before" in ended.stdout


def test_a_disagreement_found_before_still_counts(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "agreement.json").write_text('{"finished": true, "rows": [{"passed": false}]}')
    ended, calls = run("--sizes", "b8", "--minutes", "1")
    assert not any("agreement.json" in call for call in calls)
    assert "agreement: it found a disagreement (status 1)" in ended.stderr
    assert ended.returncode == 1


@pytest.mark.parametrize("script", BOTH)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", "0"), "--minutes 0: give a whole number of at least 1"),
        (("--data", "/nowhere"), "--data /nowhere is not a folder: name one of faces"),
        (("--out", ""), "/faces' and --out '': both are needed"),
        (("--out", "/dev/null/out"), "--out /dev/null/out, --work"),
        (("--wheels", "/nowhere"), "--wheels /nowhere is not a folder with wheels"),
        (("--fast",), "not understood: --fast"),
        (("--minutes",), "--minutes needs a value"),
    ],
)
def test_mistakes_are_named(run, tmp_path, script, arguments, message):
    ended, _ = run(*arguments, script=script)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert not (tmp_path / "calls").read_text()


def test_sizes_that_are_not_measured_are_refused(run):
    ended, calls = run("--sizes", "t8 m8")
    assert (ended.returncode, calls) == (2, [])
    assert "--sizes has m8: choose of t8 s8 b8" in ended.stderr


@pytest.mark.parametrize("script", BOTH)
@pytest.mark.parametrize(
    ("devices", "message"), [("echo cpu [CpuDevice(id=0)]", "JAX finds no GPU"), ("false", "JAX does not start")]
)
def test_without_a_gpu_nothing_is_done(run, tmp_path, monkeypatch, script, devices, message):
    monkeypatch.setenv("DEVICES", devices)
    ended, _ = run(script=script)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "jax.devices" in (tmp_path / "calls").read_text().splitlines()[-1]


@pytest.mark.parametrize(("script", "hang"), zip(BOTH, ["scemae_jax.benchmark", "scemae_jax.main"], strict=True))
def test_a_signal_ends_what_runs(command, tmp_path, monkeypatch, script, hang):
    monkeypatch.setenv("HANG", hang)
    running = subprocess.Popen(command(script, "--smoke"), stdout=subprocess.DEVNULL)
    while not (tmp_path / "calls").exists() or hang not in (tmp_path / "calls").read_text():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 143
    assert hang in (tmp_path / "calls").read_text().splitlines()[-1]  # nothing was started after it


def test_what_stands_after_the_options_goes_to_the_runs(run, tmp_path):
    ended, _ = run("--smoke", "--", "--config.seed=3", "--config.init=a b", script="gpu_run.sh")
    assert ended.returncode == 0, ended.stderr
    runs = [line for line in (tmp_path / "calls").read_text().splitlines() if "scemae_jax.main" in line]
    assert len(runs) == 2
    assert all(line.endswith("--config.seed=3 --config.init=a b") for line in runs)
