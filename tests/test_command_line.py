"""How programs start and end, and the one command for all of them."""

import subprocess
import sys

import pytest

from scemae_jax import __main__, command_line
from scemae_jax.training import processes


def test_one_command_runs_the_programs():
    words = [sys.executable, "-m", "scemae_jax", "prepare", "--dataset", "mafl", "now"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "not understood: now; flags are --NAME=VALUE" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [(["train"], "unknown program 'train': choose one of run, predict, sweep, compare"), ([], "no program named")],
)
def test_a_program_that_is_not_there_is_said(monkeypatch, words, message):
    monkeypatch.setattr("sys.argv", ["scemae", *words])
    with pytest.raises(SystemExit, match=message):
        __main__.main()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (processes.OutOfTime("later"), 75),
        (processes.Interrupted("later"), 85),
        (processes.PeerLostError("gone"), 85),
        (ValueError("wrong"), 1),
        (FileNotFoundError("gone"), 1),
    ],
)
def test_an_error_becomes_an_exit_status_and_a_line(error, status, capsys):
    with pytest.raises(SystemExit) as ended, command_line.exit_status():
        raise error
    assert ended.value.code == status
    said = capsys.readouterr()
    assert str(error) in said.out + said.err


def test_an_error_of_the_code_keeps_its_traceback():
    with pytest.raises(KeyError), command_line.exit_status():
        raise KeyError("a mistake of ours")
