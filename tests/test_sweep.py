"""Sweeps of the tiny experiment of test_main.py: what runs, what is shared, that the tables tell what was measured."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from scemae_jax import config as configuration
from scemae_jax import experiment, sweep
from scemae_jax.model_file import load
from scemae_jax.systems.sce_mae import stages
from scemae_jax.training import processes
from scemae_jax.training.checkpoints import newest_step, restore_part
from scemae_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
SWEEP = '''"""Temperatures of the tiny network.

And one that cannot be.
"""

SEEDS = (0, 1)



def get_sweep():
    return {"the config": {}, "cold": {"refine.temperature": 0.05}, "impossible": {"model.split_layer": 9}}
'''


def restored(directory: Path):
    """Parameters of the newest checkpoint."""
    return restore_part(directory, newest_step(directory), "params")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_dir) -> Path:
    """Holds a config and a sweep file."""
    folder = tmp_path_factory.mktemp("sweeps")
    quick = (
        "    config.match.baselines = False\n    config.stages = ('pretrain', 'refine', 'match')\n    return config\n"
    )
    text = (ROOT / "tests" / "small_experiment.py").read_text().replace("    return config\n", quick)
    text = text.replace('get_config(data_dir="")', f"get_config(data_dir={str(data_dir)!r})")
    (folder / "small.py").write_text(text)
    (folder / "sweep.py").write_text(SWEEP)
    return folder


@pytest.fixture
def tiny_config(folder):
    """`tiny_config(section__field=value)`: the config of the file, changed."""

    def change(**fields):
        scope = {}
        exec((folder / "small.py").read_text(), scope)
        config = scope["get_config"]()
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config.lock()

    return change


@pytest.fixture(scope="module")
def done(folder):
    """The command as a user types it."""
    workdir = folder / "workdir"
    command = [sys.executable, "-m", "scemae_jax.sweep", "--config", folder / "small.py", "--sweep",
               folder / "sweep.py", "--workdir", workdir]  # fmt: skip
    return workdir, subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def rows_of(workdir: Path) -> dict[tuple[str, int], dict[str, str]]:
    with (workdir / "sweep.csv").open(newline="") as file:
        return {(row["point"], int(row["seed"])): row for row in csv.DictReader(file)}


def results_of(workdir: Path, point: str, seed: int) -> dict:
    return json.loads((workdir / point / f"seed{seed}" / "results.json").read_text())


def test_a_failing_point_stops_no_other_and_is_told_at_the_end(done):
    workdir, ended = done
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: impossible")]
    assert len(lines) == 4  # two seeds, where it happens and again at the end
    assert "error: impossible/seed1: config.model.split_layer is 9: choose one from 1 to 3" in lines
    for point in ("the config", "cold"):
        for seed in (0, 1):
            assert {"refine", "match"} <= results_of(workdir, point, seed).keys()
    assert not (workdir / "impossible").exists()
    rows = rows_of(workdir)
    assert rows["impossible", 1]["error"].startswith("config.model.split_layer is 9")
    assert rows["cold", 1]["error"] == ""
    assert "- impossible/seed0: config.model.split_layer is 9" in (workdir / "sweep.md").read_text()


def test_points_share_a_stage_1_for_each_seed(done):
    workdir, _ = done
    shared = sorted((workdir / "stage1").iterdir())
    assert len(shared) == 2
    assert {json.loads((one / "config.json").read_text())["seed"] for one in shared} == {0, 1}
    for one in shared:
        metrics = [json.loads(line) for line in (one / "metrics.jsonl").open()]
        assert [(row["stage"], row["step"]) for row in metrics] == [("pretrain", 2), ("pretrain", 4)]  # trained once
    for point in ("the config", "cold"):
        for seed in (0, 1):
            assert not (workdir / point / f"seed{seed}" / "checkpoints" / "pretrain").exists()
    errors = {
        (point, seed): results_of(workdir, point, seed)["match"]["features"]["MAE only"]["different"]["error"]
        for point in ("the config", "cold")
        for seed in (0, 1)
    }
    for seed in (0, 1):
        assert errors["the config", seed] == errors["cold", seed]
    assert errors["cold", 0] != errors["cold", 1]


def test_the_shared_backbone_is_that_of_an_ordinary_run(done, tiny_config, tmp_path):
    workdir, _ = done
    config = tiny_config(stages=("pretrain",))
    experiment.run(stages.SYSTEM.open(config, tmp_path))
    ordinary = restored(tmp_path / "checkpoints" / "pretrain")
    run = sweep.plan(tiny_config(), sweep.load_sweep(workdir.parent / "sweep.py"), workdir)[0]
    shared = load(run.config.init)
    jax.tree.map(np.testing.assert_array_equal, shared.params, ordinary)  # encoder and decoder
    assert shared.provenance["images_seen"] == 4 * 8


def test_the_table_has_every_number_of_the_results(done):
    workdir, _ = done
    rows = rows_of(workdir)
    assert list(rows) == [(p, s) for s in (0, 1) for p in ("the config", "cold", "impossible")]
    assert [rows[p, 0]["refine.temperature"] for p in ("the config", "cold", "impossible")] == ["0.1", "0.05", "0.1"]
    assert rows["impossible", 0]["model.split_layer"] == "9"
    for point in ("the config", "cold"):
        for seed in (0, 1):
            match, row = results_of(workdir, point, seed)["match"], rows[point, seed]
            for prefix, form in (("match", match), ("match.all_landmarks", match["all_landmarks"])):
                for name, cases in form["features"].items():
                    for case, values in cases.items():
                        for what, value in values.items():
                            assert float(row[f"{prefix}.features.{name}.{case}.{what}"]) == value
            assert int(row["match.pairs"]) == 3


def test_the_summary_has_means_and_sample_deviations(done):
    workdir, _ = done
    lines = (workdir / "sweep.md").read_text().splitlines()
    assert lines[0] == "# Temperatures of the tiny network."
    tables = {
        count: {
            cells[0]: cells[1:]
            for line in lines[lines.index(head) + 2 : lines.index(head) + 6]
            if (cells := line.strip("| ").split(" | "))
        }
        for count in (5, 68)
        for head in [next(line for line in lines if line.startswith(f"| {count} landmarks | seeds | same |"))]
    }
    for count, table in tables.items():
        assert list(table) == ["the config", "cold", "MAE only", "own location"]
        for label, point, name in (("cold", "cold", "SCE-MAE"), ("MAE only", "cold", "MAE only")):
            forms = [results_of(workdir, point, seed)["match"] for seed in (0, 1)]
            forms = [form if count == 5 else form["all_landmarks"] for form in forms]
            expected = ["2"]
            for row in (name, f"{name}, position-free"):
                for case in ("same", "different", "different, far"):
                    a, b = (form["features"][row][case]["error"] for form in forms)
                    expected.append(f"{(a + b) / 2:.2f} ± {abs(a - b) / 2**0.5:.2f}")
            assert table[label] == expected
        assert table["own location"][4:] == ["–"] * 3
    image = np.asarray(Image.open(workdir / "sweep.png"))
    assert image[..., 3].any()  # on a transparent ground


def test_deviations_are_those_of_a_sample():
    assert sweep.mean_and_deviation([1.0, 2.0, 6.0]) == "3.00 ± 2.65"  # the root of (4 + 1 + 9) / 2
    assert sweep.mean_and_deviation([1.5]) == "1.50"
    assert sweep.mean_and_deviation([]) == "–"


def write_run(run: sweep.Run, mae: float, sce: float, again: dict[str, list[float]] | None = None) -> None:
    """Results as if the run had ended.

    Args:
      again: errors of random pairings on *different*, of 5 and of 68 landmarks, by features.
    """
    features = {"MAE only": mae, "SCE-MAE": sce, "SCE-MAE, position-free": 2 * sce}
    case_names = ("same", "different", "different, far")
    match = {
        "landmarks": 5, "pairs": 3, "clamped_queries": 2, "split": "test", "stride": 4, "unit": "px",
        "features": {name: {case: {"error": error} for case in case_names} for name, error in features.items()},
    }  # fmt: skip
    if again:
        pairings = [
            {"pairings": 5, "features": {name: {"different": {"error": both[form]}} for name, both in again.items()}}
            for form in (0, 1)
        ]
        all_landmarks = {
            "landmarks": 68,
            "clamped_queries": 7,
            "features": match["features"],
            "random_pairings": pairings[1],
        }
        match |= {"random_pairings": pairings[0], "all_landmarks": all_landmarks}
    detect = {"5": {"images": 7, "unit": "%", "methods": {"mean shape": {"error": 30.0}, "SCE-MAE": {"error": sce}}}}
    run.workdir.mkdir(parents=True)
    experiment.write_json(run.workdir / "config.json", configuration.plain(run.config))
    experiment.write_json(run.workdir / "results.json", {"match": match, "detect": detect})


def test_a_comparison_stands_once_unless_it_depends_on_the_point(tiny_config, tmp_path):
    config = tiny_config(init="xs8_ytf68", stages=("refine", "match", "detect"))
    points = {f"stride {stride}": {"match.stride": stride} for stride in (8, 4, 2)}
    runs = sweep.plan(config, sweep.Sweep(title="t", points=points), tmp_path)
    assert [run.workdir for run in runs] == [tmp_path / point for point in points]
    for run, mae, sce in zip(runs, (9.0, 7.0, 7.0), (4.0, 3.0, 2.0), strict=True):
        write_run(run, mae, sce)
    lines = sweep.Summary(runs).markdown("t", {}).splitlines()
    head = lines.index("| 5 landmarks | seeds | same | different | different, far | same, position-free | different, "
                       "position-free | different, far, position-free | detection |")  # fmt: skip
    assert lines[head + 2 :] == [
        "| stride 8 | 1 | 4.00 | 4.00 | 4.00 | 8.00 | 8.00 | 8.00 | 4.00 |",
        "| stride 4 | 1 | 3.00 | 3.00 | 3.00 | 6.00 | 6.00 | 6.00 | 3.00 |",
        "| stride 2 | 1 | 2.00 | 2.00 | 2.00 | 4.00 | 4.00 | 4.00 | 2.00 |",
        "| MAE only (stride 8) | 1 | 9.00 | 9.00 | 9.00 | – | – | – | – |",
        "| MAE only (stride 4; stride 2) | 1 | 7.00 | 7.00 | 7.00 | – | – | – | – |",
        "| mean shape | 1 | – | – | – | – | – | – | 30.00 |",
    ]
    (axes,) = sweep.Summary(runs).figure().axes
    drawn = {bars.get_label(): bars.lines[0].get_ydata().tolist() for bars in axes.containers}
    assert drawn == {"SCE-MAE": [4, 3, 2], "MAE only": [9, 7, 7], "own location": []}
    assert [label.get_text() for label in axes.get_xticklabels()] == list(points)


def rows_below(lines: list[str], head: str) -> dict[str, list[str]]:
    """The rows of the table whose header starts so, and the header under ""."""
    start = next(number for number, line in enumerate(lines) if line.startswith(head))
    end = next((number for number, line in enumerate(lines) if number > start and not line), len(lines))
    cells = [line.strip("| ").split(" | ") for line in (lines[start], *lines[start + 2 : end])]
    return {"": cells[0], **{name: row for name, *row in cells[1:]}}


def test_points_without_a_seed_in_common_are_not_merged(tiny_config, tmp_path):
    config = tiny_config(init="xs8_ytf68", stages=("refine", "match"))
    points = {"stride 8": {"match.stride": 8}, "stride 4": {"match.stride": 4}}
    runs = sweep.plan(config, sweep.Sweep(title="t", points=points, seeds=(0, 1)), tmp_path)
    measured = {(run.point, run.seed): run for run in runs}
    write_run(measured["stride 8", 0], 9.0, 4.0)
    write_run(measured["stride 4", 1], 5.0, 3.0)
    table = rows_below(sweep.Summary(runs).markdown("t", {}).splitlines(), "| 5 landmarks | seeds | same |")
    assert table["MAE only (stride 8)"][:2] == ["1", "9.00"]
    assert table["MAE only (stride 4)"][:2] == ["1", "5.00"]
    assert "MAE only" not in table


def test_the_numbers_of_another_config_are_left_out(tiny_config, tmp_path):
    def written(points, **fields):
        config = tiny_config(init="xs8_ytf68", stages=("refine", "match", "detect"), **fields)
        sweeping = sweep.Sweep(title="t", points=points)
        runs = sweep.plan(config, sweeping, tmp_path)
        for run in runs:
            if not run.workdir.exists():
                write_run(run, 9.0, 4.0)
        sweep.write_tables(runs, sweeping, tmp_path, {})
        with (tmp_path / "sweep.csv").open(newline="") as file:
            errors = {row["point"]: row.get("match.features.SCE-MAE.same.error", "") for row in csv.DictReader(file)}
        return errors, (tmp_path / "sweep.md").read_text()

    before = {"cold": {"refine.temperature": 0.05}, "warm": {"refine.temperature": 0.5}}
    assert written(before)[0] == {"cold": "4.0", "warm": "4.0"}
    changed = before | {"cold": {"refine.temperature": 0.01}}
    errors, text = written(changed)
    assert errors == {"cold": "", "warm": "4.0"}
    assert "| warm | 1 | 4.00" in text
    assert "| cold |" not in text
    assert written(before)[0] == {"cold": "4.0", "warm": "4.0"}  # which are still of these
    errors, text = written(before, refine__steps=2)  # as --config.refine.steps=2 changes all of them
    assert errors == {"cold": "", "warm": ""}
    assert "landmarks" not in text


def test_random_pairings_stand_beside_the_fixed_order(tiny_config, tmp_path):
    config = tiny_config(init="xs8_ytf68", stages=("refine", "match"))
    points = {"a": {}, "b": {"refine.temperature": 0.5}}
    runs = sweep.plan(config, sweep.Sweep(title="t", points=points, seeds=(0, 1)), tmp_path)
    for run in runs:
        if run.point == "b":
            write_run(run, 9.0, 3.0)
        else:
            again = {
                "SCE-MAE": [5.0 + 2 * run.seed, 6.0 + run.seed],
                "SCE-MAE, position-free": [7.0, 8.0],
                "MAE only": [11.0, 12.0],
            }
            write_run(run, 9.0, 4.0, again)
    lines = sweep.Summary(runs).markdown("t", {}).splitlines()
    assert "Random pairings: 5 of the same images, their mean error." in lines
    for count, clamped in ((5, 2), (68, 7)):
        pairs = (
            f"Matching of {count}: 3 pairs ({clamped} queries clamped to the window) of split test, stride 4, error in"
        )
        assert f"{pairs} px." in lines
    # 5 and 7: mean 6, deviation sqrt((1 + 1) / (2 - 1)) = 1.41; 6 and 7: 6.5 and sqrt(0.25 + 0.25) = 0.71
    expected = {5: ("6.00 ± 1.41", "7.00 ± 0.00", "11.00 ± 0.00"), 68: ("6.50 ± 0.71", "8.00 ± 0.00", "12.00 ± 0.00")}
    for count, (sce, position_free, mae) in expected.items():
        table = rows_below(lines, f"| {count} landmarks | seeds | same |")
        column = table[""].index("different, random pairings") - 1
        assert table["a"][column] == sce
        assert table["a"][table[""].index("different, random pairings, position-free") - 1] == position_free
        compared = "MAE only (a)" if count == 5 else "MAE only"  # b was not measured on 68, nor on random pairings
        assert table[compared][column] == mae
        assert table["a"][table[""].index("different") - 1] == "4.00 ± 0.00"
    table = rows_below(lines, "| 5 landmarks")
    assert table["b"][table[""].index("different, random pairings") - 1] == "–"


def test_table_4_is_measured_on_random_pairings_too(tiny_config, tmp_path):
    runs = sweep.plan(tiny_config(), sweep.load_sweep(ROOT / "configs" / "sweeps" / "table4.py"), tmp_path)
    assert {(run.point, run.config.match.random_pairings) for run in runs} == {
        ("the config", 5), ("without locality", 5), ("two crops", 5)
    }  # fmt: skip


def test_a_second_call_skips_what_has_finished(done, tiny_config, capsys):
    workdir, _ = done
    files = [path for name in ("results.json", "metrics.jsonl") for path in workdir.rglob(name)]
    before = {path: path.stat().st_mtime_ns for path in files}
    table = (workdir / "sweep.csv").read_text()
    stop_at = time.monotonic() - 1  # no time left, and none needed
    points = sweep.load_sweep(workdir.parent / "sweep.py")
    del points.points["impossible"]
    assert sweep.run_sweep(tiny_config(), points, workdir, stop_at) == {}
    assert capsys.readouterr().out.count("finished before") == 4 * 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = list(csv.DictReader(table.splitlines()))
    kept = [{**row, "model.split_layer": None} for row in rows if row["point"] != "impossible"]
    assert [{**row, "model.split_layer": None} for row in rows_of(workdir).values()] == kept


class AfterOneLook(float):
    """A time that has not come when it is first asked for, and has from then on."""

    def __init__(self):
        self.looks = 0

    def __lt__(self, _: float) -> bool:  # what `time.monotonic() > stop_at` asks
        self.looks += 1
        return self.looks > 1


def test_a_sweep_that_was_cut_off_goes_on(tiny_config, tmp_path):
    config = tiny_config(stages=("pretrain", "refine"))
    points = sweep.Sweep(title="t", points={"the config": {}, "cold": {"refine.temperature": 0.05}})
    with pytest.raises(processes.OutOfTime, match="stopped before the config; run the same command"):
        sweep.run_sweep(config, points, tmp_path, stop_at=time.monotonic() - 1)
    assert not (tmp_path / "stage1").exists()
    assert "0 of 2 runs have finished" in (tmp_path / "sweep.md").read_text()
    with pytest.raises(processes.OutOfTime, match="pretrain stopped at step 1 of 4"):
        sweep.run_sweep(config, points, tmp_path, stop_at=AfterOneLook())
    assert sweep.run_sweep(config, points, tmp_path) == {}
    assert "2 of 2 runs have finished" in (tmp_path / "sweep.md").read_text()
    (shared,) = (tmp_path / "stage1").iterdir()
    assert [row["step"] for row in read_metrics(shared)] == [1, 2, 4]  # it went on from step 1
    with (tmp_path / "sweep.csv").open(newline="") as file:
        losses = {row["point"]: float(row["refine.loss"]) for row in csv.DictReader(file)}
    assert losses == {point: experiment.read_results(tmp_path / point)["refine"]["loss"] for point in points.points}


def test_what_the_command_would_run_and_its_exit_status_without_time(
    tiny_config, folder, tmp_path, monkeypatch, capsys
):
    def command(**flags):
        given = {"CONFIG": tiny_config(), "WORKDIR": str(tmp_path / "w"), "SWEEP": str(folder / "sweep.py")}
        given |= {"SEEDS": None} | flags
        for name, value in given.items():
            monkeypatch.setattr(sweep, name, SimpleNamespace(value=value))
        sweep.main()

    command(DRY_RUN=True, STOP_AFTER=None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 2
    assert lines[1].startswith(f"{tmp_path}/w/cold/seed0: refine.temperature=0.05; stage 1 in {tmp_path}/w/stage1/")
    assert lines[1].endswith(", refine, match")
    assert not (tmp_path / "w").exists()

    command(DRY_RUN=True, STOP_AFTER=None, SEEDS=["7"])
    folders = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert folders == [f"{tmp_path}/w/{point}/seed7" for point in ("the config", "cold", "impossible")]

    with pytest.raises(SystemExit) as ended:
        command(DRY_RUN=False, STOP_AFTER=0.0)
    assert ended.value.code == 75
    assert "stopped before the config/seed0; run the same command to go on" in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["1", "1"], ["1", "01"], ["0", "-1"], ["x"]])
def test_seeds_that_are_none(given):
    with pytest.raises(ValueError, match=re.escape(f"--seeds={','.join(given)}: whole numbers, each once")):
        sweep.parse_seeds(given)


def test_the_seeds_are_those_of_stage_2_where_a_backbone_is_given(tiny_config, tmp_path):
    config = tiny_config(init="xs8_ytf68", stages=("refine", "match"))
    points = sweep.Sweep(title="t", points={"a": {}, "b": {"refine.steps": 2}}, seeds=(3, 4))
    runs = sweep.plan(config, points, tmp_path)
    assert [(run.point, run.config.seed, run.config.refine.steps) for run in runs] == [
        ("a", 3, 3), ("b", 3, 2), ("a", 4, 3), ("b", 4, 2)
    ]  # fmt: skip
    assert all(run.stage1 is None and run.config.init == "xs8_ytf68" for run in runs)
    assert (config.seed, config.refine.steps) == (0, 3)


@pytest.mark.parametrize(
    ("fields", "shared"),
    [
        ({"refine.temperature": 0.2}, True),
        ({"model.split_layer": 1, "model.num_clusters": 0, "model.projection": 8, "match.stride": 4}, True),
        ({"model.mask_ratio": 0.5}, False),
        ({"model.decoder_width": 16}, False),
        ({"pretrain.augment.flip": False}, False),
        ({"data.normalisation": "faces"}, False),
        ({"dtype": "bfloat16"}, False),
        ({"init": "xs8_ytf68"}, False),
    ],
)
def test_a_stage_1_is_shared_unless_the_point_changes_it(tiny_config, tmp_path, fields, shared):
    runs = sweep.plan(tiny_config(), sweep.Sweep(title="t", points={"a": {}, "b": fields}), tmp_path)
    assert (runs[0].stage1_workdir == runs[1].stage1_workdir) is shared
    assert all(run.config.stages == ("refine", "match") and run.stage1.stages == ("pretrain",) for run in runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("points = 1", "has no get_sweep"),
        ("def get_sweep(): return {}", "gives no points"),
        ("def get_sweep(): return {'a/b': {}}", "a point is called 'a/b', and its folder would be too"),
        ("def get_sweep(): return {'stage1': {}}", "a point is called 'stage1'"),
        ("def get_sweep(): return {'a': {'refine.temprature': 1.0}}", "point 'a' sets 'refine.temprature', which the"),
        ("def get_sweep(): return {'a': {'refine': 1.0}}", "point 'a' sets 'refine', which the config does not"),
        ("def get_sweep(): return {'a': {'refine.steps': 1.5}}", "point 'a' sets 'refine.steps' to 1.5: "),
    ],
)
def test_mistakes_in_a_sweep_file_are_told_before_anything_runs(tiny_config, tmp_path, text, message):
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        sweep.run_sweep(tiny_config(), sweep.load_sweep(tmp_path / "wrong.py"), tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def test_no_sweep_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file: name one of configs/sweeps"):
        sweep.load_sweep(tmp_path / "none.py")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", ["tiny", "t8", "s8"])
def test_the_sweeps_that_come_with_the_project_fit_small_and_large_networks(path, size, tmp_path):
    scope = {}
    exec((ROOT / "configs" / "ytf68.py").read_text(), scope)
    points = sweep.load_sweep(path)
    assert points.title.endswith(".")
    runs = sweep.plan(scope["get_config"](size), points, tmp_path)
    assert len(runs) == len(points.points) * max(1, len(points.seeds))
    for run in runs:
        stages.SYSTEM.check_config(run.config)
    assert len({configuration.config_hash(run.config) for run in runs}) == len(runs)
    assert len({run.stage1_workdir for run in runs}) == max(1, len(points.seeds))
