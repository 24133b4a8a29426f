"""How programs start and end, and the one command for all of them."""

import subprocess
import sys

import pytest

from scemae_jax import command_line
from scemae_jax.training import processes


def scemae(*words):
    return subprocess.run([sys.executable, "-m", "scemae_jax", *words], capture_output=True, text=True)


def test_one_command_runs_the_programs():
    ended = scemae("prepare", "--dataset", "mafl")
    assert ended.returncode == 1
    assert "error: mafl is prepared from files: name their folder with --manual_dir" in ended.stderr
    ended = scemae("convert", "--output", "a.msgpack", "now")  # a package
    assert ended.returncode == 1
    assert "not understood: now; flags are --NAME=VALUE" in ended.stdout + ended.stderr


def test_a_program_that_is_not_there_is_said():
    assert "unknown program 'train': choose one of run, sweep, prepare" in scemae("train").stderr
    assert "no program named" in scemae().stderr


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
