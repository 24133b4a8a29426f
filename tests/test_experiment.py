"""A system of another kind in one file: two stages, two inputs and a state that no gradient reaches."""

import json
import sys

import numpy as np
import pytest

from scemae_jax.experiment import read_results

# Stage "fit" learns a line from points of two inputs; its state is the mean of what the second one gave, which the loss
# reads. Stage "measure" reads the parameters and the state back.
TOY = """
import jax.numpy as jnp
import numpy as np
import optax

from scemae_jax import config as shared
from scemae_jax.data.pipeline import training_batches
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.experiment import Experiment, Stage, System
from scemae_jax.training import loop
from scemae_jax.training.feed import Input


class Points:
    def __init__(self, shift):
        self.x = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
        self.shift = shift

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": 3 * self.x[index] + self.shift}


def points(shift, seed):
    return Input(batches=training_batches([Points(shift)], weights=[1.0], batch_size=8, seed=seed), batch_size=8)


def loss(params, fixed, batch, key):
    near, far = batch["near"], batch["far"]
    errors = params["slope"] * near["x"] - near["y"] + fixed.constants
    pull = params["level"] - fixed.state["mean"]
    seen = {"mean_of_far": far["y"].mean(), "sum_of_near": near["y"].sum(), "pull": jnp.abs(pull).mean()}
    return (errors**2).mean() + (pull**2).mean(), seen


def next_state(state, params, outputs):
    return {
        "mean": 0.9 * state["mean"] + 0.1 * outputs["mean_of_far"],
        "total": state["total"] + outputs["sum_of_near"] ** 2,
        "steps": state["steps"] + 1,
    }


def fit(experiment):
    settings = experiment.config.fit
    return experiment.train(
        loop.Task(
            name="fit", loss=loss, outputs=("pull",), params={"slope": jnp.zeros(1), "level": jnp.zeros(1)},
            constants=jnp.zeros(()), inputs={"near": points(0.0, 0), "far": points(5.0, 1)},
            optimizer=optax.sgd(0.1), schedule=lambda step: 0.1, steps=settings.steps, log_every=10,
            checkpoint_every=7, seed=0, state=dict.fromkeys(("mean", "total", "steps"), jnp.zeros(())),
            next_state=next_state,
        )
    )


def measure(experiment):
    params, state = experiment.trained("fit"), experiment.trained("fit", "state")
    found = {"slope": float(params["slope"][0]), "level": float(params["level"][0])}
    found |= {name: float(value) for name, value in state.items()} | {"asked": experiment.config.measure.asked}
    return {"measurements": [Measurement(metric=name, value=value) for name, value in found.items()]}


def get_config():
    config = shared.base("toy", ("fit", "measure"))
    config.data.variant = "tiny"
    config.fit = shared.training(batch_size=8, learning_rate=0.1, betas=(0.9, 0.95), warmup=0.0)
    config.fit.steps = 200
    config.measure = {"asked": 1}
    return config


SYSTEM = System(
    name="toy", experiment=Experiment, check=shared.check, describe=lambda experiment: print("a line through points"),
    stages=(
        Stage(name="fit", run=fit, trains=True, distributed=True, progress=("checkpoints/fit",)),
        Stage(name="measure", run=measure, builds_on=("fit",), settings_may_change=True),
    ),
)
"""


@pytest.fixture
def toy(run, data_dir, monkeypatch, tmp_path, capsys):
    """`toy(workdir, field=value)`: the command on the toy system; its exit status and what it printed."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)

    def call(workdir, *, dry_run=False, stop_after=None, **fields):
        import toy

        config = toy.get_config()
        config.data.data_dir = str(data_dir)
        config.update(fields)
        status = run(config, tmp_path / workdir, dry_run=dry_run, stop_after=stop_after)
        said = capsys.readouterr()
        return status, said.out + said.err

    yield call
    sys.modules.pop("toy", None)


def test_a_system_of_two_stages_two_inputs_and_a_state_is_one_file(toy, tmp_path):
    assert toy("whole", dry_run=True)[0] == 0
    status, said = toy("whole")
    assert status == 0, said
    assert "slope" in said  # in a table of what was measured
    whole = read_results(tmp_path / "whole")
    assert whole["fit"]["images_seen"] == 200 * 16
    found = {row["metric"]: row["value"] for row in whole["measurements"]}
    assert (found["steps"], found["slope"]) == (200, pytest.approx(3, abs=0.01))
    # All 16 points of "far" have the mean 5, batches of 8 about that; the level follows the state.
    assert found["mean"] == pytest.approx(5, abs=0.5)
    assert found["level"] == pytest.approx(found["mean"], abs=0.5)
    about = {name: whole["measurements"][0][name] for name in ("stage", "system", "dataset", "seed")}
    assert about == {"stage": "measure", "system": "toy", "dataset": "synthetic_faces", "seed": 0}

    # Stopped after its first and its second step and taken up again: inputs and state go on, to the bit. The state has
    # sums over all steps, which a state that began anew would not have.
    assert toy("cut", stop_after=0)[0] == 75
    assert toy("cut", stop_after=0)[0] == 75
    assert toy("cut")[0] == 0
    cut = read_results(tmp_path / "cut")
    assert cut["measurements"] == whole["measurements"]
    assert np.isfinite(cut["fit"]["loss"])

    # Other settings of a stage that only measures: it runs again, and nothing is trained.
    status, said = toy("cut", measure={"asked": 2})
    assert status == 0, said
    assert "fit: finished before" in said
    again = read_results(tmp_path / "cut")
    assert [row["value"] for row in again["measurements"] if row["metric"] == "asked"] == [2]
    assert len(again["measurements"]) == len(whole["measurements"])

    # What an earlier version left is refused in a line, which says how to go on.
    path = tmp_path / "cut" / "results.json"
    path.write_text(json.dumps({"fit": cut["fit"], "measure": {"slope": 3.0}}))
    status, said = toy("cut")
    assert (status, said.count("Traceback")) == (1, 0)
    assert f"error: {path} is of an earlier version and has no list of measurements: choose another" in said


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"system": "nobody"}, "config.system is 'nobody': choose sce_mae or spcl, or name a module that has a SYSTEM"),
        ({"system": "no.body"}, "config.system is 'no.body'"),
        ({"stages": ("measure", "fit")}, "the order is fit, measure, each once"),
    ],
)
def test_a_system_that_cannot_run_is_said(toy, fields, message):
    status, said = toy("none", **fields)
    assert status == 1
    assert message in said
