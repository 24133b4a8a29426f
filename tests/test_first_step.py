"""One real step of a config, as launch/gpu.sh takes it before anything long."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from scemae_jax import first_step as program
from scemae_jax.first_step import advice, first_step
from scemae_jax.systems.sce_mae import pretrain, settings
from scemae_jax.training import sharding


def tiny(**fields):
    config = settings.default()
    config.model.encoder, config.dtype = "XXS/8", "bfloat16"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 1, 2
    config.pretrain.batch_size = config.refine.batch_size = 2
    config.update_from_flattened_dict(fields)
    return config


def test_both_stages_take_a_step_and_leave_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "CONFIG", SimpleNamespace(value=tiny()))
    monkeypatch.chdir(tmp_path)
    program.main()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("first step of pretrain (1 x cpu, XXS/8, bfloat16, batch_size 2): loss 1.")
    assert second.startswith("first step of refine (")  # above: normalised patches have the variance 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretrain.accumulate": 3}, "error: pretrain: batch_size 2 does not divide over 1 devices and accumulate=3"),
        ({"mesh.fsdp": 3}, "error: config.mesh has data=0 and fsdp=3 for 1 devices"),
        ({"match.stride": 5}, "error: config.match.stride is 5"),
        ({"system": "toy"}, "error: config.system is 'toy': the first step knows sce_mae alone"),
    ],
)
def test_what_fails_is_said(monkeypatch, capsys, fields, message):
    monkeypatch.setattr(program, "CONFIG", SimpleNamespace(value=tiny(**fields)))
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_is_a_failure_though_the_loss_is(monkeypatch):
    """The square root of 0 times the weights: 0, whose gradient is not finite."""
    task_of = pretrain.task

    def broken(*arguments, **settings):
        task = task_of(*arguments, **settings)

        def loss(params, fixed, batch, key):
            total = sum(leaf.sum() for leaf in jax.tree.leaves(params))
            return jnp.sqrt(total * 0), dict.fromkeys(task.outputs, jnp.zeros(()))

        return dataclasses.replace(task, loss=loss)

    monkeypatch.setattr(pretrain, "task", broken)
    with pytest.raises(FloatingPointError, match=r"the loss is 0\.0, the gradient's norm nan"):
        first_step(tiny(), "pretrain", sharding.make_mesh(jax.devices("cpu")[:1]))


def test_attention_is_the_one_that_will_train(cudnn_calls):
    """On a GPU that is cuDNN's, which this CPU refuses."""
    with pytest.raises(NotImplementedError, match="dot_product_attention"):
        first_step(tiny(), "pretrain", sharding.make_mesh(jax.devices("cpu")[:1]))


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
