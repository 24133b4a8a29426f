"""Tables of several runs, against means and deviations by hand."""

import json
import subprocess
import sys

import pytest

from scemae_jax import compare
from scemae_jax.config import plain
from scemae_jax.systems.spcl import settings


def write_run(workdir, seed, values, **fields):
    """A finished run whose methods have these mean IoU in the set `real`."""
    config = settings.default()
    config.seed = seed
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    about = {"stage": "measure", "system": "spcl", "dataset": "landmark_folder", "seed": seed, "split": "real",
             "metric": "mean IoU", "grouping": "all", "deviation": 9.0, "n": 285, "unit": "%"}  # fmt: skip
    rows = [{**about, "method": method, "value": value} for method, value in values.items()]
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(plain(config)))
    (workdir / "results.json").write_text(json.dumps({"measurements": rows}))
    return workdir


def test_rows_are_means_over_seeds_by_name_and_method(tmp_path):
    ours = [
        write_run(tmp_path / f"spcl{seed}", seed, {"source": 40.0, "adapt": value})
        for seed, value in ((0, 44.0), (1, 46.0))
    ]
    oracle = [write_run(tmp_path / "oracle", 0, {"adapt": 54.0}, adapt__labels="masks", data__dataset="mask_folder")]
    (table,) = compare.compared({"spcl": ours, "oracle": oracle})
    cells = table.grid().cells()["real, all"].to_dict()
    # 44 and 46: mean 45, deviation sqrt((1 + 1) / (2 - 1)) = 1.4
    assert cells == {"spcl, source": "40.0 ± 0.0", "spcl, adapt": "45.0 ± 1.4", "oracle, adapt": "54.0"}
    text = compare.as_markdown([table])
    assert "| spcl, adapt | 2 | 45.0 ± 1.4 |" in text
    assert "| oracle, adapt | 1 | 54.0 |" in text


def test_runs_that_are_not_one_row_are_refused(tmp_path):
    one = write_run(tmp_path / "a", 0, {"adapt": 1.0})
    other = write_run(tmp_path / "b", 1, {"adapt": 2.0}, adapt__teacher_decay=0.5)
    with pytest.raises(ValueError, match=r"differ in more than the seed.*\n.*config\.adapt\.teacher_decay"):
        compare.compared({"spcl": [one, other]})
    again = write_run(tmp_path / "c", 0, {"adapt": 2.0})
    with pytest.raises(ValueError, match="have the seed 0: name one of them"):
        compare.compared({"spcl": [one, again]})
    with pytest.raises(FileNotFoundError, match="name the workdir of a run"):
        compare.compared({"spcl": [tmp_path / "nothing"]})


@pytest.mark.parametrize(
    ("given", "message"),
    [(["runs/a"], "write NAME=WORKDIR"), (["=a"], "write NAME"), (["a=b", "a=c"], "names 'a' twice")],
)
def test_a_mistake_of_the_flag_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        compare.parse(given)


def test_the_program_prints_the_tables(tmp_path):
    workdir = write_run(tmp_path / "run", 0, {"source": 40.0})
    command = [sys.executable, "-m", "scemae_jax.compare", f"--run=mine={workdir}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| mine, source | 1 | 40.0 |" in ended.stdout
