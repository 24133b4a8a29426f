"""Tables of measurements that are no landmarks: IoU of parts, and of kinds of occluders."""

import pytest

from scemae_jax.evaluation.measurement import Measurement, as_table
from scemae_jax.report.table import Table, count_of, labels, markdown, number, print_results, tables_by_stage


def iou(method, part, value, deviation=None, **variant):
    return Measurement.of(
        metric="IoU",
        method=method,
        value=value,
        deviation=deviation,
        n=40,
        unit="%",
        part=part,
        split="test",
        **variant,
    )


ROWS = [
    iou("SPCL", "skin", 90.126, 0.5),
    iou("SPCL", "hat", 3.004),
    iou("source", "skin", 90.1249, 0.25),
    iou("source", "hat", None),
    iou("source", "skin", 1234.5, averaged=True, seeds=3),
]
TABLE = Table(title="Parsing", about="IoU in %", rows=as_table(ROWS), index=("method", "averaged", "seeds"),
              columns=("part",), best="highest")  # fmt: skip


def test_labels_say_what_tells_rows_apart():
    assert labels(TABLE.rows, ("method", "averaged", "seeds")) == [
        "SPCL", "SPCL", "source", "source", "source, averaged, 3 seeds"
    ]  # fmt: skip
    numbers = as_table([Measurement.of(metric="m", position_free=False, stride=4, tau=0.05)])
    assert labels(numbers, ("position_free", "stride", "unheard_of", "tau")) == ["stride 4, tau 0.05"]
    assert [count_of(n, things) for n, things in ((1, "queries"), (1, "pairs"), (1203, "queries"))] == [
        "1 query", "1 pair", "1,203 queries"
    ]  # fmt: skip


def test_cells_stand_where_their_labels_say_and_the_best_of_a_column_is_known():
    grid = TABLE.grid()
    assert list(grid.value.index) == ["SPCL", "source", "source, averaged, 3 seeds"]
    assert list(grid.value.columns) == ["skin", "hat"]
    assert grid.cells().to_numpy().tolist() == [["90.13 ± 0.50", "3.00"], ["90.12 ± 0.25", "–"], ["1,234.50", "–"]]
    assert grid.best.to_numpy().tolist() == [[False, True], [False, False], [True, False]]
    lowest = Table(title="", about="", rows=as_table(ROWS[:3:2]), columns=("part",), digits=1).grid()
    assert lowest.best.to_numpy().tolist() == [[True], [True]]  # alike as printed
    with pytest.raises(ValueError, match="duplicate"):
        Table(title="", about="", rows=as_table(ROWS + ROWS), columns=("part",)).grid()


def test_tables_on_the_screen_and_where_files_are(capsys):
    results = {"train": {"images_left_out": {"test": 1200, "validation": 3}}, "report": {"path": "report/index.html"}}
    print_results(results, [TABLE])
    printed = capsys.readouterr().out
    lines, text = printed.splitlines(), " ".join(printed.split())
    left_out = "train: unannotated images left out: 1,200 of people in test and 3 of people in validation"
    assert text.startswith(f"{left_out} Parsing: IoU in %")
    (row,) = [line for line in lines if "source  " in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["source", "90.12 ± 0.25", "–"]
    assert lines[-1] == "report: report/index.html"


def test_without_tables_of_its_own_a_system_has_one_for_each_stage():
    rows = [row.row(stage="parse", system="toy", dataset="d", seed=0) for row in ROWS[:3]]
    rows.append(Measurement.of(metric="steps", value=200.0).row(stage="measure", system="toy", dataset="d", seed=0))
    parse, measure = tables_by_stage({"measurements": rows})
    assert (parse.title, parse.about) == ("parse", "%, split test")
    assert parse.grid().cells().to_dict() == {"IoU": {"SPCL, skin": "90.13 ± 0.50", "SPCL, hat": "3.00",
                                                      "source, skin": "90.12 ± 0.25"}}  # fmt: skip
    assert measure.grid().cells().to_numpy().tolist() == [["200.00"]]
    assert tables_by_stage({}) == []


def test_a_stage_that_measures_two_splits_has_a_row_for_each():
    rows = [Measurement.of(metric="IoU", method="SPCL", unit="%", split=split, value=1.0).row(
        stage="measure", system="spcl", dataset="faces", seed=0) for split in ("one", "two")]  # fmt: skip
    (table,) = tables_by_stage({"measurements": rows})
    assert [name.split(", ") for name in table.grid().value.index] == [["SPCL", "one"], ["SPCL", "two"]]


def test_numbers_and_markdown():
    assert [number(-2.5, 2), number(1234.5, 1), number(float("nan")), number(None)] == ["−2.50", "1,234.5", "–", "–"]
    assert markdown(["", "a"], [["b", 1]]) == ["|  | a |", "| --- | --- |", "| b | 1 |"]
