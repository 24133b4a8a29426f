"""The stages of an experiment, each a function of it: what they read and write under the workdir."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jax.sharding import Mesh

from scemae_jax import config as configuration
from scemae_jax.config import Config
from scemae_jax.data import sources
from scemae_jax.data.formats import UNLABELED_VALIDATION
from scemae_jax.data.record import Faces
from scemae_jax.evaluation import detection, matching, representation
from scemae_jax.evaluation.attention import attentive_near_landmarks
from scemae_jax.faces.frame import FRAME
from scemae_jax.faces.landmarks import five_points, in_form, scheme_of
from scemae_jax.model import Architecture, Model, Which
from scemae_jax.model_file import export_stablehlo, fingerprint, load, save_model
from scemae_jax.report.build import build_report
from scemae_jax.systems.sce_mae import few_annotations, pretrain, refine
from scemae_jax.training import loop, processes, sharding
from scemae_jax.training.checkpoints import restore_params
from scemae_jax.training.feed import Input, open_input
from scemae_jax.training.metrics import read_metrics

SOME_IMAGES = 256
"""Of each split, where a part of it is enough: the mean feature of each position, where attentive patches are."""
FEW_SHOT_ROWS = "few_shot.jsonl"
HOW_TO_ANNOTATE = "; of the people in a folder's landmarks.csv, a fifth become the test split"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One config and its workdir."""

    config: Config
    workdir: Path
    stop_at: float | None = None
    """Time (`time.monotonic`) after which training saves and stops."""

    @functools.cached_property
    def architecture(self) -> Architecture:
        return configuration.architecture(self.config)

    @functools.cached_property
    def unlabelled_images(self) -> tuple[list[sources.ImagesOnDisk], list[float]]:
        return sources.unlabelled_images(self.config.data, self.dataset)

    @functools.cached_property
    def mesh(self) -> Mesh:
        return sharding.make_mesh(data=self.config.mesh.data, fsdp=self.config.mesh.fsdp)

    @functools.cached_property
    def dataset(self) -> tfds.core.DatasetBuilder:
        """Opened once: a folder that changes meanwhile does not change the run. The first process prepares it."""
        opened, failed = None, None
        if processes.is_first():
            try:
                opened = sources.open_dataset(self.config.data)
                if self.config.data.synthetic_share:
                    sources.open_dataset(self.config.data, "synthetic_faces")
            except Exception as error:
                failed = error
        processes.fail_together(failed, "dataset prepared")
        return opened or sources.open_dataset(self.config.data)

    @property
    def data_version(self) -> str:
        """Name and version of the prepared dataset; that of a folder changes with its files and annotations."""
        return self.dataset.info.full_name

    @property
    def num_images(self) -> int:
        return sum(len(source) for source in self.unlabelled_images[0])

    @property
    def left_out(self) -> dict[str, int]:
        """Unannotated images that stages 1 and 2 do not see, by the split that their people are in.

        Those of `test` are in no split of a folder, those of `validation` in one that the config may name.
        """
        metadata, splits = self.dataset.info.metadata or {}, self.dataset.info.splits
        counts, held_out = {"test": metadata.get("num_left_out", 0)}, UNLABELED_VALIDATION
        if held_out in splits and held_out not in self.config.data.unlabelled_splits:
            counts["validation"] = splits[held_out].num_examples
        return {split: count for split, count in counts.items() if count}

    def training_input(self, batch_size: int, seed: int) -> Input:
        images, weights = self.unlabelled_images
        data = self.config.data
        return open_input(
            images, weights, cache=data.cache, batch_size=batch_size, seed=seed, mesh=self.mesh, workers=data.workers
        )

    def faces(self, *splits: str) -> Faces:
        """Annotated faces of the dataset's splits; none if it lacks them all.

        Faces that lack some of their landmarks are left out, with a warning.
        """
        if not set(splits) & set(self.dataset.info.splits):
            return Faces(
                images=np.zeros((0, FRAME.image_size, FRAME.image_size, 3), np.uint8),
                landmarks=np.zeros((0, 0, 2), np.float32),
                subjects=np.zeros(0, np.int64),
            )
        faces = sources.read_faces(self.dataset, splits)
        annotated = faces.annotated()
        if len(annotated) < len(faces):
            logging.warning(
                "%d of %d faces of %s lack landmarks: left out", len(faces) - len(annotated), len(faces), splits
            )
        return annotated

    def some_unlabelled_faces(self) -> Faces:
        """Some of the faces of stages 1 and 2, without landmarks."""
        faces = sources.read_faces(self.dataset, self.config.data.unlabelled_splits, SOME_IMAGES)
        return dataclasses.replace(faces, landmarks=faces.landmarks[:, :0])

    @functools.cached_property
    def initial(self) -> Model | None:
        """The model that `config.init` names, checked to be of the config's encoder and position codes."""
        if not self.config.init:
            return None
        model = load(self.config.init)
        there, here = model.architecture, self.architecture
        if there.encoder != here.encoder:
            raise ValueError(
                f"config.init: {self.config.init} has encoder {there.encoder!r}, config.model.encoder is "
                f"{here.encoder!r}: make them agree"
            )
        if there.positions != here.positions:
            raise ValueError(
                f"config.init: {self.config.init} has positions {there.positions!r}, config.model.positions is "
                f"{here.positions!r}: make them agree"
            )
        if (there.mean, there.std) != (here.mean, here.std):
            raise ValueError(
                f"config.init: {self.config.init} was trained with mean {there.mean} and std {there.std}, "
                f"config.data.normalisation {self.config.data.normalisation!r} has {here.mean} and {here.std}"
            )
        return model

    def initial_params(self) -> Any:
        """What stage 1 starts from: random, or `config.init` (its decoder too, where it has one that fits)."""
        params = pretrain.initial_params(self.architecture, self.config.seed)
        if self.initial is None:
            return params
        taken = {name: value for name, value in self.initial.params.items() if name in params}
        if not _same_shapes(taken.get("decoder"), params["decoder"]):
            taken.pop("decoder", None)
        print(
            f"stage 1 starts from {self.config.init}: {' and '.join(taken)} taken from it; "
            "its terms of use hold for what comes of it"
        )
        return {**params, **taken}

    def _checkpoint(self, stage: str) -> Any | None:
        try:
            return restore_params(self.workdir / "checkpoints" / stage)
        except FileNotFoundError:
            return None

    def mae(self) -> Model:
        """The backbone after stage 1.

        Raises:
          FileNotFoundError: stage 1 did not run here, and `config.init` names no model to use instead.
        """
        params = self._checkpoint("pretrain") or (self.initial and self.initial.params)
        if self._checkpoint("pretrain") is not None and "pretrain" not in read_results(self.workdir):
            logging.warning("stage 1 has not finished in %s: its newest checkpoint is used", self.workdir)
        if params is None:
            raise FileNotFoundError(
                f"no backbone in {self.workdir}: put 'pretrain' among config.stages, or set config.init to a model"
            )
        kept = {name: params[name] for name in ("encoder", "decoder") if name in params}
        return Model(architecture=self.architecture, params=kept)

    def untrained(self) -> Model:
        """The same network with random weights."""
        encoder = pretrain.initial_params(self.architecture, self.config.seed)["encoder"]
        return Model(architecture=self.architecture, params={"encoder": encoder})

    def model(self) -> Model:
        """Backbone and projector, as far as the stages have come."""
        mae = self.mae()
        params = {"encoder": mae.params["encoder"]}
        projector = self._checkpoint("refine")
        if projector is None and self._checkpoint("pretrain") is None:
            projector = self.initial and self.initial.params.get("projector")
            if self.initial is not None and projector is not None:
                self._check_projector(self.initial.architecture)
        if projector is not None:
            params["projector"] = projector
        return dataclasses.replace(mae, params=params)

    def _check_projector(self, there: Architecture) -> None:
        for field in ("projection", "projector_hidden", "projector_normalise"):
            a, b = getattr(there, field), getattr(self.architecture, field)
            if a != b:
                raise ValueError(
                    f"config.init: the projector of {self.config.init} has {field} {a!r}, config.model.{field} is "
                    f"{b!r}: make them agree, or put 'refine' among config.stages to train another"
                )


def _same_shapes(a: Any, b: Any) -> bool:
    return jax.tree.map(np.shape, a) == jax.tree.map(np.shape, b)


def run_pretrain(experiment: Experiment) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.pretrain
    steps = configuration.num_steps(stage, experiment.num_images)
    source = experiment.training_input(stage.batch_size, config.seed)
    task = pretrain.task(config, experiment.architecture, experiment.initial_params(), source, steps)
    return _train(experiment, task)


def run_refine(experiment: Experiment) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.refine
    steps = configuration.num_steps(stage, experiment.num_images)
    source = experiment.training_input(stage.batch_size, config.seed + 1)
    encoder = experiment.mae().params["encoder"]
    projector = refine.initial_projector(experiment.architecture, config.seed + 1)
    results = _train(experiment, refine.task(config, experiment.architecture, encoder, projector, source, steps))
    return results | _split_diagnostic(experiment) if processes.is_first() else results


def _split_diagnostic(experiment: Experiment) -> dict[str, Any]:
    """Where the attentive patches are, on annotated validation (or else training) faces, if there are any."""
    for split in ("validation", *experiment.config.data.train_splits):
        if split in experiment.dataset.info.splits:
            faces = sources.read_faces(experiment.dataset, [split], SOME_IMAGES).annotated()
            if len(faces):
                return attentive_near_landmarks(experiment.mae(), faces) | {"split_diagnostic_on": split}
    return {}


def _train(experiment: Experiment, task: loop.Task) -> dict[str, Any]:
    loop.fit(
        task, workdir=experiment.workdir, mesh=experiment.mesh, rules=experiment.config.mesh.rules,
        stop_at=experiment.stop_at,
    )  # fmt: skip
    if not processes.is_first():
        return {}
    rows = [row for row in read_metrics(experiment.workdir) if row["stage"] == task.name]
    images = np.diff([0, *(row["step"] for row in rows)]) * task.input.batch_size
    seconds = sum(n / row["images_per_second"] for n, row in zip(images, rows, strict=True))
    return {
        "steps": task.steps,
        "images": experiment.num_images,
        "images_left_out": experiment.left_out,
        "images_seen": task.steps * task.input.batch_size,
        "seconds": round(seconds, 1),
        **{name: rows[-1][name] for name in ("loss", *task.outputs)},
    }


def measured_networks(experiment: Experiment, baselines: bool) -> dict[str, tuple[Model, Which]]:
    """The networks that are compared, with which of their features, by the names that the results have for them."""
    networks: dict[str, tuple[Model, Which]] = {}
    if baselines:
        networks["untrained"] = (experiment.untrained(), "backbone")
    networks["MAE only"] = (experiment.mae(), "backbone")
    if (model := experiment.model()).refined:
        networks["SCE-MAE"] = (model, "projected")
    return networks


def run_match(experiment: Experiment) -> dict[str, Any]:
    """Matching errors of the features and the baselines on the same pairs; of 68 landmarks also in 5-point form.

    Untrained baselines are measured on the fixed order of the images alone, the others on random pairings too, where
    the config asks for them.
    """
    settings, split = experiment.config.match, experiment.config.data.test_split
    faces = experiment.faces(split)
    pairs = matching.consecutive_pairs(len(faces), settings.max_pairs)
    if not len(pairs):
        return {"skipped": f"{len(faces)} annotated faces in split {split}, and two make a pair{HOW_TO_ANNOTATE}"}
    available = faces.landmarks.shape[1]
    if available == 68:  # one pass for both forms: the five points are columns of their own
        both = np.concatenate([five_points(faces.landmarks), faces.landmarks], axis=1)
        faces = dataclasses.replace(faces, landmarks=both)
    networks = measured_networks(experiment, settings.baselines)
    if settings.clustered:
        networks["MAE, clustered"] = (experiment.mae(), "clustered")
    own: dict[str, matching.FeatureFn | None] = {"own location": None}
    frame = experiment.architecture.frame
    raw_patches = functools.partial(matching.raw_patches, frame=frame)
    baselines = own | ({"raw patches": raw_patches} if settings.baselines else {})
    trained, means, some = own.copy(), {}, experiment.some_unlabelled_faces().images
    for name, (network, which) in networks.items():
        dense = functools.partial(network.features, stride=settings.stride, which=which)
        if name == "untrained":
            baselines[name] = dense
        else:
            trained[name], means[name] = dense, matching.position_mean(dense, some)
    again = matching.random_pairings(pairs, settings.random_pairings, settings.warp_seed)
    fixed = matching.match(faces, baselines, pairs=pairs, seed=settings.warp_seed, frame=frame)
    pairings = np.concatenate([pairs[None], again])
    found = matching.match(
        faces, trained, pairs=pairings.reshape(-1, 2), seed=settings.warp_seed, position_means=means, frame=frame
    )
    fixed |= {name: errors[: len(pairs)] for name, errors in found.items()}

    def form(count: int, part: slice) -> dict[str, Any]:
        measured = {
            "landmarks": count,
            "clamped_queries": int(fixed["own location"].clamped[:, part].sum()),
            "features": {name: e[:, part].summary() for name, e in fixed.items()},
        }
        if not len(again):
            return measured
        features = {name: matching.over_pairings(e[len(pairs) :, part], len(again)) for name, e in found.items()}
        return measured | {"random_pairings": {"pairings": len(again), "features": features}}

    columns = {5: slice(0, 5), 68: slice(5, None)} if available == 68 else {available: slice(None)}
    first, *others = (form(count, part) for count, part in columns.items())
    return {
        "split": split,
        "pairs": len(pairs),
        "pairs_of_one_person": int((faces.subjects[pairs[:, 0]] == faces.subjects[pairs[:, 1]]).sum()),
        "warp_seed": settings.warp_seed,
        "stride": settings.stride,
        "unit": matching.UNIT,
        **first,
        **({"all_landmarks": others[0]} if others else {}),
    }


def run_detect(experiment: Experiment) -> dict[str, Any]:
    """Trains a landmark head on the annotated training faces and measures it on the test split, if that has any."""
    config = experiment.config
    train, test = experiment.faces(*config.data.train_splits), experiment.faces(config.data.test_split)
    if not len(train):
        return {"skipped": f"no annotated face to learn from{HOW_TO_ANNOTATE}"}
    model, results = experiment.model(), {}
    settings = config.detect.copy_and_resolve_references()
    if not model.refined:
        if (settings.which, settings.linear.which) != ("backbone", "backbone"):
            logging.warning("no projector (stage 2 did not run): the detector reads the backbone's features alone")
        settings.which = settings.linear.which = "backbone"
    if settings.mirror and scheme_of(train.landmarks.shape[1]).mirror is None:
        logging.warning("which of %d landmarks mirror which is not known: no mirrored images", train.landmarks.shape[1])
        settings.mirror = False
    is_linear = len(train) < settings.linear.below
    for count in scheme_of(train.landmarks.shape[1]).choose_forms(settings.landmarks):
        landmarks = in_form(train.landmarks, count)
        if is_linear:
            unlabelled = experiment.some_unlabelled_faces().images
            head = detection.fit_linear_head(model, train.images, landmarks, unlabelled, settings, seed=config.seed)
        else:
            head = detection.fit_head(
                model, train.images, landmarks, settings, seed=config.seed, workdir=experiment.workdir,
                name=f"detect_{count}", stop_at=experiment.stop_at,
            )  # fmt: skip
        save_model(model.with_head(head), experiment.workdir / "detectors" / f"{count}.msgpack")
        eyes, methods = scheme_of(count).eyes, {}
        if len(test):
            truth = in_form(test.landmarks, count)
            mean_shape = np.broadcast_to(in_form(train.landmarks, count).mean(axis=0), truth.shape)
            detected = model.with_head(head).detect(test.images, count)
            methods = {
                "mean shape": detection.summarise(mean_shape, truth, eyes),
                "SCE-MAE" if model.refined else "MAE only": detection.summarise(detected, truth, eyes),
            }
        results[str(count)] = {
            "split": config.data.test_split,
            "images": len(test),
            "annotated_images": len(train),
            "head": "linear" if is_linear else "heatmaps",
            "unit": detection.unit(eyes),
            "methods": methods,
        }
    return results


def run_few_shot(experiment: Experiment) -> dict[str, Any]:
    """Detection errors from few annotations, of our features and what they are compared with."""
    config, settings = experiment.config, experiment.config.few_shot
    train, test = experiment.faces(*config.data.train_splits), experiment.faces(config.data.test_split)
    if len(train) < min(settings.counts) or not len(test):
        return {
            "skipped": f"{len(train)} annotated faces to learn from and {len(test)} in split {config.data.test_split}: "
            f"{min(settings.counts)} and one are needed{HOW_TO_ANNOTATE}"
        }
    frame, features = experiment.architecture.frame, {}
    if settings.baselines:
        features["raw patches"] = functools.partial(few_annotations.patch_colours, frame=frame)
    for name, (network, which) in measured_networks(experiment, settings.baselines).items():
        chosen = settings.which if name == "SCE-MAE" else which
        features[name] = functools.partial(
            network.features, stride=settings.stride, which=chosen, projected_weight=config.detect.projected_weight
        )
    forms = scheme_of(train.landmarks.shape[1]).choose_forms(settings.landmarks)
    protocol = few_annotations.Protocol(
        settings=settings,
        linear=config.detect.linear,
        features=features,
        train=train,
        test=test,
        unlabelled=experiment.some_unlabelled_faces().images,
        forms={count: functools.partial(in_form, num_landmarks=count) for count in forms},
        baseline=settings.baselines,
        frame=frame,
    )
    rows = protocol.run(experiment.workdir / FEW_SHOT_ROWS, stop_at=experiment.stop_at)
    return {
        "split": config.data.test_split,
        "images": len(test),
        "annotated_images": len(train),
        "seeds": settings.seeds,
        **{
            str(count): {
                "unit": detection.unit(scheme_of(count).eyes),
                "methods": few_annotations.summarise(rows, count),
            }
            for count in forms
        },
    }


def run_represent(experiment: Experiment) -> dict[str, Any]:
    """Silhouettes of landmark features, and of their t-SNE, whose points are stored for the report."""
    settings, split = experiment.config.represent, experiment.config.data.test_split
    faces = experiment.faces(split)
    faces = faces.take(np.arange(min(len(faces), settings.images or len(faces))))
    landmarks = faces.landmarks
    if landmarks.shape[1] == 68:
        landmarks = in_form(faces.landmarks, settings.landmarks)
    frame = experiment.architecture.frame
    visible = representation.visible(landmarks, frame)
    if (visible.sum(axis=0) > 1).sum() < 2 or visible.sum() <= settings.perplexity:
        return {
            "skipped": f"{len(faces)} annotated faces in split {split} show {visible.sum()} landmarks: two faces with "
            f"two each are needed, and more landmarks than config.represent.perplexity, {settings.perplexity:g}"
            f"{HOW_TO_ANNOTATE}"
        }
    found, points = {}, {}
    for name, (network, which) in measured_networks(experiment, experiment.config.match.baselines).items():
        dense = functools.partial(network.features, stride=settings.stride, which=which)
        kind = representation.represent(
            representation.landmark_features(dense, faces.images, landmarks, frame),
            perplexity=settings.perplexity, repeats=settings.repeats, seed=experiment.config.seed, name=name,
        )  # fmt: skip
        found[name], points[name] = kind.summary(), kind.points
    path = experiment.workdir / "representation.npz"
    representation.Embedded(representation.landmark_labels(visible), points).save(path)
    return {
        "split": split,
        "images": len(faces),
        "landmarks": landmarks.shape[1],
        "count": int(visible.sum()),
        "stride": settings.stride,
        "perplexity": settings.perplexity,
        "repeats": settings.repeats,
        "path": path.name,
        "features": found,
    }


def final_model(experiment: Experiment) -> Model:
    """Backbone, projector and the detectors that were trained."""
    model = experiment.model()
    for path in sorted((experiment.workdir / "detectors").glob("*.msgpack")):
        for head in load(path).heads.values():
            model = model.with_head(head)
    return model


def run_report(experiment: Experiment) -> dict[str, Any]:
    """The page of results and pictures; without annotated test faces it shows some that nobody annotated."""
    faces = experiment.faces(experiment.config.data.test_split)
    if not len(faces):
        faces = experiment.some_unlabelled_faces()
    model = final_model(experiment)
    results = {name: r for name, r in read_results(experiment.workdir).items() if not was_skipped(r)}
    measured = results.get("represent")
    path = build_report(
        experiment.workdir,
        faces=faces,
        mae=experiment.mae(),
        model=model,
        detectors={count: functools.partial(model.detect, num_landmarks=count) for count in model.heads},
        results=results,
        metrics=read_metrics(experiment.workdir),
        examples=experiment.config.report.examples,
        seed=experiment.config.seed,
        embedded=representation.Embedded.load(experiment.workdir / measured["path"]) if measured else None,
    )
    return {"path": str(path.relative_to(experiment.workdir))}


def run_export(experiment: Experiment) -> dict[str, Any]:
    settings, results = experiment.config.export, read_results(experiment.workdir)
    provenance = {
        "config_hash": configuration.config_hash(experiment.config),
        "dataset": experiment.config.data.dataset,
        "init": experiment.config.init,
        "images_seen": sum(results.get(stage, {}).get("images_seen", 0) for stage in ("pretrain", "refine")),
    }
    model = dataclasses.replace(final_model(experiment), provenance=provenance)
    if settings.decoder and "decoder" in experiment.mae().params:
        model = dataclasses.replace(model, params={**model.params, "decoder": experiment.mae().params["decoder"]})
    path = experiment.workdir / "export" / "scemae.msgpack"
    save_model(model, path, dtype=settings.dtype)
    which = "projected" if model.refined else "backbone"
    export_stablehlo(load(path), path.with_suffix(".stablehlo"), stride=settings.stride, which=which)
    parameters = sum(np.size(x) for x in jax.tree.leaves(model.params))
    return {
        "path": str(path.relative_to(experiment.workdir)),
        "bytes": path.stat().st_size,
        "parameters": int(parameters),
    }


RUN: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "pretrain": run_pretrain,
    "refine": run_refine,
    "match": run_match,
    "detect": run_detect,
    "few_shot": run_few_shot,
    "represent": run_represent,
    "report": run_report,
    "export": run_export,
}

TRAINING = ("pretrain", "refine", "detect")
TOGETHER = ("pretrain", "refine")
"""What several processes do together."""
EVALUATION = ("match", "detect", "few_shot", "represent")


def read_results(workdir: Path) -> dict[str, Any]:
    path = workdir / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def was_skipped(result: Any) -> bool:
    """Whether a stage had nothing to do; its result then says why under "skipped"."""
    return isinstance(result, dict) and "skipped" in result


def write_json(path: Path, content: Any) -> None:
    """All or nothing: a run that is cut off leaves the old file."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def claim_workdir(experiment: Experiment) -> None:
    """Writes config.json, or checks that the one there is of the same experiment.

    Raises:
      ValueError: it is of another; the message lists the differences.
    """
    data = experiment.config.data
    inside = data.root and experiment.workdir.resolve().is_relative_to(Path(data.root).expanduser().resolve())
    if data.dataset == "landmark_folder" and inside:
        raise ValueError(
            f"--workdir {experiment.workdir} is inside config.data.root {data.root}, and its pictures would become "
            "faces: choose one outside"
        )
    experiment.workdir.mkdir(parents=True, exist_ok=True)
    path, fields = experiment.workdir / "config.json", configuration.plain(experiment.config)
    if path.exists() and has_begun(experiment):
        lines = configuration.differences(json.loads(path.read_text()), fields)
        if lines:
            raise ValueError(
                f"{experiment.workdir} holds a run of another config:\n  " + "\n  ".join(lines) + "\n"
                "Choose another --workdir, or the config of that run. To go on from its network with other settings: "
                f"another --workdir, --config.init={experiment.workdir}/export/scemae.msgpack, and config.stages "
                "without those that are not to be done again."
            )
    write_json(path, fields)


def check_init(experiment: Experiment, results: dict[str, Any]) -> None:
    """Notes which network `config.init` holds, or checks that it still is the one that the workdir began from.

    A file that is gone is no mistake here: finished stages do without it.

    Raises:
      ValueError: another network is there now.
    """
    init = experiment.config.init
    try:
        now = fingerprint(init) if init else ""
    except FileNotFoundError:
        return
    before = results.get("init_fingerprint", now)
    results["init_fingerprint"] = now
    if before != now and has_begun(experiment):
        raise ValueError(
            f"{experiment.workdir} began from another network than {init} now holds (fingerprints {before} and {now}): "
            "choose another --workdir, or put the old file back"
        )


def has_begun(experiment: Experiment) -> bool:
    """Whether a stage has finished in the workdir, or there is something of one to go on from."""
    stages = configuration.STAGES
    finished = read_results(experiment.workdir)
    return any(stage in finished or has_progress(experiment, stage) for stage in stages)


def has_progress(experiment: Experiment, stage: str) -> bool:
    """Whether there is something of this stage to go on from: a checkpoint, or rows of few annotations."""
    if stage == "few_shot":
        return (experiment.workdir / FEW_SHOT_ROWS).exists()
    return any((experiment.workdir / "checkpoints").glob(f"{stage}*/[0-9]*"))


def forget_progress(experiment: Experiment, stage: str) -> None:
    """Removes what an evaluation of other data or another network left to go on from; it is done anew in minutes."""
    if stage == "detect":
        for folder in (experiment.workdir / "detectors", *(experiment.workdir / "checkpoints").glob("detect_*")):
            shutil.rmtree(folder, ignore_errors=True)
    elif stage == "few_shot":
        (experiment.workdir / FEW_SHOT_ROWS).unlink(missing_ok=True)


def run_all(experiment: Experiment) -> dict[str, Any]:
    """Runs the stages of the config that have not finished, in order, and returns all results.

    What had finished without a stage that now runs before it is outdated: evaluation, report and export run anew.
    Where the data have changed since (a folder was annotated), matching and detection run anew too.

    Of several processes all take part in stages 1 and 2; the first one alone does the rest, and writes the results.

    Raises:
      ValueError: the workdir is of another config, a stage that trains finished before one it builds on, or the data
        changed in the middle of stage 1 or 2, or a batch does not divide over the devices.
    """
    check_batches(experiment)
    if jax.process_count() > 1:
        experiment.dataset  # noqa: B018 - all open it at the same place, since they wait for each other there
    failed = None
    if processes.is_first():
        try:
            results = begin(experiment)
            if results != read_results(experiment.workdir):  # a finished run stays untouched
                write_json(experiment.workdir / "results.json", results)
        except Exception as error:
            failed = error
    processes.fail_together(failed, "stages begin")
    results = read_results(experiment.workdir)
    for stage in experiment.config.stages:
        if stage in results:
            before = results[stage]
            outcome = f"skipped before, {before['skipped']}" if was_skipped(before) else "finished before"
            if processes.is_first():
                print(f"{stage}: {outcome}")
        elif stage in TOGETHER:
            run_stage(experiment, stage, results)
        elif processes.is_first():
            try:
                run_stage(experiment, stage, results)
            except (Exception, processes.Interrupted) as error:
                failed = error
                break
    processes.fail_together(failed, "stages end")
    return results


def check_batches(experiment: Experiment) -> None:
    """Raises ValueError where the batch of a stage that is yet to be trained does not divide over the devices."""
    finished = read_results(experiment.workdir)
    for stage in TOGETHER:
        if stage in experiment.config.stages and stage not in finished:
            settings = experiment.config[stage]
            loop.check_batch(stage, settings.batch_size, settings.accumulate, experiment.mesh)


def begin(experiment: Experiment) -> dict[str, Any]:
    """Claims the workdir and returns its results, without those that the stages to come make outdated."""
    claim_workdir(experiment)
    config, results = experiment.config, read_results(experiment.workdir)
    results |= {
        "config_hash": configuration.config_hash(config),
        "seed": config.seed,
        "dataset": config.data.dataset,
        "encoder": config.model.encoder,
    }
    check_init(experiment, results)
    data = results.setdefault("data", {})
    for stage in EVALUATION:
        if stage in config.stages and data.get(stage, experiment.data_version) != experiment.data_version:
            results.pop(stage, None)
            forget_progress(experiment, stage)
    for stage in outdated(results, config.stages):
        if stage in TRAINING and not was_skipped(results[stage]):
            raise ValueError(
                f"{experiment.workdir}: {stage} had finished, and now config.stages has a stage before it that had "
                "not run, so its weights would belong to another network: use another --workdir"
            )
        del results[stage]
        forget_progress(experiment, stage)
    for stage in TOGETHER:
        pending = stage in config.stages and stage not in results and has_progress(experiment, stage)
        if pending and (begun_on := data.get(stage, experiment.data_version)) != experiment.data_version:
            raise ValueError(
                f"{experiment.workdir}: {stage} began on {begun_on}, and the data are {experiment.data_version} "
                "now. If landmarks.csv was added or changed, put the old state back until stages 1 and 2 have "
                "finished; otherwise use another --workdir"
            )
    if any(stage in config.stages and stage not in results for stage in TOGETHER):
        for stage in EVALUATION:  # one that was cut off began on another network
            if stage not in results:
                forget_progress(experiment, stage)
    return results


def run_stage(experiment: Experiment, stage: str, results: dict[str, Any]) -> None:
    """Runs one stage; the first process writes its result beside the others."""
    if stage != "export":  # which reads no data
        results["data"][stage] = experiment.data_version
    if processes.is_first():
        write_json(experiment.workdir / "results.json", results)
    started = time.monotonic()
    results[stage] = RUN[stage](experiment)
    if not processes.is_first():
        return
    write_json(experiment.workdir / "results.json", results)
    outcome = f"finished in {time.monotonic() - started:.0f} s"
    if was_skipped(results[stage]):
        outcome = f"skipped, {results[stage]['skipped']}"
    print(f"{stage}: {outcome}", flush=True)


def outdated(finished: Collection[str], stages: Sequence[str]) -> list[str]:
    """Finished stages that build on one of `stages` that has yet to run."""
    order = configuration.STAGES
    pending = [stage for stage in stages if stage not in finished]
    builds_on = {"report": order, "few_shot": ("pretrain", "refine"), "represent": ("pretrain", "refine")}
    return [
        stage
        for number, stage in enumerate(order)
        if stage in finished and any(p in order[:number] and p in builds_on.get(stage, TRAINING) for p in pending)
    ]
