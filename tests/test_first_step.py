"""One real step of a config, as launch/gpu.sh takes it before anything long."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from scemae_jax.first_step import advice, first_step
from scemae_jax.systems.sce_mae import pretrain, settings
from scemae_jax.training import sharding

ROOT = Path(__file__).parents[1]
CONFIG = """
from scemae_jax.systems.sce_mae import settings

def get_config():
    config = settings.default()
    config.model.encoder = "XXS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = config.refine.batch_size = 4
    config.dtype = "bfloat16"
    return config
"""


@pytest.fixture
def command(tmp_path):
    """Runs the command with a tiny network and further arguments."""
    (tmp_path / "config.py").write_text(CONFIG)

    def call(*arguments):
        words = [sys.executable, "-m", "scemae_jax.first_step", "--config", tmp_path / "config.py", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)

    return call


def test_both_stages_take_a_step_and_leave_nothing(command, tmp_path):
    ended = command()
    assert ended.returncode == 0, ended.stderr
    assert [line.split("(")[0] for line in ended.stdout.splitlines()] == [
        "first step of pretrain ", "first step of refine ",
    ]  # fmt: skip
    assert "XXS/8, bfloat16, batch_size 4): loss 1." in ended.stdout  # normalised patches have the variance 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["config.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.pretrain.accumulate=3"],
            "error: pretrain: batch_size 4 does not divide over 1 devices and accumulate=3",
        ),
        (["--config.mesh.fsdp=3"], "error: config.mesh has data=0 and fsdp=3 for 1 devices"),
        (["--config.match.stride=5"], "error: config.match.stride is 5"),
        (["t8"], "not understood: t8"),
    ],
)
def test_what_fails_is_said(command, arguments, message):
    ended = command(*arguments)
    assert ended.returncode == 1
    assert message in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


def test_a_gradient_that_is_not_finite_is_a_failure_though_the_loss_is(monkeypatch):
    """The square root of a loss less itself: 0, whose gradient is not finite."""
    config = settings.default()
    config.model.encoder = "XXS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = 2
    task_of = pretrain.task

    def broken(*arguments, **settings):
        task = task_of(*arguments, **settings)

        def loss(*inputs):
            value, outputs = task.loss(*inputs)
            return jnp.sqrt(value * 0), outputs

        return dataclasses.replace(task, loss=loss)

    monkeypatch.setattr(pretrain, "task", broken)
    with pytest.raises(FloatingPointError, match=r"the loss is 0\.0, the gradient's norm nan"):
        first_step(config, "pretrain", sharding.make_mesh(jax.devices("cpu")[:1]))


def test_attention_is_the_one_that_will_train(cudnn_calls):
    """On a GPU that is cuDNN's, which this CPU refuses."""
    config = settings.default()
    config.model.encoder, config.dtype = "XXS/8", "bfloat16"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = 2
    with pytest.raises(NotImplementedError, match="dot_product_attention"):
        first_step(config, "pretrain", sharding.make_mesh(jax.devices("cpu")[:1]))


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes"), "accumulate=2"),
        (RuntimeError("cuDNN is not detected."), "nvidia-smi"),
        (FloatingPointError("the loss is nan"), "--config.dtype=float32"),
        (ValueError("config.mesh.rules has"), "config has to change"),
    ],
)
def test_advice_fits_what_happened(error, remedy):
    assert remedy in advice("refine", error)
