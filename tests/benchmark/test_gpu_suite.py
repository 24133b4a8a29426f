"""The GPU script with a Python that only notes what it is asked to do."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "gpu_suite.sh"
PYTHON = """#!/usr/bin/env bash
asked=$*
echo "$asked" >>"$CALLS"
case $asked in
  *"jax.devices"*) echo "cuda [CudaDevice(id=0)]" ;;
  *scemae_jax.benchmark*t8.profile*) exit 1 ;;
  *scemae_jax.benchmark*) output=${asked#*--output }; echo '{"finished": true}' >"${output%% *}" ;;
esac
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "some.whl").touch()
    (tmp_path / "faces").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def call(*arguments):
        where = {"data": "faces", "out": "out", "work": "work", "wheels": "wheels"}
        named = [text for name, folder in where.items() for text in (f"--{name}", str(tmp_path / folder))]
        (tmp_path / "calls").write_text("")
        ended = subprocess.run(["bash", SCRIPT, *named, *arguments], capture_output=True, text=True)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "t8 m8"), "--sizes has m8: choose of t8 s8 b8"),
        (("--minutes", "0"), "--minutes 0 is not a whole number above 0"),
        (("--data", "/nowhere"), "--data /nowhere is not a folder"),
        (("--fast",), "not understood: --fast"),
        (("--minutes",), "--minutes needs a value"),
    ],
)
def test_mistakes_are_named(run, arguments, message):
    ended, calls = run(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert not calls
