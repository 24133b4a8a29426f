"""The stages of SPCL: what each reads and writes under the workdir."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jaxtyping import UInt8

from scemae_jax import config as configuration
from scemae_jax.data.pipeline import InMemory, in_memory
from scemae_jax.experiment import Stage, System
from scemae_jax.faces.parts import IGNORED
from scemae_jax.model_file import export_parse, load, save_model
from scemae_jax.report.html import write_report
from scemae_jax.systems.spcl import adapt, measuring, pictures, pseudo_labels, self_train, settings, source
from scemae_jax.systems.spcl.networks import Spcl, chunk_size
from scemae_jax.systems.spcl.settings import TRAINED
from scemae_jax.systems.spcl.tables import tables
from scemae_jax.training import processes
from scemae_jax.training.feed import Input, keep


def run_source(experiment: Spcl) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.source
    inputs = {"source": experiment.labelled_input(stage.batch_size, config.seed)}
    if stage.adversary:
        inputs["target"] = experiment.training_input(stage.batch_size, config.seed + 1)
    task = source.task(
        config, experiment.network, experiment.initial_params(), inputs, weights=experiment.class_weights(),
        steps=stage.steps,
    )  # fmt: skip
    return experiment.train(task)


def run_adapt(experiment: Spcl) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.adapt
    params = experiment.parser("source")
    labelled = experiment.labelled_input(stage.batch_size, config.seed + 2)
    target = _target(experiment, "adapt", params, labels=stage.labels)
    task = adapt.task(
        config, experiment.network, params, labelled, target, weights=experiment.class_weights(),
        start=adapt.source_prototypes(experiment, params), steps=stage.steps,
    )  # fmt: skip
    return experiment.train(task)


def run_self_train(experiment: Spcl) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.self_train
    params = experiment.parser("adapt")
    if params is None:
        params = experiment.parser("source")
    target = _target(experiment, "self_train", params, labels="offline")
    return experiment.train(self_train.task(config, experiment.network, params, target, steps=stage.steps))


def _target(experiment: Spcl, stage: str, params: Any, *, labels: str) -> Input:
    """Batches of target images; with "parts" if labels are "offline" (the parser's pseudo-labels) or "masks"."""
    config, batch_size = experiment.config, experiment.config[stage].batch_size
    seed = config.seed + 3
    if labels == "masks":
        return experiment.target_with_masks(batch_size, seed)
    if labels == "teacher":
        return experiment.training_input(batch_size, seed)
    images, weights = experiment.unlabelled_images
    in_order = [in_memory(records).arrays["image"] for records in images]
    found = _pseudo_labels(experiment, stage, params, in_order)
    labelled = [InMemory({"image": a, "parts": b}) for a, b in zip(in_order, found, strict=True)]
    kept = keep(labelled, cache=config.data.cache, mesh=experiment.mesh)
    return kept.batches(weights, batch_size=batch_size, seed=seed)


def _pseudo_labels(
    experiment: Spcl, stage: str, params: Any, images: list[UInt8[np.ndarray, "n h w 3"]]
) -> list[UInt8[np.ndarray, "n h w"]]:
    """Made once for a stage, and kept in the workdir for a run that goes on. Several processes share them."""
    path = experiment.workdir / f"pseudo_labels_{stage}.npz"
    failed = None
    if processes.is_first() and not path.exists():
        try:
            _make_pseudo_labels(experiment, params, images, path)
        except Exception as error:
            failed = error
    processes.fail_together(failed, f"pseudo-labels for {stage}")
    with np.load(path) as stored:
        return [stored[str(number)] for number in range(len(images))]


def _make_pseudo_labels(experiment: Spcl, params: Any, images: list[np.ndarray], path: Path) -> None:
    network = experiment.network

    @jax.jit
    def probabilities(params: Any, images: Any) -> Any:
        return network.probabilities(params, images.astype(jnp.float32) / 255)

    @jax.jit
    def histograms(params: Any, images: Any) -> Any:
        return pseudo_labels.confidence_histograms(probabilities(params, images))

    @jax.jit
    def labels(params: Any, images: Any, thresholds: Any) -> Any:
        return pseudo_labels.pseudo_labels(probabilities(params, images), thresholds)

    counts = sum(np.asarray(histograms(params, chunk), np.int64) for array in images for chunk in _chunks(array))
    thresholds = pseudo_labels.class_thresholds(np.asarray(counts), experiment.config.pseudo_labels.most)
    found = {
        str(number): np.concatenate([np.asarray(labels(params, chunk, thresholds)) for chunk in _chunks(array)])
        for number, array in enumerate(images)
    }
    kept = np.mean([np.mean(array != IGNORED) for array in found.values()])
    print(f"pseudo-labels: {kept:.0%} of the target's pixels keep one")
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, **found)
    partial.replace(path)


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    size = chunk_size(images)
    return (images[start : start + size] for start in range(0, len(images), size))


def run_report(experiment: Spcl) -> dict[str, Any]:
    """The page of results and pictures."""
    config, results = experiment.config, experiment.results()
    classes = ", ".join(experiment.network.parts.names)
    path = write_report(
        experiment.workdir,
        title=f"SPCL {config.model.encoder}: {config.source_data.dataset} to {config.data.dataset}",
        subtitle=f"The class of every pixel ({classes.replace('_', ' ')}), learnt from labelled source images and "
        "adapted to unlabelled target images.",
        results=results,
        tables=tables(results),
        pictures=pictures.pictures(experiment),
        stage_titles=STAGE_TITLES,
    )
    return {"path": str(path.relative_to(experiment.workdir))}


def run_export(experiment: Spcl) -> dict[str, Any]:
    """The model of `config.init` with the parser of the last stage, as a file; `Model.parse` for other runtimes."""
    config, results, stage = experiment.config, experiment.results(), experiment.final_stage()
    if experiment.network.whole:
        return {"skipped": "Model.parse looks at square faces, and this parser at scenes (config.scene_size)"}
    model = experiment.final_model()
    choices = config.adapt.to_dict()
    provenance = {
        "config_hash": configuration.config_hash(config),
        "method": {"system": "spcl", "stage": stage}
        | {name: choices[name] for name in ("labels", "class_mix", "target_weight", "contrast")},
        "source": experiment.source_dataset.info.full_name,
        "target": [dataset.info.full_name for dataset in experiment.unlabelled_datasets],
        "images_seen": sum(results.get(name, {}).get("images_seen", 0) for name in TRAINED),
        "init": config.init,
        "init_provenance": model.provenance,
        "terms": f"the terms of use of {config.init} hold for this model too" if config.init else "",
    }
    path = experiment.workdir / "export" / "parts.msgpack"
    save_model(dataclasses.replace(model, provenance=provenance), path, dtype=config.export.dtype)
    export_parse(load(path), path.with_suffix(".stablehlo"))
    return {"path": str(path.relative_to(experiment.workdir)), "bytes": path.stat().st_size, "stage": stage}


def describe(experiment: Spcl) -> None:
    """Prints the network's parameters and the steps of the stages."""
    network = experiment.network
    params = jax.eval_shape(functools.partial(network.initial_params, 0), None)
    print(parameter_overview.get_parameter_overview(params, include_stats=False))
    print(f"classes: {', '.join(network.parts.names)}")
    print(f"target images: {experiment.num_images}")
    for name in TRAINED:
        if name in experiment.config.stages:
            stage = experiment.config[name]
            print(f"{name}: {stage.steps} steps of {stage.batch_size}")


STAGE_TITLES = {"source": "Source", "adapt": "Adaptation", "self_train": "Self-training"}
SYSTEM = System(
    name="spcl",
    experiment=Spcl,
    check=settings.check,
    describe=describe,
    tables=tables,
    stages=(
        Stage(name="source", run=run_source, trains=True, distributed=True, progress=("checkpoints/source",)),
        Stage(
            name="adapt", run=run_adapt, builds_on=("source",), trains=True, distributed=True,
            progress=("checkpoints/adapt", "pseudo_labels_adapt.npz"),
        ),
        Stage(
            name="self_train", run=run_self_train, builds_on=("source", "adapt"), trains=True, distributed=True,
            progress=("checkpoints/self_train", "pseudo_labels_self_train.npz"),
        ),
        Stage(name="measure", run=measuring.run_measure, builds_on=TRAINED, measures=True, settings_may_change=True),
        Stage(name="report", run=run_report, builds_on=(*TRAINED, "measure"), settings_may_change=True),
        Stage(name="export", run=run_export, builds_on=TRAINED, reads_data=False),
    ),
)  # fmt: skip
