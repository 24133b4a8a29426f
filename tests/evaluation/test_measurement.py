"""Rows, back and forth, and their means over repeats."""

import json

import pandas as pd
import pytest

from scemae_jax.evaluation.measurement import Measurement, as_table, measurements, over, select

ROWS = [
    Measurement.of(metric="IoU", method="one", value=0.5, deviation=0.1, n=7, split="test", part="skin"),
    Measurement.of(metric="IoU", method="one", value=None, n=0, split="test", part="hat", flipped=True),
    Measurement.of(metric="F1", method="two", value=1.0, split="test", stride=4),
]


def test_rows_come_back_from_json_and_from_a_table():
    lines = [json.dumps(row.row()) for row in ROWS]
    assert json.loads(lines[0]) == {
        "split": "test", "metric": "IoU", "method": "one", "part": "skin", "value": 0.5, "deviation": 0.1, "n": 7,
        "unit": "",
    }  # fmt: skip
    assert [Measurement.of(**json.loads(line)) for line in lines] == ROWS
    assert measurements(as_table(ROWS)) == ROWS
    assert len(as_table([])) == 0
    assert {"metric", "method", "value", "unit"} <= set(as_table([]).columns)


def test_selections():
    table = as_table(ROWS)
    assert list(select(table, metric="IoU", part="skin")["value"]) == [0.5]
    assert list(select(table, part=None)["metric"]) == ["F1"]
    assert list(select(table, flipped=True)["part"]) == ["hat"]
    assert len(select(table, method="three")) == len(select(table, unheard_of=1)) == 0
    assert len(select(table, unheard_of=None)) == 3


def test_means_over_repeats_with_their_sample_deviation():
    about = {"metric": "IoU", "unit": "%"}
    rows = [Measurement.of(**about, method="one", value=value, seed=seed) for seed, value in enumerate((1.0, 2.0, 6.0))]
    rows += [Measurement.of(**about, method="one", value=3.0, seed=0, part="hat")]
    rows += [Measurement.of(**about, method="none", value=None, seed=seed) for seed in (0, 1)]
    first, alone, none = measurements(over(as_table(rows), "seed"))
    assert (first.value, first.deviation, first.n, first.unit) == (
        3.0,
        pytest.approx(7**0.5),
        3,
        "%",
    )  # (4 + 1 + 9) / 2
    assert (alone.value, alone.deviation, alone.n, alone.variant) == (3.0, None, 1, {"part": "hat"})
    assert (none.value, none.n) == (None, 0)
    assert "seed" not in over(as_table(rows), "seed")
    assert isinstance(over(as_table(rows), "seed"), pd.DataFrame)
