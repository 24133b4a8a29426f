"""Sweeps of the tiny experiment of test_main.py: what runs, what is shared, that the tables tell what was measured."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scemae_jax import config as configuration
from scemae_jax import experiment, sweep
from scemae_jax.evaluation.measurement import Measurement, as_table, select
from scemae_jax.model_file import load
from scemae_jax.systems.sce_mae import stages
from scemae_jax.systems.spcl import settings as spcl_settings
from scemae_jax.training import processes
from scemae_jax.training.checkpoints import newest_step, restore_part
from scemae_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
SWEEP = '''"""Temperatures of the tiny network.

And one that cannot be.
"""

SEEDS = (0,)



def get_sweep():
    return {"the config": {}, "cold": {"refine.temperature": 0.05}, "impossible": {"model.split_layer": 9}}
'''


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


class AfterOneLook(float):
    """A time that has not come when it is first asked for, and has from then on."""

    def __init__(self):
        self.looks = 0

    def __lt__(self, _: float) -> bool:  # what `time.monotonic() > stop_at` asks
        self.looks += 1
        return self.looks > 1


@pytest.fixture(scope="module")
def done(folder):
    """The workdir of a sweep that was cut off twice and has ended, and what failed."""
    scope, workdir = {}, folder / "workdir"
    exec((folder / "small.py").read_text(), scope)
    config, points = scope["get_config"]().lock(), sweep.load_sweep(folder / "sweep.py")
    with pytest.raises(processes.OutOfTime, match="stopped before the config/seed0; run the same command"):
        sweep.run_sweep(config, points, workdir, stop_at=time.monotonic() - 1)
    assert not (workdir / "stage1").exists()
    assert "0 of 3 runs have finished" in (workdir / "sweep.md").read_text()
    with pytest.raises(processes.OutOfTime, match="pretrain stopped at step 1 of 4"):
        sweep.run_sweep(config, points, workdir, stop_at=AfterOneLook())
    return workdir, sweep.run_sweep(config, points, workdir)


def results_of(workdir: Path, point: str) -> dict:
    return experiment.read_results(workdir / point / "seed0")


def table_below(text: str, title: str) -> dict[str, list[str]]:
    """The cells of the table below a heading by their first, and the head under ""."""
    lines = text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return {name: row for name, *row in (cells[0], *cells[2:])}


def test_a_failing_point_stops_no_other_and_is_told(done):
    workdir, failures = done
    why = "config.model.split_layer is 9: choose one from 1 to 3"
    assert failures == {"impossible/seed0": why}
    for point in ("the config", "cold"):
        assert {"refine", "match"} <= results_of(workdir, point).keys()
    assert not (workdir / "impossible").exists()
    rows = pd.read_csv(workdir / "sweep.csv")
    assert select(rows, point="impossible", seed=0)["error"].tolist() == [why]
    assert select(rows, point="cold", seed=0)["error"].isna().all()
    text = (workdir / "sweep.md").read_text()
    assert f"- impossible/seed0: {why}" in text
    assert "2 of 3 runs have finished" in text


def test_points_share_a_stage_1(done, tiny_config, tmp_path):
    workdir, _ = done
    (shared,) = (workdir / "stage1").iterdir()
    assert [row["step"] for row in read_metrics(shared)] == [1, 2, 4]  # it was cut off at step 1 and went on
    assert not list(workdir.glob("*/seed*/checkpoints/pretrain"))
    config = tiny_config(stages=("pretrain",))  # the shared backbone is that of an ordinary run
    experiment.run(stages.SYSTEM.open(config, tmp_path))
    run = sweep.plan(tiny_config(), sweep.load_sweep(workdir.parent / "sweep.py"), workdir)[0]
    shared = load(run.config.init)
    directory = tmp_path / "checkpoints" / "pretrain"
    ordinary = restore_part(directory, newest_step(directory), "params")
    jax.tree.map(np.testing.assert_array_equal, shared.params, ordinary)  # encoder and decoder
    assert shared.provenance["images_seen"] == 4 * 8


def test_the_csv_has_every_number_of_the_results(done):
    workdir, _ = done
    rows = pd.read_csv(workdir / "sweep.csv")
    fields = rows.groupby("point")[["refine.temperature", "model.split_layer"]].first().to_dict("index")
    assert {point: values["refine.temperature"] for point, values in fields.items()} == {
        "the config": 0.1, "cold": 0.05, "impossible": 0.1
    }  # fmt: skip
    assert fields["impossible"]["model.split_layer"] == 9
    for point in ("the config", "cold"):
        results, found = results_of(workdir, point), rows[rows["point"] == point]
        for row in results["measurements"]:
            same = {name: value for name, value in row.items() if value not in (None, "")}
            matching = found[np.logical_and.reduce([found[name] == value for name, value in same.items()])]
            assert len(matching) >= 1, row
        facts = found[found["stage"].eq("match") & found["metric"].eq("pairs")]
        assert facts["value"].tolist() == [2]
        loss = found[found["stage"].eq("refine") & found["metric"].eq("loss")]
        assert loss["value"].tolist() == [results["refine"]["loss"]]


def test_the_summary_has_what_was_measured(done):
    workdir, _ = done
    text = (workdir / "sweep.md").read_text()
    assert text.startswith("# Temperatures of the tiny network.")
    assert re.search(r"2 pairs \(\d+ quer(y|ies) clamped to the window\) of split test, stride 8\.", text)
    rows = as_table(results_of(workdir, "cold")["measurements"])
    assert rows["value"].tolist() != as_table(results_of(workdir, "the config")["measurements"])["value"].tolist()
    for landmarks in (5, 68):
        table = table_below(text, f"Landmark matching, {landmarks} landmarks")
        assert list(table) == ["", "the config", "cold", "own location", "MAE only"]
        assert table[""][:4] == ["seeds", "same", "different", "different, far"]
        assert table[""][4:] == [f"{case}, position-free" for case in table[""][1:4]]
        for name, method in (("cold", "SCE-MAE"), ("MAE only", "MAE only")):
            fields = {"metric": "matching error", "method": method, "landmarks": landmarks}
            expected = ["1"] + [
                f"{select(rows, case=case, position_free=free, **fields)['value'].item():.2f}"
                for free in (None, True)
                for case in ("same", "different", "different, far")
            ]
            assert table[name] == expected
        assert table["own location"][4:] == ["–"] * 3
    image = np.asarray(Image.open(workdir / "sweep.png"))
    assert image[..., 3].any()  # on a transparent ground


def write_run(run: sweep.Run, mae: float, sce: float, again: float | None = None) -> None:
    """Results as if the run had ended; `again`: the error of random pairings on *different*."""
    cases = ("same", "different", "different, far")
    values = [
        (method, {"case": case}, value) for method, value in (("MAE only", mae), ("SCE-MAE", sce)) for case in cases
    ]
    values += [("SCE-MAE", {"case": case, "position_free": True}, 2 * sce) for case in cases]
    values += [("SCE-MAE", {"case": "different", "random_pairings": 5}, again)] if again else []
    about = {"landmarks": 5, "split": "test"}
    rows = [
        Measurement.of(metric="matching error", unit="px", method=method, value=value, **fields, **about).row(
            stage="match"
        )
        for method, fields, value in values
    ] + [
        Measurement.of(metric="detection error", unit="%", method=method, value=value, **about).row(stage="detect")
        for method, value in (("mean shape", 30.0), ("SCE-MAE", sce))
    ]
    facts = {"split": "test", "pairs": 3, "pairs_of_one_person": 0, "stride": 4, "images": 7, "annotated_images": 9}
    run.workdir.mkdir(parents=True)
    experiment.write_json(run.workdir / "config.json", configuration.plain(run.config))
    experiment.write_json(run.workdir / "results.json", {"match": facts, "detect": facts, "measurements": rows})


def test_a_comparison_stands_once_unless_it_depends_on_the_point(tiny_config, tmp_path):
    config = tiny_config(init="xs8_ytf68", stages=("refine", "match", "detect"))
    points = {f"stride {stride}": {"match.stride": stride} for stride in (8, 4, 2)}
    runs = sweep.plan(config, sweep.Sweep(title="t", points=points), tmp_path)
    assert [run.workdir for run in runs] == [tmp_path / point for point in points]
    for run, mae, sce in zip(runs, (9.0, 7.0, 7.0), (4.0, 3.0, 2.0), strict=True):
        write_run(run, mae, sce)
    summary = sweep.Summary(runs)
    text = summary.markdown("t", {})
    assert table_below(text, "Landmark matching, 5 landmarks") == {
        "": ["seeds", "same", "different", "different, far", "same, position-free", "different, position-free",
             "different, far, position-free"],
        "stride 8": ["1", "4.00", "4.00", "4.00", "8.00", "8.00", "8.00"],
        "stride 4": ["1", "3.00", "3.00", "3.00", "6.00", "6.00", "6.00"],
        "stride 2": ["1", "2.00", "2.00", "2.00", "4.00", "4.00", "4.00"],
        "MAE only (stride 8)": ["1", "9.00", "9.00", "9.00", "–", "–", "–"],
        "MAE only (stride 4; stride 2)": ["1", "7.00", "7.00", "7.00", "–", "–", "–"],
    }  # fmt: skip
    detected = table_below(text, "Landmark detection")
    assert (detected["stride 2"], detected["mean shape"]) == (["1", "2.00"], ["1", "30.00"])
    matching, detection = summary.figure().axes
    drawn = {bars.get_label(): bars.lines[0].get_ydata().tolist() for bars in matching.containers}
    assert drawn == {"SCE-MAE": [4, 3, 2], "MAE only": [9, 7, 7]}
    assert [label.get_text() for label in matching.get_xticklabels()] == list(points)
    assert (matching.get_title("left"), matching.get_ylabel()) == ("5 landmarks matched across people", "px")
    assert detection.get_title("left") == "5 landmarks detected"


def test_points_without_a_seed_in_common_are_not_merged(tiny_config, tmp_path):
    config = tiny_config(init="xs8_ytf68", stages=("refine", "match"))
    points = {"stride 8": {"match.stride": 8}, "stride 4": {"match.stride": 4}}
    runs = sweep.plan(config, sweep.Sweep(title="t", points=points, seeds=(0, 1)), tmp_path)
    found = {(run.point, run.seed): run for run in runs}
    write_run(found["stride 8", 0], 9.0, 4.0)
    write_run(found["stride 4", 1], 5.0, 3.0)
    table = table_below(sweep.Summary(runs).markdown("t", {}), "Landmark matching, 5 landmarks")
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
        text = (tmp_path / "sweep.csv").read_text().strip()
        return set(pd.read_csv(tmp_path / "sweep.csv")["point"]) if text else set(), (tmp_path / "sweep.md").read_text()

    before = {"cold": {"refine.temperature": 0.05}, "warm": {"refine.temperature": 0.5}}
    assert written(before)[0] == {"cold", "warm"}
    there, text = written(before | {"cold": {"refine.temperature": 0.01}})
    assert there == {"warm"}
    assert "| warm | 1 | 4.00" in text
    assert "| cold |" not in text
    assert written(before)[0] == {"cold", "warm"}  # which are still of these
    there, text = written(before, refine__steps=2)  # as --config.refine.steps=2 changes all of them
    assert there == set()
    assert "landmarks" not in text


def test_means_and_sample_deviations_of_seeds_and_random_pairings_stand_beside_the_fixed_order(tiny_config, tmp_path):
    config = tiny_config(init="xs8_ytf68", stages=("refine", "match"))
    points = {"a": {}, "b": {"refine.temperature": 0.5}}
    runs = sweep.plan(config, sweep.Sweep(title="t", points=points, seeds=(0, 1)), tmp_path)
    for run in runs:
        write_run(run, 9.0, 4.0, 5.0 + 2 * run.seed if run.point == "a" else None)
    table = table_below(sweep.Summary(runs).markdown("t", {}), "Landmark matching, 5 landmarks")
    column = table[""].index("different, 5 random pairings")
    # 5 and 7: mean 6, deviation sqrt((1 + 1) / (2 - 1)) = 1.41
    assert (table["a"][column], table["b"][column]) == ("6.00 ± 1.41", "–")
    assert table["a"][table[""].index("different")] == "4.00 ± 0.00"
    assert table["a"][0] == "2"


def test_table_4_is_measured_on_random_pairings_too(tiny_config, tmp_path):
    runs = sweep.plan(tiny_config(), sweep.load_sweep(ROOT / "configs" / "sweeps" / "table4.py"), tmp_path)
    assert {(run.point, run.config.match.random_pairings) for run in runs} == {
        ("the config", 5), ("without locality", 5), ("two crops", 5)
    }  # fmt: skip


def test_a_second_call_skips_what_has_finished(done, tiny_config, capsys):
    workdir, _ = done
    files = [path for name in ("results.json", "metrics.jsonl") for path in workdir.rglob(name)]
    before = {path: path.stat().st_mtime_ns for path in files}
    rows = pd.read_csv(workdir / "sweep.csv")
    stop_at = time.monotonic() - 1  # no time left, and none needed
    points = sweep.load_sweep(workdir.parent / "sweep.py")
    del points.points["impossible"]
    assert sweep.run_sweep(tiny_config(), points, workdir, stop_at) == {}
    assert capsys.readouterr().out.count("finished before") == 2 * 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    kept = rows[rows["point"] != "impossible"].drop(columns=["model.split_layer", "error"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(workdir / "sweep.csv"), kept, check_dtype=False)


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
    assert len(lines) == 3
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


def test_points_of_another_system_are_ordinary_runs(tmp_path):
    config = spcl_settings.default()
    points = sweep.Sweep(title="t", points={"a": {}, "b": {"adapt.contrast.weight": 0.0}}, seeds=(0, 1))
    runs = sweep.plan(config, points, tmp_path)
    assert [(run.point, run.seed, run.stage1) for run in runs] == [
        ("a", 0, None), ("b", 0, None), ("a", 1, None), ("b", 1, None),
    ]  # fmt: skip
    assert runs[1].config.adapt.contrast.weight == 0
    assert sweep.Summary(runs).tables == []  # nothing has run
