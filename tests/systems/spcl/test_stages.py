"""Stages of SPCL from end to end, with a network and datasets so small that a run takes seconds."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from scemae_jax import experiment
from scemae_jax.data import sources
from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.faces.parts import DRAWN
from scemae_jax.model_file import load, save_model
from scemae_jax.models.heads import Head, LinearHead, Reads
from scemae_jax.systems.spcl import settings
from scemae_jax.systems.spcl.stages import SYSTEM

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", settings.METHODS)
def test_every_method_trains_and_stops_and_goes_on_to_the_bit(small, tmp_path, method):
    config = small(method)
    config.stages = tuple(stage for stage in config.stages if stage != "export")
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


def test_the_export_is_the_initial_model_with_the_parser_of_the_last_stage(small, small_model, random_params, tmp_path):
    head = Head(network=LinearHead(4), params={}, reads=Reads(8, "projected"))
    params = random_params(head.network, np.zeros((1, 12, 12, 16), np.float32))
    initial = small_model.with_head(dataclasses.replace(head, params=params))
    save_model(initial, tmp_path / "initial.msgpack")
    config = small(init=str(tmp_path / "initial.msgpack"), export__dtype="float16")
    config.stages = ("source", "export")
    run = SYSTEM.open(config, tmp_path / "run")
    facts = experiment.run(run)["export"]
    model = load(tmp_path / "run" / facts["path"])
    images = sources.read_faces(run.source_dataset, ("test",)).images[:5]
    windows = run.network.backbone.frame.centre_window(images) / np.float32(255)
    parsed = jax.jit(run.network.apply)({name: run.trained("source")[name] for name in ("encoder", "head")}, windows)
    again = model.parser.network(model.architecture.backbone).apply(model.parser.params, windows)
    np.testing.assert_allclose(again.logits, parsed.logits, atol=0.02)  # float16
    assert model.part_names == DRAWN.names
    np.testing.assert_allclose(model.detect(images), initial.detect(images), atol=0.2)
    exported = jax.export.deserialize((tmp_path / "run" / "export" / "parts.stablehlo").read_bytes())
    np.testing.assert_array_equal(exported.call(images), model.parse(images))
    provenance = model.provenance
    assert (facts["stage"], provenance["method"]["stage"]) == ("source", "source")
    assert provenance["images_seen"] == 4 * 8
    assert "synthetic_faces" in provenance["source"]
    assert provenance["terms"].endswith("initial.msgpack hold for this model too")


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
