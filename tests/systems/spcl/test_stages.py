"""Stages of SPCL from end to end, with a network and datasets so small that a run takes seconds."""

import json

import numpy as np
import pytest

from scemae_jax import experiment
from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.systems.spcl import settings
from scemae_jax.systems.spcl.stages import SYSTEM

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", settings.METHODS)
def test_every_method_trains_and_stops_and_goes_on_to_the_bit(small, tmp_path, method):
    config = small(method)
    whole = experiment.run(SYSTEM.open(config, tmp_path / "whole"))
    assert "skipped" in whole["measure"]  # no set was named
    assert all(np.isfinite(whole[stage]["loss"]) for stage in config.stages if stage in settings.TRAINED)
    for _ in range(20):
        try:
            cut = experiment.run(SYSTEM.open(config, tmp_path / "cut", stop_at=0.0))
            break
        except experiment.processes.OutOfTime:
            continue
    losses = [
        [(row["stage"], row["step"], row["loss"]) for row in map(json.loads, path.read_text().splitlines())]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "cut" / "metrics.jsonl")
    ]
    assert losses[0] == losses[1]
    assert cut["source"]["loss"] == whole["source"]["loss"]


def test_a_set_with_masks_and_one_with_landmarks_are_measured(small, tmp_path, ytf68):
    parsing = ytf68.parent / "parsing" / "fasseg"
    if not parsing.exists():
        pytest.skip("needs the masks in ../shared/data/parsing")
    config = small(measure__sets=(f"fasseg={parsing}::fasseg+landmarks", f"ytf68={ytf68}:test"))
    results = experiment.run(SYSTEM.open(config, tmp_path))
    rows = as_table(results["measurements"])
    assert set(rows["method"]) == {"source", "adapt"}
    rows = select(rows, classifier=None)
    for name, grouping, count in (("fasseg", "fasseg", 272), ("fasseg", "landmarks", 272), ("ytf68", "landmarks", 742)):
        found = select(rows, split=name, grouping=grouping)
        assert set(found["n"]) == {count}
        means = select(found, metric="mean IoU", method="source", without=None)["value"].item()
        by_part = select(found, metric="IoU", method="source")["value"]
        assert means == pytest.approx(by_part.mean())
