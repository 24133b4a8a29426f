"""The command line and its stages, with a network and a dataset so small that a run takes seconds."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import silhouette_score

import scemae_jax
from scemae_jax import command_line, experiment
from scemae_jax import config as configuration
from scemae_jax.data.record import Faces
from scemae_jax.evaluation import matching
from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.evaluation.representation import Embedded
from scemae_jax.model_file import save_model
from scemae_jax.report.table import labels
from scemae_jax.systems.sce_mae import stages
from scemae_jax.systems.sce_mae.networks import SceMae
from scemae_jax.training.checkpoints import newest_step, restore_part
from scemae_jax.training.metrics import read_metrics


@pytest.fixture(scope="module")
def finished(run, small_config, tmp_path_factory) -> SimpleNamespace:
    """A run of all six stages, for tests that look at it or go on from its export: workdir, out, results."""
    workdir, said = tmp_path_factory.mktemp("finished"), io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run(small_config(), workdir) == 0
    return SimpleNamespace(workdir=workdir, out=said.getvalue(), results=experiment.read_results(workdir))


def test_all_stages_leave_their_files_and_results(finished, small_config):
    for name in ("own location", "SCE-MAE", "mean shape"):
        assert name in finished.out  # of the table at the end
    config = small_config()
    for path in ("config.json", "metrics.jsonl", "report/index.html", "export/scemae.msgpack",
                 "export/scemae.stablehlo", "checkpoints/pretrain/4", "checkpoints/refine/3", "detectors/5.msgpack",
                 "tensorboard/pretrain"):  # fmt: skip
        assert (finished.workdir / path).exists(), path
    assert json.loads((finished.workdir / "config.json").read_text()) == configuration.plain(config)

    results = finished.results
    assert results["config_hash"] == configuration.config_hash(config)
    assert (results["seed"], results["dataset"], results["encoder"]) == (0, "synthetic_faces", "XXS/8")
    assert (results["pretrain"]["images_seen"], results["pretrain"]["images"]) == (4 * 8, 120)
    assert results["refine"]["images_seen"] == 3 * 8
    assert np.isfinite([results["pretrain"]["loss"], results["refine"]["loss"]]).all()
    match, detect = results["match"], results["detect"]
    assert (match["pairs"], match["split"]) == (2, "test")
    assert (detect["images"], detect["annotated_images"]) == (40, 120)
    rows = as_table(results["measurements"])
    assert {tuple(row) for row in rows[["system", "dataset", "seed"]].to_numpy()} == {("sce_mae", "synthetic_faces", 0)}
    matched = select(rows, metric="matching error", landmarks=5)
    assert list(dict.fromkeys(labels(matched, ("method", "position_free")))) == [
        "own location", "raw patches", "untrained", "MAE only", "MAE only, position-free", "SCE-MAE",
        "SCE-MAE, position-free",
    ]  # fmt: skip
    assert select(matched, case="different")["n"].nunique() == 1
    same = select(matched, case="same").set_index("method")["value"]
    assert same["raw patches"] < same["own location"]
    assert list(select(rows, stage="detect")["method"]) == ["mean shape", "SCE-MAE"]
    assert list(select(rows, stage="refine")["method"]) == ["attentive patches", "all patches"]
    steps = [(row["stage"], row["step"]) for row in map(json.loads, (finished.workdir / "metrics.jsonl").open())]
    assert steps == [("pretrain", 2), ("pretrain", 4), ("refine", 3), ("detect_5", 3)]


def test_the_export_opens_with_all_that_was_trained(finished):
    model = scemae_jax.load(finished.workdir / finished.results["export"]["path"])
    images = np.random.default_rng(0).integers(0, 256, (2, 136, 136, 3)).astype(np.uint8)
    assert model.features(images, stride=4, which="projected").shape == (2, 24, 24, 32)
    assert model.detect(images).shape == (2, 5, 2)
    assert model.provenance["config_hash"] == finished.results["config_hash"]
    assert model.provenance["images_seen"] == 4 * 8 + 3 * 8
    assert finished.results["export"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(model.params))


def test_a_second_run_skips_what_has_finished(run, finished, small_config, capsys):
    before = (finished.workdir / "results.json").read_bytes()
    assert run(small_config(), finished.workdir) == 0
    out = capsys.readouterr().out
    assert out.count("finished before") == 6
    assert "finished in" not in out
    assert (finished.workdir / "results.json").read_bytes() == before


def test_a_used_workdir_refuses_another_config(run, finished, small_config, capsys):
    assert run(small_config(seed=1, refine__temperature=0.2), finished.workdir) == 1
    err = capsys.readouterr().err
    assert "\n  config.refine.temperature: 0.1 there, 0.2 now\n  config.seed: 0 there, 1 now\n" in err
    assert "Traceback" not in err


def test_what_ran_before_is_outdated_by_a_stage_it_builds_on():
    def outdated(finished, wanted):
        return [stage.name for stage in experiment.outdated(stages.SYSTEM.stages, finished.split(), wanted.split())]

    assert outdated("pretrain refine match", "pretrain refine match detect report export") == []
    assert outdated("pretrain match report export", "pretrain refine match") == ["match", "report", "export"]
    assert outdated("pretrain detect", "pretrain refine") == ["detect"]
    assert outdated("pretrain detect report export", "match") == ["report"]
    assert outdated("match export", "pretrain") == ["match", "export"]
    assert outdated("pretrain refine represent report", "detect") == ["report"]
    assert outdated("pretrain represent export", "refine") == ["represent", "export"]
    assert outdated("pretrain match report export", "represent") == ["report"]
    chain = [
        experiment.Stage(name=name, run=dict, builds_on=on) for name, on in (("a", ()), ("b", ("a",)), ("c", ("b",)))
    ]
    assert experiment.outdated(chain, ["b", "c"], ["a"]) == chain[1:]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ("refine", "pretrain")}, "the order is pretrain, refine, match"),
        ({"stages": ("match",)}, "put 'pretrain' among config.stages, or set config.init"),
        ({"data__dataset": "faces"}, "unknown dataset 'faces': choose one of synthetic_faces, landmark_folder"),
        ({"data__dataset": "landmark_folder"}, "name it with --config.data.root=FOLDER"),
        ({"data__dataset": "landmark_folder", "data__root": "/not/there"}, "'/not/there' does not exist"),
        ({"data__unlabelled_splits": ("all",)}, "config.data.unlabelled_splits names ['all']: choose from train"),
        ({"data__unlabelled_splits": ("unlabeled",)}, "has no split unlabeled; it has: train, validation, test"),
        ({"init": "nobody"}, "no model file 'nobody'"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(run, small_config, tmp_path, capsys, fields, message):
    assert run(small_config(**fields), tmp_path / "workdir") == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in err


def test_a_batch_that_does_not_divide_is_said_before_anything_begins(run, small_config, tmp_path, capsys):
    for dry_run in (True, False):
        assert run(small_config(refine__accumulate=3), tmp_path / "workdir", dry_run=dry_run) == 1
        assert "refine: batch_size 8 does not divide over 1 devices and accumulate=3: make" in capsys.readouterr().err
    assert not (tmp_path / "workdir").exists()


def test_what_has_been_trained_may_be_evaluated_on_devices_that_its_batch_does_not_divide_over(
    finished, small_config, tmp_path
):
    workdir = tmp_path / "workdir"
    shutil.copytree(finished.workdir, workdir)
    changed = stages.SYSTEM.open(small_config(refine__accumulate=3), workdir)
    experiment.check_batches(changed)
    (workdir / "results.json").unlink()
    with pytest.raises(ValueError, match="or take as many devices as divide it"):
        experiment.check_batches(changed)


def test_a_dry_run_tells_and_trains_nothing(run, small_config, tmp_path, capsys):
    assert run(small_config(pretrain__batch_size=16), tmp_path / "workdir", dry_run=True) == 0
    out = capsys.readouterr().out
    for name in ("encoder/", "decoder/", "projector/"):
        assert name in out
    assert "images for stages 1 and 2: 120" in out
    assert "pretrain: batch uint8[16, 136, 136, 3] -> views float32[16, 96, 96, 3], 4 steps, 64 images seen" in out
    assert "refine: batch uint8[8, 136, 136, 3] -> views float32[8, 96, 96, 3], 3 steps, 24 images seen" in out
    assert not (tmp_path / "workdir").exists()


AVERAGED = {
    "pretrain__steps": 40,
    "pretrain__checkpoint_every": 8,
    "pretrain__average": 0.5,
    "detect__linear__below": 10_000,
}


@pytest.fixture(scope="module")
def averaged(run, small_config, tmp_path_factory):
    """The workdir of a stage 1 that nothing cut off and that averages its weights."""
    workdir = tmp_path_factory.mktemp("averaged")
    assert run(small_config(stages=("pretrain",), **AVERAGED), workdir) == 0
    return workdir


def test_killed_and_stopped_and_started_again_a_run_ends_bit_identical(run, start, averaged, small_config, tmp_path):
    config, workdir = small_config(stages=("pretrain",), **AVERAGED), tmp_path / "cut"
    overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in AVERAGED.items()]
    killed = start(workdir, "--config.stages=('pretrain',)", *overrides)
    checkpoints = workdir / "checkpoints" / "pretrain"
    while killed.poll() is None and not (checkpoints / "8").exists():
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (checkpoints / "40").exists()

    assert run(config, workdir, stop_after=0.0) == command_line.STOPPED_EARLY == 75
    assert "pretrain" not in experiment.read_results(workdir)
    assert run(config, workdir) == 0
    for part in ("params", "state"):
        there, expected = (
            restore_part(path, newest_step(path), part) for path in (checkpoints, averaged / "checkpoints" / "pretrain")
        )
        jax.tree.map(np.testing.assert_array_equal, there, expected)
    losses = [[row["loss"] for row in read_metrics(folder)] for folder in (averaged, workdir)]
    assert losses[0][-1] == losses[1][-1]


def test_an_average_of_the_weights_takes_the_place_of_the_last_ones(run, averaged, small_config):
    """And a run without stage 2 measures what it has."""
    config = small_config(stages=("pretrain", "detect", "export"), **AVERAGED)
    workdir = averaged
    assert run(config, workdir) == 0
    trained = stages.SYSTEM.open(config, workdir)
    average, last = trained.trained("pretrain", "state")["average"], trained.trained("pretrain")
    exported = scemae_jax.load(workdir / "export" / "scemae.msgpack").params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, exported, average["encoder"])
    far = jax.tree.map(lambda a, b: float(abs(a - b).max()), average["encoder"], last["encoder"])
    assert max(jax.tree.leaves(far)) > 0
    results = experiment.read_results(workdir)
    methods = [row["method"] for row in results["measurements"]]
    assert (results["detect"]["head"], methods) == ("linear", ["mean shape", "MAE only"])


def write_folder(root: Path, *, annotated: bool) -> Path:
    """Fifteen pictures of 80x100 pixels, with five landmarks each."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(15):
        image = np.kron(rng.integers(0, 256, (10, 8, 3)), np.ones((10, 10, 1)))
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{number:02}.png")
        points = np.array([[30, 40], [50, 40], [40, 52], [33, 62], [47, 62]]) + rng.uniform(-4, 4, (5, 2))
        split = ("train", "train", "test", "validation", "train")[number % 5]
        rows.append([f"images/{number:02}.png", f"person {number}", split, *points.ravel()])
    if annotated:
        with (root / "landmarks.csv").open("w", newline="") as file:
            columns = [f"{axis}{number}" for number in range(5) for axis in "xy"]
            csv.writer(file).writerows([["file", "subject", "split", *columns], *rows])
    return root


@pytest.fixture
def folder_config(small_config, tmp_path):
    def change(*, annotated: bool, **fields):
        root = write_folder(tmp_path / "people", annotated=annotated)
        return small_config(
            data__dataset="landmark_folder", data__root=str(root), data__data_dir=str(tmp_path / "data"), **fields
        )

    return change


def test_a_folder_without_annotations_trains_and_says_what_it_cannot_do(run, folder_config, tmp_path, capsys):
    everything = tuple(stages.SYSTEM.by_name)
    config = folder_config(annotated=False, stages=everything, detect__landmarks=(5, 68), match__baselines=False)
    assert run(config, tmp_path / "workdir") == 0
    assert scemae_jax.load(tmp_path / "workdir" / "export" / "scemae.msgpack").refined
    results = json.loads((tmp_path / "workdir" / "results.json").read_text())
    assert results["match"]["skipped"].startswith("0 annotated faces in split test, and two make a pair; of the people")
    assert "skipped" in results["detect"]
    assert results["few_shot"]["skipped"].startswith("0 annotated faces to learn from and 0 in split test")
    assert results["represent"]["skipped"].startswith("0 annotated faces in split test show 0 landmarks")
    assert "match: skipped, 0 annotated faces" in capsys.readouterr().out
    page = (tmp_path / "workdir" / "report" / "index.html").read_text()
    assert "Similarity to a point" in page
    assert "Landmarks matched across people" in page

    assert run(config, tmp_path / "workdir") == 0
    assert "match: skipped before, 0 annotated faces" in capsys.readouterr().out
    write_folder(Path(config.data.root), annotated=True)  # the same pictures, annotated since
    config.stages = tuple(name for name in stages.SYSTEM.by_name if name != "few_shot")
    assert run(config, tmp_path / "workdir") == 0
    printed = capsys.readouterr().out
    assert "pretrain: finished before" in printed
    results = json.loads((tmp_path / "workdir" / "results.json").read_text())
    assert results["match"]["pairs"] == 1
    assert results["represent"]["skipped"].startswith("3 annotated faces in split test show 15 landmarks")
    assert results["detect"]["images"] == 3
    assert list(scemae_jax.load(tmp_path / "workdir" / "export" / "scemae.msgpack").heads) == ["5"]

    table = Path(config.data.root) / "landmarks.csv"
    lines = table.read_text().splitlines()
    few = [line.split(",") for line in lines[:3]]  # two people, no split column: nobody to be measured on
    table.write_text("\n".join(",".join([file, subject, *points]) for file, subject, _, *points in few) + "\n")
    config.stages = ("match", "detect", "export")
    assert run(config, tmp_path / "workdir") == 0
    results = json.loads((tmp_path / "workdir" / "results.json").read_text())
    assert "skipped" in results["match"]
    assert results["detect"]["annotated_images"] == 2
    assert results["measurements"] == []
    assert list(scemae_jax.load(tmp_path / "workdir" / "export" / "scemae.msgpack").heads) == ["5"]


def test_a_training_keeps_to_its_data_and_leaves_out_images_of_test_people(run, folder_config, tmp_path, capsys):
    config, workdir = folder_config(annotated=True, stages=("pretrain",)), tmp_path / "workdir"
    table = Path(config.data.root) / "landmarks.csv"
    before = table.read_text()
    head, *rows = [line.split(",") for line in before.splitlines()]  # 9 train, 3 validation, 3 test
    empty = [""] * 10
    rows[0] = ["images/00.png", "person 3", "unlabeled", *empty]  # who is in validation
    rows[1] = ["images/01.png", "person 2", "unlabeled", *empty]  # who is in test
    rows[4] = ["images/04.png", "person 2", "train", *empty]
    changed = "\n".join(",".join(row) for row in (head, *rows)) + "\n"
    table.write_text(changed)
    left_out = "unannotated images left out: 2 of people in test and 1 of people in validation"

    assert run(config, workdir, dry_run=True) == 0
    assert f"images for stages 1 and 2: 6\n{left_out}\n" in capsys.readouterr().out
    assert run(config, workdir, stop_after=0.0) == command_line.STOPPED_EARLY
    table.write_text(before)
    assert run(config, workdir) == 1
    assert "pretrain began on landmark_folder/people-" in capsys.readouterr().err
    table.write_text(changed)
    assert run(config, workdir) == 0
    assert f"pretrain: {left_out}" in " ".join(capsys.readouterr().out.split())
    pretrain = json.loads((workdir / "results.json").read_text())["pretrain"]
    assert (pretrain["images"], pretrain["images_left_out"]) == (6, {"test": 2, "validation": 1})

    config.data.unlabelled_splits = ("train", "validation", "unlabeled", "unlabeled_validation")
    other = stages.SYSTEM.open(config, tmp_path / "other")
    assert (other.num_images, other.left_out) == (6 + 3 + 1, {"test": 2})

    config.data.unlabelled_splits = ("train", "unlabeled")
    shutil.rmtree(config.data.root)
    config.stages = ("export",)  # needs no data
    assert run(config, workdir) == 0
    assert (workdir / "export" / "scemae.msgpack").exists()


def test_a_workdir_among_the_faces_is_refused(run, folder_config, capsys):
    config = folder_config(annotated=False, stages=("pretrain",))
    assert run(config, Path(config.data.root) / "runs" / "mine") == 1
    assert "its pictures would be trained on: choose one outside" in capsys.readouterr().err


def test_a_projector_of_another_form_is_refused(run, finished, small_config, tmp_path, capsys):
    exported = str(finished.workdir / "export" / "scemae.msgpack")
    config = small_config(init=exported, model__projector_hidden=True, stages=("match",))
    assert run(config, tmp_path / "workdir") == 1
    assert "has projector_hidden False, config.model.projector_hidden is True" in capsys.readouterr().err


def test_init_starts_from_an_exported_model(run, finished, small_config, tmp_path, capsys):
    exported = finished.workdir / "export" / "scemae.msgpack"
    encoder = scemae_jax.load(exported).params["encoder"]

    def same(a, b):
        return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))

    config = small_config(init=str(exported), seed=1)
    params = stages.SYSTEM.open(config, tmp_path / "none").initial_params()
    assert same(params["encoder"], encoder)
    assert "decoder" in params  # the file has none: random
    assert not same(stages.SYSTEM.open(small_config(seed=1), tmp_path).initial_params()["encoder"], encoder)

    refined = small_config(init=str(exported), seed=1, stages=("refine", "export"))
    assert run(refined, tmp_path / "workdir") == 0
    result = scemae_jax.load(tmp_path / "workdir" / "export" / "scemae.msgpack")
    assert same(result.params["encoder"], encoder)
    assert not same(result.params["projector"], scemae_jax.load(exported).params["projector"])
    assert result.provenance["init"] == str(exported)

    replaced = tmp_path / "replaced.msgpack"
    shutil.copy(exported, replaced)
    again = small_config(init=str(replaced), stages=("export",))
    assert run(again, tmp_path / "again") == 0
    save_model(dataclasses.replace(scemae_jax.load(exported), heads={}, provenance={}), replaced)
    assert run(again, tmp_path / "again") == 0  # other detectors are no other network
    shutil.copy(tmp_path / "workdir" / "export" / "scemae.msgpack", replaced)
    capsys.readouterr()
    assert run(again, tmp_path / "again") == 1
    assert f"began from another network than {replaced} now holds (fingerprints " in capsys.readouterr().err
    replaced.unlink()  # what finished does without it
    assert run(again, tmp_path / "again") == 0

    assert run(small_config(init=str(exported), model__encoder="XS/8"), tmp_path / "other") == 1
    assert "has encoder 'XXS/8', config.model.encoder is 'XS/8': make them agree" in capsys.readouterr().err


@pytest.mark.slow
def test_matching_over_several_pairings_and_with_clusters(run, finished, small_config, tmp_path):
    exported, workdir = str(finished.workdir / "export" / "scemae.msgpack"), tmp_path / "workdir"
    wanted = {"random_pairings": 2, "clustered": True, "baselines": False}
    config = small_config(
        init=exported, stages=("match",), **{f"match__{name}": value for name, value in wanted.items()}
    )
    assert run(config, workdir) == 0
    rows = select(as_table(experiment.read_results(workdir)["measurements"]), metric="matching error")
    names = ["own location", "MAE only", "MAE only, position-free", "SCE-MAE", "SCE-MAE, position-free",
             "MAE, clustered", "MAE, clustered, position-free"]  # fmt: skip
    for pairings in (None, 2):
        measured = select(rows, landmarks=5, random_pairings=pairings)
        assert list(dict.fromkeys(labels(measured, ("method", "position_free")))) == names
    fields = {"landmarks": 5, "case": "different", "position_free": None}
    before = select(as_table(finished.results["measurements"]), metric="matching error", **fields)
    for method in ("own location", "MAE only", "SCE-MAE"):  # as without the additions, the fixed order
        expected = select(before, method=method)["value"].item()
        value = select(rows, method=method, random_pairings=None, **fields)["value"].item()
        assert value == pytest.approx(expected, abs=1e-4)

    faces = stages.SYSTEM.open(config, workdir).faces("test")
    pairings = matching.random_pairings(np.arange(4).reshape(2, 2), 2, config.match.warp_seed)
    alone = [matching.match(faces, {"own": None}, pairs=pairs, seed=config.match.warp_seed) for pairs in pairings]
    means = [np.mean(errors[matching.Kind("own")].different) for errors in alone]
    fields = {"landmarks": 68, "method": "own location", "case": "different", "random_pairings": 2}
    (found,) = select(rows, **fields).to_dict("records")
    assert found["value"] == pytest.approx(np.mean(means), abs=1e-5)
    assert found["deviation"] == pytest.approx(abs(means[0] - means[1]) / 2**0.5, abs=1e-5)


def test_matching_says_of_each_form_how_many_queries_were_clamped(small_config, tmp_path, monkeypatch):
    landmarks = np.full((4, 68, 2), 60, np.float32)
    landmarks[0, [30, 0]] = [4, 60]  # the nose tip, one of the five points, and the jaw; image 0 is a reference
    landmarks[2, 5] = [60, 130]
    landmarks[1, 30] = [4, 60]  # image 1 holds truths only
    faces = Faces(images=np.zeros((4, 136, 136, 3), np.uint8), landmarks=landmarks, subjects=np.arange(4))
    monkeypatch.setattr(SceMae, "faces", lambda self, split: faces)
    monkeypatch.setattr(SceMae, "some_unlabelled_faces", lambda self: faces)
    monkeypatch.setattr(SceMae, "measured_networks", lambda self, baselines: {})
    monkeypatch.setattr(
        matching, "warped_views", lambda keys, images, points: matching.Views(images, images, points, points)
    )
    config = small_config(match__baselines=False, match__random_pairings=1)
    match = stages.run_match(stages.SYSTEM.open(config, tmp_path))
    rows = as_table(match["measurements"])
    assert match["pairs"] == 2
    assert [select(rows, metric="clamped queries", landmarks=n)["value"].item() for n in (5, 68)] == [1, 3]
    # Pixels from the clamped query to the truth: 16 of nose tip and jaw, 15 of landmark 5 in image 2; 0 of the others.
    five, all_landmarks = select(rows, metric="matching error", case="same", random_pairings=None).to_dict("records")
    assert five["value"] == pytest.approx(70 / 96 * 16 / 10)
    assert (all_landmarks["value"], all_landmarks["n"]) == (pytest.approx(70 / 96 * (16 + 16 + 15) / 136), 136)


@pytest.mark.slow
def test_few_annotations_and_landmark_features_are_measured_where_that_is_asked_for(
    run, finished, small_config, tmp_path, capsys
):
    exported, workdir = str(finished.workdir / "export" / "scemae.msgpack"), tmp_path / "workdir"
    settings = {"stride": 8, "images": 6, "perplexity": 4.0, "repeats": 2}
    config = small_config(
        init=exported,
        stages=("detect", "few_shot", "represent", "report"),
        **{f"represent__{name}": value for name, value in settings.items()},
        match__baselines=False,
        detect__linear__below=10_000,
        few_shot__landmarks=(5,),
        few_shot__counts=(2,),
        few_shot__heads=("linear",),
        few_shot__baselines=False,
    )
    assert run(config, workdir, stop_after=0) == command_line.STOPPED_EARLY  # a linear head needs no time, a draw does
    assert run(config, workdir) == 0
    results = json.loads((workdir / "results.json").read_text())
    assert results["detect"]["head"] == "linear"
    assert scemae_jax.load(workdir / "detectors" / "5.msgpack").heads["5"].kind == "linear"
    rows = (workdir / stages.FEW_SHOT_ROWS).read_text()
    measured = select(as_table(results["measurements"]), stage="few_shot", landmarks=5)
    expected = {"mean shape", "MAE only, linear", "SCE-MAE, linear"}
    assert set(labels(measured, ("method", "head"))) == expected
    assert len(measured) == len(expected)
    assert list(measured["annotated_images"].unique()) == [2]
    assert set(measured["n"]) == {2}
    assert "Few annotations, 5 landmarks" in (workdir / "report" / "index.html").read_text()
    assert (workdir / "report" / "few_shot_5.png").stat().st_size > 0

    capsys.readouterr()
    assert run(config, workdir) == 0
    assert capsys.readouterr().out.count("finished before") == 4

    represent = results["represent"]
    assert {name: represent[name] for name in settings} == settings
    assert (represent["count"], represent["split"]) == (6 * 5, "test")
    embedded = Embedded.load(workdir / represent["path"])
    assert embedded.labels.tolist() == 6 * [0, 1, 2, 3, 4]
    plane = select(as_table(results["measurements"]), space="t-SNE", landmarks=5)
    assert list(embedded.points) == list(plane["method"]) == ["MAE only", "SCE-MAE"]
    for found in plane.to_dict("records"):
        first = silhouette_score(embedded.points[found["method"]], embedded.labels)
        # Of two values, each is off their mean by their sample deviation over the root of 2.
        assert abs(first - found["value"]) == pytest.approx(found["deviation"] / 2**0.5, abs=1e-6)
    assert "Landmark features by t-SNE" in (workdir / "report" / "index.html").read_text()

    # A run that was cut off among its draws: other settings are refused, another network begins anew.
    path = tmp_path / "begun" / stages.FEW_SHOT_ROWS
    begun = small_config(init=exported, stages=("few_shot",), few_shot__counts=(2,))
    experiment.claim_workdir(stages.SYSTEM.open(begun, path.parent))
    path.write_text(rows.splitlines(keepends=True)[0])
    other = small_config(init=exported, stages=("few_shot",), few_shot__counts=(2,), few_shot__gain=3.0)
    assert run(other, path.parent) == 1
    assert "config.few_shot.gain: 50.0 there, 3.0 now" in capsys.readouterr().err
    begun.stages = ("refine", "few_shot")
    experiment.begin(stages.SYSTEM.open(begun, path.parent))
    assert not path.exists()
