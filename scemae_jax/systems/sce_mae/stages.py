"""The stages of SCE-MAE: what each reads and writes under the workdir."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from clu import parameter_overview

from scemae_jax import config as configuration
from scemae_jax.data import sources
from scemae_jax.data.augment import random_views
from scemae_jax.evaluation import detection, matching, representation
from scemae_jax.evaluation.attention import attentive_near_landmarks
from scemae_jax.evaluation.measurement import Measurement, as_table, measurements, over
from scemae_jax.experiment import Stage, System
from scemae_jax.faces.landmarks import five_points, in_form, scheme_of
from scemae_jax.model_file import export_stablehlo, load, save_model
from scemae_jax.report.html import write_report
from scemae_jax.report.table import LEFT_OUT, counts_by_split
from scemae_jax.systems.sce_mae import few_annotations, landmark_heads, pictures, pretrain, refine, settings
from scemae_jax.systems.sce_mae.networks import SceMae, in_frame
from scemae_jax.systems.sce_mae.tables import CLAMPED, OURS, tables
from scemae_jax.training import processes
from scemae_jax.training.run_data import SOME_IMAGES

FEW_SHOT_ROWS = "few_shot_draws.jsonl"
HOW_TO_ANNOTATE = "; of the people in a folder's landmarks.csv, a fifth become the test split"


def run_pretrain(experiment: SceMae) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.pretrain
    steps = configuration.num_steps(stage, experiment.num_images)
    source = experiment.training_input(stage.batch_size, config.seed)
    task = pretrain.task(config, experiment.architecture, experiment.initial_params(), source, steps)
    return experiment.train(task)


def run_refine(experiment: SceMae) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.refine
    steps = configuration.num_steps(stage, experiment.num_images)
    source = experiment.training_input(stage.batch_size, config.seed + 1)
    encoder = experiment.mae().params["encoder"]
    projector = refine.initial_projector(experiment.architecture, config.seed + 1)
    results = experiment.train(refine.task(config, experiment.architecture, encoder, projector, source, steps))
    return results | {"measurements": _split_diagnostic(experiment)} if processes.is_first() else results


def _split_diagnostic(experiment: SceMae) -> list[Measurement]:
    """Where the attentive patches are, on annotated validation (or else training) faces, if there are any."""
    for split in ("validation", *experiment.config.data.train_splits):
        if split in experiment.dataset.info.splits:
            faces = sources.read_faces(experiment.dataset, [split], SOME_IMAGES).annotated()
            if len(faces):
                faces = in_frame(faces, experiment.architecture.backbone.frame)
                return attentive_near_landmarks(experiment.mae(), faces, split=split)
    return []


def run_match(experiment: SceMae) -> dict[str, Any]:
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
    forms = scheme_of(available).forms
    if len(forms) > 1:  # one pass for both forms: the five points are columns of their own
        both = np.concatenate([five_points(faces.landmarks), faces.landmarks], axis=1)
        faces = dataclasses.replace(faces, landmarks=both)
    networks = experiment.measured_networks(settings.baselines)
    if settings.clustered:
        networks["MAE, clustered"] = (experiment.mae(), "clustered")
    own: dict[str, matching.FeatureFn | None] = {"own location": None}
    frame = experiment.architecture.backbone.frame
    raw_patches = functools.partial(matching.raw_patches, frame=frame)
    baselines = own | ({"raw patches": raw_patches} if settings.baselines else {})
    trained, means, some = own.copy(), {}, experiment.some_unlabelled_faces().images
    for name, (network, which) in networks.items():
        dense = functools.partial(network.device_features, stride=settings.stride, which=which)
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
    fixed |= {kind: errors[: len(pairs)] for kind, errors in found.items()}

    def rows(landmarks: int, part: slice) -> list[Measurement]:
        about = {"split": split, "landmarks": landmarks, "stride": settings.stride}
        clamped = int(fixed[matching.Kind("own location")].clamped[:, part].sum())
        rows = [Measurement.of(metric=CLAMPED, unit="queries", value=clamped, **about)]
        for kind, errors in fixed.items():
            rows += errors[:, part].measurements(**kind.fields(), **about)
        for kind, errors in found.items() if len(again) else ():
            rows += matching.over_pairings(errors[len(pairs) :, part], len(again), **kind.fields(), **about)
        return rows

    columns = {count: slice(-count, None) if count == available else slice(0, count) for count in forms}
    return {
        "split": split,
        "pairs": len(pairs),
        "pairs_of_one_person": int((faces.people[pairs[:, 0]] == faces.people[pairs[:, 1]]).sum()),
        "warp_seed": settings.warp_seed,
        "stride": settings.stride,
        "measurements": [row for landmarks, part in columns.items() for row in rows(landmarks, part)],
    }


def run_detect(experiment: SceMae) -> dict[str, Any]:
    """Trains a landmark head on the annotated training faces and measures it on the test split, if that has any."""
    config = experiment.config
    train, test = experiment.faces(*config.data.train_splits), experiment.faces(config.data.test_split)
    if not len(train):
        return {"skipped": f"no annotated face to learn from{HOW_TO_ANNOTATE}"}
    model, rows, split = experiment.model(), [], config.data.test_split
    settings = config.detect.copy_and_resolve_references()
    if not model.refined:
        if (settings.which, settings.linear.which) != ("backbone", "backbone"):
            logging.warning("no projector (stage 2 did not run): the detector reads the backbone's features alone")
        settings.which = settings.linear.which = "backbone"
    if settings.mirror and scheme_of(train.landmarks.shape[1]).mirror is None:
        logging.warning("which of %d landmarks mirror which is not known: no mirrored images", train.landmarks.shape[1])
        settings.mirror = False
    kind = landmark_heads.choose_kind(len(train), settings)
    for count in scheme_of(train.landmarks.shape[1]).choose_forms(settings.landmarks):
        landmarks = in_form(train.landmarks, count)
        if kind == "linear":
            unlabelled = experiment.some_unlabelled_faces().images
            head = landmark_heads.fit_linear_head(
                model, train.images, landmarks, unlabelled, settings, seed=config.seed
            )
        else:
            head = landmark_heads.fit_head(
                model, train.images, landmarks, settings, seed=config.seed, workdir=experiment.workdir,
                name=f"detect_{count}", stop_at=experiment.stop_at,
            )  # fmt: skip
        save_model(model.with_head(head), experiment.workdir / "detectors" / f"{count}.msgpack")
        if len(test):
            truth, eyes = in_form(test.landmarks, count), scheme_of(count).eyes
            mean_shape = np.broadcast_to(landmarks.mean(axis=0), truth.shape)
            detected, name = model.with_head(head).detect(test.images, count), OURS[0 if model.refined else 1]
            rows += [
                detection.measure(mean_shape, truth, eyes, method="mean shape", split=split),
                detection.measure(detected, truth, eyes, method=name, split=split),
            ]
    return {
        "split": split,
        "images": len(test),
        "annotated_images": len(train),
        "head": kind,
        "measurements": rows,
    }


def run_few_shot(experiment: SceMae) -> dict[str, Any]:
    """Detection errors from few annotations, of our features and what they are compared with."""
    config, settings = experiment.config, experiment.config.few_shot
    train, test = experiment.faces(*config.data.train_splits), experiment.faces(config.data.test_split)
    if len(train) < min(settings.counts) or not len(test):
        return {
            "skipped": f"{len(train)} annotated faces to learn from and {len(test)} in split {config.data.test_split}: "
            f"{min(settings.counts)} and one are needed{HOW_TO_ANNOTATE}"
        }
    frame, features = experiment.architecture.backbone.frame, {}
    if settings.baselines:
        features["raw patches"] = functools.partial(few_annotations.patch_colours, frame=frame)
    for name, (network, which) in experiment.measured_networks(settings.baselines).items():
        chosen = settings.which if name == "SCE-MAE" else which
        features[name] = functools.partial(
            network.device_features,
            stride=settings.stride,
            which=chosen,
            projected_weight=config.detect.projected_weight,
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
    summary = over(as_table(rows), "draw").sort_values("annotated_images", kind="stable")
    return {
        "split": config.data.test_split,
        "images": len(test),
        "annotated_images": len(train),
        "seeds": settings.seeds,
        "measurements": measurements(summary.assign(split=config.data.test_split)),
    }


def run_represent(experiment: SceMae) -> dict[str, Any]:
    """Silhouettes of landmark features, and of their t-SNE, whose points are stored for the report."""
    settings, split = experiment.config.represent, experiment.config.data.test_split
    faces = experiment.faces(split)
    faces = faces.take(np.arange(min(len(faces), settings.images or len(faces))))
    (count,) = scheme_of(faces.landmarks.shape[1]).choose_forms([settings.landmarks])
    landmarks = in_form(faces.landmarks, count)
    frame = experiment.architecture.backbone.frame
    visible = representation.visible(landmarks, frame)
    if (visible.sum(axis=0) > 1).sum() < 2 or visible.sum() <= settings.perplexity:
        return {
            "skipped": f"{len(faces)} annotated faces in split {split} show {visible.sum()} landmarks: two faces with "
            f"two each are needed, and more landmarks than config.represent.perplexity, {settings.perplexity:g}"
            f"{HOW_TO_ANNOTATE}"
        }
    rows, points = [], {}
    about = {"split": split, "landmarks": landmarks.shape[1], "stride": settings.stride}
    for name, (network, which) in experiment.measured_networks(experiment.config.match.baselines).items():
        dense = functools.partial(network.device_features, stride=settings.stride, which=which)
        kind = representation.represent(
            representation.landmark_features(dense, faces.images, landmarks, frame),
            perplexity=settings.perplexity, repeats=settings.repeats, seed=experiment.config.seed, name=name,
        )  # fmt: skip
        rows += kind.measurements(method=name, **about)
        points[name] = kind.points
    path = experiment.workdir / "representation.npz"
    representation.Embedded(representation.landmark_labels(visible), points).save(path)
    return {
        "split": split,
        "images": len(faces),
        "count": int(visible.sum()),
        "stride": settings.stride,
        "perplexity": settings.perplexity,
        "repeats": settings.repeats,
        "path": path.name,
        "measurements": rows,
    }


def run_report(experiment: SceMae) -> dict[str, Any]:
    """The page of results and pictures; without annotated test faces it shows some that nobody annotated."""
    faces = experiment.faces(experiment.config.data.test_split)
    if not len(faces):
        faces = experiment.some_unlabelled_faces()
    model = experiment.final_model()
    embedded = experiment.results().get("represent", {}).get("path")
    drawn = pictures.pictures(
        faces=faces,
        mae=experiment.mae(),
        model=model,
        detectors={int(name): functools.partial(model.detect, head=name) for name in model.heads},
        results=experiment.results(),
        examples=experiment.config.report.examples,
        seed=experiment.config.seed,
        embedded=representation.Embedded.load(experiment.workdir / embedded) if embedded else None,
    )
    path = write_report(
        experiment.workdir,
        title=f"SCE-MAE {experiment.architecture.backbone.encoder} on {experiment.config.data.dataset}",
        subtitle="Face landmarks learnt without annotations: a masked autoencoder, then correspondences refined by "
        "repellence.",
        results=experiment.results(),
        tables=tables(experiment.results()),
        pictures=drawn,
        stage_titles=STAGE_TITLES | {f"detect_{count}": f"Detector, {count} landmarks" for count in model.heads},
    )
    return {"path": str(path.relative_to(experiment.workdir))}


def run_export(experiment: SceMae) -> dict[str, Any]:
    settings, results = experiment.config.export, experiment.results()
    provenance = {
        "config_hash": configuration.config_hash(experiment.config),
        "dataset": experiment.config.data.dataset,
        "init": experiment.config.init,
        "images_seen": sum(results.get(stage, {}).get("images_seen", 0) for stage in ("pretrain", "refine")),
    }
    model = dataclasses.replace(experiment.final_model(), provenance=provenance)
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


def describe(experiment: SceMae) -> None:
    """Prints the networks' parameters, a batch and the steps of stages 1 and 2."""
    config, architecture, num_images = experiment.config, experiment.architecture, experiment.num_images
    window = architecture.backbone.frame.window
    params = pretrain.initial_params(architecture, config.seed)
    params |= {"projector": refine.initial_projector(architecture, config.seed)}
    print(parameter_overview.get_parameter_overview(params, include_stats=False))
    print(f"images for stages 1 and 2: {num_images}")
    if experiment.left_out:
        print(f"{LEFT_OUT}: {counts_by_split(experiment.left_out)}")
    for name in ("pretrain", "refine"):
        if name not in config.stages:
            continue
        stage = config[name]
        batch = jnp.stack([experiment.unlabelled_images[0][0][0]["image"]] * stage.batch_size)
        views = jax.eval_shape(
            lambda b, a=stage.augment: random_views(jax.random.key(0), {"image": b}, a, window)[0]["image"], batch
        )
        steps = configuration.num_steps(stage, num_images)
        print(
            f"{name}: batch {batch.dtype}{list(batch.shape)} -> views {views.dtype}{list(views.shape)}, {steps} steps, "
            f"{steps * stage.batch_size:,} images seen"
        )


STAGE_TITLES = {"pretrain": "Stage 1, masked autoencoder", "refine": "Stage 2, projector"}
TRAINED = ("pretrain", "refine")
MEASURED = ("match", "detect", "few_shot", "represent")
SYSTEM = System(
    name="sce_mae",
    experiment=SceMae,
    check=settings.check,
    describe=describe,
    tables=tables,
    stages=(
        Stage(name="pretrain", run=run_pretrain, trains=True, distributed=True, progress=("checkpoints/pretrain",)),
        Stage(
            name="refine", run=run_refine, builds_on=("pretrain",), trains=True, distributed=True,
            progress=("checkpoints/refine",),
        ),
        Stage(name="match", run=run_match, builds_on=TRAINED, measures=True),
        Stage(
            name="detect", run=run_detect, builds_on=TRAINED, trains=True, measures=True,
            progress=("detectors", "checkpoints/detect_*"),
        ),
        Stage(name="few_shot", run=run_few_shot, builds_on=TRAINED, measures=True, progress=(FEW_SHOT_ROWS,)),
        Stage(name="represent", run=run_represent, builds_on=TRAINED, measures=True),
        Stage(name="report", run=run_report, builds_on=(*TRAINED, *MEASURED)),
        Stage(name="export", run=run_export, builds_on=(*TRAINED, "detect"), reads_data=False),
    ),
)  # fmt: skip
