"""launch/reproduce.sh as a user calls it: its plan, and on miniature datasets all of it, with a tiny network."""

import csv
import dataclasses
import json
import math
import os
import re
import runpy
import shlex
import shutil
import statistics
import subprocess
from pathlib import Path
from types import SimpleNamespace

import miniature_trees
import pytest

from scemae_jax import config as configuration
from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.systems.sce_mae import paper

ROOT = Path(__file__).parents[1]
DATASETS = ["celeba_landmarks", "mafl", "aflw_m", "aflw_r", "three_hundred_w"]


def reproduce(*arguments) -> subprocess.CompletedProcess:
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("the script would install .venv, which launch/test.sh makes")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = ["bash", ROOT / "launch" / "reproduce.sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def commands(output: str) -> list[list[str]]:
    lines = [shlex.split(line) for line in output.splitlines() if line.startswith(".venv/bin/python")]
    return [line[2:] for line in lines]


def flag(command: list[str], name: str) -> str:
    """The value of `--name value` or `--name=value`."""
    (place,) = [number for number, word in enumerate(command) if word == name or word.startswith(f"{name}=")]
    return command[place].partition("=")[2] or command[place + 1]


def test_a_dry_run_tells_the_whole_plan_in_order_and_runs_nothing(tmp_path):
    data, runs = tmp_path / "data", tmp_path / "runs"
    miniature_trees.aflw_m(data)
    ended = reproduce("--dry-run", "--backbone", "b8", "--data", f"{tmp_path}/./data/", "--runs", runs)
    assert ended.returncode == 0, ended.stderr
    plan = commands(ended.stdout)
    assert [flag(command, "--dataset") for command in plan[:5]] == DATASETS
    assert {flag(command, "--manual_dir") for command in plan[:5]} == {str(data.resolve())}  # one spelling a folder
    configs = [flag(command, "--config") for command in plan[5:12]]
    measured = ["mafl", "aflw_m", "aflw_m", "aflw_r", "three_hundred_w"]  # few annotations, then all
    assert configs == ["configs/celeba.py:b8", *(f"configs/evaluation.py:b8,{name}" for name in measured),
                       "configs/ablation.py:b8"]  # fmt: skip
    modules = (
        ["scemae_jax.prepare"] * 5 + ["scemae_jax.main"] * 6 + ["scemae_jax.sweep", "scemae_jax.systems.sce_mae.paper"]
    )
    assert [command[0] for command in plan] == modules
    model = Path(flag(plan[5], "--workdir")) / "export" / "scemae.msgpack"
    assert flag(plan[5], "--config.stages") == "('pretrain','refine','export')"
    assert {flag(command, "--config.init") for command in plan[6:12]} == {str(model)}
    assert len({flag(command, "--workdir") for command in plan[5:12]}) == 6
    assert flag(plan[7], "--config.stages") == "('few_shot',)"
    assert re.findall(r"estimate: ([\d.]+) h", ended.stdout)[5] == "7"
    skipped = re.findall(r"skipped: (\w+) was not found", ended.stdout)
    assert skipped == ["celeba_landmarks", *DATASETS[1:2], *DATASETS[3:], *["celeba_landmarks"] * 7]
    assert not runs.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "l8"], "--backbone l8: choose t8, s8 or b8"),
        (["--data", "/not/there"], "--data /not/there is not a folder"),
        (["--data"], "--data needs a value"),
        (["--fast"], "not understood: --fast"),
    ],
)
def test_what_is_not_understood_is_said(arguments, message):
    ended = reproduce(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> SimpleNamespace:
    """A smoke run on miniatures of all datasets."""
    folder = tmp_path_factory.mktemp("reproduced")
    for tree in (miniature_trees.celeba, miniature_trees.aflw_m, miniature_trees.aflw_r,
                 miniature_trees.three_hundred_w):  # fmt: skip
        tree(folder / "data")
    arguments = ["--smoke", "--data", folder / "data", "--runs", folder / "runs"]
    ended = reproduce(*arguments)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return SimpleNamespace(data=folder / "data", runs=folder / "runs", arguments=arguments)


def our_rows(runs: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (runs / "tables.csv").open() as file:
        return {(row["table"], row["method"], row["column"]): row for row in csv.DictReader(file)
                if row["source"] == "ours"}  # fmt: skip


def results(runs: Path, name: str) -> dict:
    return json.loads((runs / name / "results.json").read_text())


def rows(runs: Path, name: str):
    return as_table(results(runs, name)["measurements"])


@pytest.mark.slow
@pytest.mark.timeout(600)  # all of the paper in small, in a dozen processes
def test_every_table_has_our_numbers_as_the_runs_have_them(reproduced):
    ours, runs = our_rows(reproduced.runs), reproduced.runs
    fixed = {"method": "SCE-MAE", "position_free": None, "random_pairings": None}
    matched = select(rows(runs, "mafl_s8"), stage="match", metric="matching error", **fixed)
    expected = {("1", "SCE-MAE", case): select(matched, case=case) for case in ("same", "different")}
    sets = {"MAFL": ("mafl", 5), "AFLW_M": ("aflw_m", 5), "AFLW_RO": ("aflw_r", 5),
            "300-W": ("three_hundred_w", 68)}  # fmt: skip
    for column, (name, landmarks) in sets.items():
        assert results(runs, f"{name}_s8")["detect"]["head"] == "heatmaps"  # the paper's, however few images there are
        detected = select(rows(runs, f"{name}_s8"), stage="detect", method="SCE-MAE", landmarks=landmarks)
        expected["2", "SCE-MAE", column] = detected
    few = select(rows(runs, "aflw_m_s8"), stage="few_shot", method="SCE-MAE", head="prior work's head", landmarks=5)
    for count in (1, 5):
        key = ("3", "SCE-MAE, prior work's head", str(count))
        expected[key] = select(few, annotated_images=count)
        assert float(ours[key]["deviation"]) == expected[key]["deviation"].item()
    for key, found in expected.items():
        assert math.isfinite(found["value"].item())
        assert float(ours[key]["error"]) == found["value"].item()

    seeds = [rows(runs, f"table4_s8/{paper.CONFIG_POINT}/seed{seed}") for seed in range(3)]
    for name, method in paper.ABLATED.items():
        for case in ("same", "different"):
            fields = fixed | {"method": name, "case": case, "landmarks": 5, "metric": "matching error"}
            errors = [select(seed, **fields)["value"].item() for seed in seeds]
            row = ours["4", method, case]
            assert float(row["error"]) == pytest.approx(statistics.mean(errors), rel=1e-12)
            assert float(row["deviation"]) == pytest.approx(statistics.stdev(errors), abs=1e-12)
    assert ours["2", "SCE-MAE", "AFLW_RC"]["note"] == "not released"
    assert "**Smoke: a test of the path, not a result.** DeiT-S is XXS/8 here" in (runs / "tables.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_call_does_nothing_anew_and_says_what_is_gone(reproduced):
    runs = reproduced.runs
    shutil.rmtree(reproduced.data / "data" / "aflw")  # as if AFLW_R had never been there
    shutil.rmtree(runs / "prepared" / "aflw_r")
    shutil.rmtree(runs / "aflw_r_s8")
    results_before = {path: path.read_bytes() for path in runs.rglob("results.json")}
    written = {path: path.stat().st_mtime_ns for kind in ("*.msgpack", "*.array_record*") for path in runs.rglob(kind)}
    assert len(written) >= 8
    tables = our_rows(runs)
    ended = reproduce(*reproduced.arguments)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "finished in" not in ended.stdout
    assert ended.stdout.count("skipped: aflw_r was not found") == 2  # to prepare, and to measure
    assert {path: path.read_bytes() for path in runs.rglob("results.json")} == results_before
    assert {path: path.stat().st_mtime_ns for path in written} == written
    gone = {key for key, row in our_rows(runs).items() if row["note"] == "no data: aflw_r was not found"}
    assert gone == {("2", "SCE-MAE", "AFLW_RO"), ("2", "mean shape", "AFLW_RO")}
    assert {key: row for key, row in our_rows(runs).items() if key not in gone} == {
        key: row for key, row in tables.items() if key not in gone
    }


def load(name: str, argument: str):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](argument)


@pytest.mark.parametrize("size", ["t8", "s8", "b8"])
def test_what_measures_a_backbone_has_the_network_of_what_trains_it(size):
    trained = configuration.architecture(load("celeba", size))
    assert trained.carb.attentive_fraction == {"t8": 0.1, "s8": 0.1, "b8": 0.25}[size]
    assert trained.carb.projection == {"t8": 64, "s8": 128, "b8": 256}[size]
    for name, what in [("evaluation", f"{size},{dataset}") for dataset in DATASETS[1:]] + [("ablation", size)]:
        config = load(name, what)
        configuration.check(config)
        network = configuration.architecture(config)
        backbone = dataclasses.replace(network.backbone, dtype=trained.backbone.dtype)
        assert dataclasses.replace(network, backbone=backbone) == trained


def test_measurements_follow_the_protocols():
    epochs = {"mafl": 120, "aflw_m": 45, "aflw_r": 45, "three_hundred_w": 80}
    for dataset in DATASETS[1:]:
        config = load("evaluation", f"s8,{dataset}")
        detect = config.detect
        assert (96 // detect.stride, detect.heatmaps, detect.kernel_size, detect.batch_size) == (48, 50, 3, 32)
        assert (detect.learning_rate, detect.weight_decay, detect.betas) == (1e-3, 5e-4, (0.5, 0.999))
        assert (detect.epochs, detect.cosine_epochs) == (epochs[dataset], 200)
        assert (detect.which, detect.mirror) == ("both", False)
        assert (config.data.train_splits, config.data.test_split) == (("train", "validation"), "test")
        assert detect.landmarks == ((68,) if dataset == "three_hundred_w" else (5,))
    few = load("evaluation", "s8,aflw_m").few_shot
    assert (few.counts, few.learning_rate, few.weight_decay, few.epochs) == ((1, 5, 10, 20, 50, 100), 1e-2, 5e-2, 1000)
    with pytest.raises(ValueError, match="unknown dataset 'faces' in 's8,faces': size,dataset with one of mafl"):
        load("evaluation", "s8,faces")
    with pytest.raises(ValueError, match="unknown size 'x8': choose one of t8, s8, b8"):
        load("ablation", "x8")
