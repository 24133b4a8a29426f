"""The GPU scripts with a Python that only notes what it is asked to do, and leaves a little of what training does."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
BOTH = ["gpu_suite.sh", "gpu_run.sh"]
PYTHON = f"""#!/usr/bin/env bash
{{ printf '%q ' "$@" && echo; }} >>"$CALLS"
asked=$*
case $asked in
  *"jax.devices"*) ${{DEVICES:-echo cuda [CudaDevice(id=0)]}} ;;
  *"${{HANG:-what is never asked}}"*) echo $$ >"$CALLS.pid" && exec /bin/sleep 60 ;;
  *scemae_jax.training.first_step*) exit "${{FIRST_STEP:-0}}" ;;
  *benchmarks*t8.benchmark*) exit 1 ;;
  *benchmarks*) output=${{asked#*--output }} && touch "${{output%% *}}" ;;
  "- "*) exec {sys.executable} "$@" ;; # a script of its own
  *scemae_jax.main*)
    workdir=${{asked#*--workdir }} && workdir=${{workdir%% *}} && mkdir -p "$workdir"
    echo '{{"images_per_second": 64}}' >"$workdir/metrics.jsonl"
    echo '{{"pretrain": {{"batch_size": 32}}}}' >"$workdir/config.json"
    if [[ $workdir == *.home || -z ${{CUT_OFF:-}} ]]; then
      mkdir -p "$workdir/export" && echo "$workdir" >"$workdir/export/scemae.msgpack"
    else
      mkdir -p "$workdir/checkpoints/pretrain/100" && exit 75
    fi ;;
esac
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Makes a script's command, among stand-ins."""
    (tmp_path / "bin").mkdir()
    programs = {"python3": PYTHON, "sleep": "#!/bin/sh\nexec /bin/sleep 0.1\n", "nproc": "#!/bin/sh\necho $CORES\n"}
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "some.whl").touch()
    (tmp_path / "faces").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CORES", "12")
    monkeypatch.delenv("PYTHON", raising=False)

    def make(script, *arguments):
        where = {"data": "faces", "out": "out", "work": "work", "wheels": "wheels"}
        named = [text for name, folder in where.items() for text in (f"--{name}", str(tmp_path / folder))]
        return ["bash", LAUNCH / script, *named, *arguments]

    return make


@pytest.fixture
def run(tmp_path, command):
    """Runs a script; returns how it ended, and the arguments of each call of its Python."""

    def call(*arguments, script="gpu_suite.sh"):
        (tmp_path / "calls").write_text("")
        ended = subprocess.run(command(script, *arguments), capture_output=True, text=True)
        return ended, [shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return call


def of(module, calls):
    return [words[2:] for words in calls if words[:2] == ["-m", module]]


def flag(words, name):
    return words[words.index(name) + 1]


def test_what_it_measures_and_then_trains(run, tmp_path):
    ended, calls = run("--sizes", " t8  b8 s8 ")
    measured = of("benchmarks", calls)
    files = ["agreement", *(f"{size}.benchmark" for size in ("t8", "b8", "s8"))]
    assert [flag(words, "--output") for words in measured] == [f"{tmp_path}/out/{file}.json" for file in files]
    assert measured[0][2:] == ["--encoder=T/8", "--suite=agreement"]
    assert measured[2][2:5] == ["--encoder=B/8", "--dtype=bfloat16", "--seconds=0.5"]
    assert measured[2][5:8] == ["--workers=6", "--peer=torch", "--compile"]
    assert measured[2][8] == "--suite=pretrain,refine,cluster,input"
    assert "t8.benchmark: what it has, and its log, are in" in ended.stderr
    assert {flag(words, "--config") for words in of("scemae_jax.main", calls)} == {
        "configs/ytf68.py:t8",
        "configs/ytf68.py:b8",
    }
    assert ended.returncode == 1  # training ended well, and one benchmark did not

    _, calls = run("--sizes", "t8 b8 s8")
    assert of("benchmarks", calls) == measured  # which skips by itself what it has


@pytest.mark.parametrize(("cores", "workers"), [("1", 0), ("2", 1), ("224", 16)])
def test_half_of_the_cores_decode(run, monkeypatch, cores, workers):
    monkeypatch.setenv("CORES", cores)
    _, calls = run("--sizes", "b8", "--minutes", "1")
    assert f"--workers={workers}" in of("benchmarks", calls)[1]


def test_a_smoke_run_and_a_real_one_share_no_file(run, tmp_path):
    ended, calls = run("--smoke")
    assert ended.returncode == 0, ended.stderr
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert {"smoke.agreement.json", "smoke.benchmark.json", "tiny.msgpack.00"} < {*left}
    _, real = run()
    assert not {word for words in of("benchmarks", calls) for word in words if "/out/" in word} & {
        word for words in of("benchmarks", real) for word in words
    }
    assert left == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in left}


def test_when_the_time_is_up_nothing_begins(run, monkeypatch):
    monkeypatch.setenv("SECONDS", "60")  # where bash begins to count
    ended, calls = run("--minutes", "1", "--sizes", "t8")
    assert (ended.returncode, of("benchmarks", calls), of("scemae_jax.main", calls)) == (75, [], [])
    assert "agreement: no time is left for it" in ended.stderr
    assert "training: less than two minutes are left" in ended.stderr


@pytest.mark.parametrize("script", BOTH)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", "0"), "--minutes 0: give a whole number of at least 1"),
        (("--data", "/nowhere"), "--data /nowhere is not a folder: name one of faces"),
        (("--out", ""), "/faces' and --out '': both are needed"),
        (("--out", "/dev/null/out"), "--out /dev/null/out, --work"),
        (("--wheels", "/nowhere"), "--wheels /nowhere is not a folder with wheels"),
        (("--sizes", ""), "--sizes '': name one or more"),
        (("--sizes", "  "), "--sizes '  ': name one or more"),
        (("--fast",), "not understood: --fast"),
        (("--minutes",), "--minutes needs a value"),
    ],
)
def test_mistakes_are_named(run, script, arguments, message):
    ended, calls = run(*arguments, script=script)
    assert (ended.returncode, ended.stdout, calls) == (2, "", [])
    assert message in ended.stderr


def test_sizes_that_are_not_measured_are_refused(run):
    ended, calls = run("--sizes", "t8 m8")
    assert (ended.returncode, calls) == (2, [])
    assert "--sizes has m8: choose of t8 s8 b8" in ended.stderr


@pytest.mark.parametrize("script", BOTH)
@pytest.mark.parametrize(
    ("devices", "message"), [("echo cpu [CpuDevice(id=0)]", "JAX finds no GPU"), ("false", "JAX does not start")]
)
def test_without_a_gpu_nothing_is_done(run, monkeypatch, script, devices, message):
    monkeypatch.setenv("DEVICES", devices)
    ended, calls = run(script=script)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "jax.devices" in calls[-1][-1]


@pytest.mark.parametrize(
    ("script", "hang"), [(BOTH[0], "benchmarks"), *((script, "scemae_jax.main") for script in BOTH)]
)
def test_a_signal_ends_what_runs(command, tmp_path, monkeypatch, script, hang):
    monkeypatch.setenv("HANG", hang)
    running = subprocess.Popen(command(script), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    noted = tmp_path / "calls.pid"
    while not noted.exists() or not noted.read_text():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text()), 0)
    assert hang in (tmp_path / "calls").read_text().splitlines()[-1]  # nothing was started after it


@pytest.mark.parametrize("script", BOTH)
def test_what_stands_after_the_options_goes_to_the_runs(run, script):
    arguments = ["--config.seed=3", "--config.init=a  b", "--config.stages=('pretrain',)", "--config.note=$HOME*"]
    ended, calls = run("--smoke", "--", *arguments, script=script)
    assert ended.returncode == 0, ended.stderr
    runs = of("scemae_jax.main", calls)
    assert len(runs) == {"gpu_suite.sh": 1, "gpu_run.sh": 2}[script]
    assert all(words[-4:] == arguments for words in runs)


def test_what_is_started_takes_the_interpreter_that_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "bin" / "python3").rename(tmp_path / "bin" / "another")
    monkeypatch.setenv("PYTHON", str(tmp_path / "bin" / "another"))
    ended, calls = run("--smoke")
    assert ended.returncode == 0, ended.stderr
    assert of("benchmarks", calls)
    assert of("scemae_jax.main", calls)


def test_a_run_that_is_cut_off_keeps_its_plan_and_brings_its_model_home(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CUT_OFF", "yes")
    work = tmp_path / "work"

    def train(minutes):
        ended, calls = run("--sizes", "t8", "--minutes", minutes, "--", "--config.init=a b", script="gpu_run.sh")
        assert ended.returncode == 75, ended.stderr
        runs = of("scemae_jax.main", calls)
        steps = f"--config.pretrain.steps={(work / 't8.steps').read_text().strip()}"
        *before, main, home = runs
        assert (flag(main, "--workdir"), flag(home, "--workdir")) == (f"{work}/t8", f"{work}/t8.home")
        assert main[-2:] == [steps, "--config.init=a b"]
        assert home[-3:] == [steps, "--config.init=a b", "--config.stages=('match','export')"]
        assert (tmp_path / "out" / "t8.msgpack.00").read_text() == f"{work}/t8.home\n"
        return int(steps.partition("=")[2]), [flag(words, "--workdir") for words in before]

    steps, before = train("10")
    assert before == [f"{work}/t8.speed"] * 2
    assert 740 <= steps <= 840  # two a second of seven minutes, less what was needed to learn that
    assert train("10") == (steps, [])
    assert train("20") == (steps, [])  # it goes on from its checkpoint
    for checkpoint in (work / "t8" / "checkpoints" / "pretrain").iterdir():
        checkpoint.rmdir()
    assert train("10") == (steps, [])  # planned, and cut off before its first checkpoint
    for checkpoint in (work / "t8" / "checkpoints" / "pretrain").iterdir():
        checkpoint.rmdir()
    assert train("20")[1] == before


@pytest.mark.parametrize("smoke", [[], ["--smoke"]])
def test_one_step_of_the_very_config_is_taken_before_anything_long(run, smoke):
    ended, calls = run("--sizes", "t8 s8", *smoke, "--", "--config.init=a b", script="gpu_run.sh")
    assert ended.returncode == 0, ended.stderr
    for size in ("t8", "s8"):
        about = [words for words in calls if f"configs/ytf68.py:{size}" in words]
        assert [words[1] for words in about[:2]] == ["scemae_jax.training.first_step", "scemae_jax.main"]
        first, trains = about[0], about[-1]
        assert [words[1] for words in about].count("scemae_jax.training.first_step") == 1
        changed = [word for word in trains if word.startswith("--config.") and "data_dir" not in word]
        assert [word for word in first if word.startswith("--config.")] == [
            word for word in changed if smoke or "pretrain.steps" not in word
        ]


def test_where_not_even_a_step_runs_nothing_long_begins(run, monkeypatch):
    monkeypatch.setenv("FIRST_STEP", "1")
    ended, calls = run("--sizes", "t8 s8", script="gpu_run.sh")
    assert (ended.returncode, of("scemae_jax.main", calls)) == (1, [])
    assert "t8: not even one step of training runs (status 1)" in ended.stderr


def test_a_run_that_goes_on_has_shown_that_steps_run(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CUT_OFF", "yes")
    run("--sizes", "t8", script="gpu_run.sh")
    monkeypatch.setenv("FIRST_STEP", "1")
    ended, calls = run("--sizes", "t8", script="gpu_run.sh")
    assert ended.returncode == 75, ended.stderr
    assert of("scemae_jax.training.first_step", calls) == []
