"""The stages of SPCL: what each reads and writes under the workdir."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jaxtyping import Float, UInt8

from scemae_jax.data.class_maps import CLASS_MAPS
from scemae_jax.data.pipeline import InMemory, in_memory
from scemae_jax.evaluation import segmentation
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.experiment import Stage, System
from scemae_jax.faces.parts import IGNORED
from scemae_jax.ops import prototypes
from scemae_jax.systems.spcl import adapt, evaluation_sets, pseudo_labels, self_train, settings, source
from scemae_jax.systems.spcl.networks import Spcl, chunk_size
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
    params = _without_discriminator(experiment.parser("source"))
    labelled = experiment.labelled_input(stage.batch_size, config.seed + 2)
    target = _target(experiment, "adapt", params, by_labels=stage.labels == "offline")
    task = adapt.task(
        config, experiment.network, params, labelled, target, weights=experiment.class_weights(),
        start=_first_prototypes(experiment, params), steps=stage.steps,
    )  # fmt: skip
    return experiment.train(task)


def run_self_train(experiment: Spcl) -> dict[str, Any]:
    config, stage = experiment.config, experiment.config.self_train
    params = experiment.parser("adapt")
    if params is None:
        params = _without_discriminator(experiment.parser("source"))
    target = _target(experiment, "self_train", params, by_labels=True)
    return experiment.train(self_train.task(config, experiment.network, params, target, steps=stage.steps))


def _without_discriminator(params: Any) -> Any:
    return {name: params[name] for name in ("encoder", "head")}


def _first_prototypes(experiment: Spcl, params: Any) -> Float[np.ndarray, "k c"]:
    """Of each class, the mean over source images of the mean feature of its pixels that the parser has right."""
    network, faces = experiment.network, experiment.some_source_images()
    num_classes = len(network.parts.names)

    @jax.jit
    def sums(params: Any, images: Any, labels: Any) -> prototypes.ClassSums:
        parsed = network.apply(params, images.astype(jnp.float32) / 255)
        labels = adapt.at_feature_size(labels, parsed.features)
        right = parsed.logits.argmax(axis=-1) == labels
        return prototypes.image_sums(parsed.features, jnp.where(right, labels, IGNORED), num_classes)

    total = None
    assert faces.parts is not None
    for images, parts in zip(_chunks(faces.images), _chunks(faces.parts), strict=True):
        found = sums(params, network.windows(images), network.windows(parts[..., None])[..., 0])
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    assert total is not None
    means = total.means()
    return np.asarray(prototypes.unit(means) if experiment.config.adapt.contrast.unit_prototypes else means)


def _target(experiment: Spcl, stage: str, params: Any, *, by_labels: bool) -> Input:
    """Batches of target images; with "parts", the pseudo-labels that the parser gives them, if asked for."""
    config, batch_size = experiment.config, experiment.config[stage].batch_size
    seed = config.seed + 3
    if not by_labels:
        return experiment.training_input(batch_size, seed)
    images, weights = experiment.unlabelled_images
    in_order = [in_memory(records).arrays["image"] for records in images]
    labels = _pseudo_labels(experiment, stage, params, in_order)
    labelled = [InMemory({"image": a, "parts": b}) for a, b in zip(in_order, labels, strict=True)]
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


def run_measure(experiment: Spcl) -> dict[str, Any]:
    """Intersection over union of every test set, for the parser of each stage that has trained."""
    config, network = experiment.config, experiment.network
    if not config.measure.sets:
        return {"skipped": "config.measure.sets names no images with masks to measure on"}
    rows: list[Measurement] = []
    for description in config.measure.sets:
        tested = evaluation_sets.open_set(description, config)
        for stage in ("source", "adapt", "self_train"):
            params = experiment.parser(stage)
            if params is None:
                continue
            find = _probabilities_of(network, _without_discriminator(params))
            for grouping, counts in tested.confusions(find, network.frame, network.parts).items():
                about = {"method": stage, "split": tested.name, "grouping": grouping.name, "n": len(tested.images)}
                rows += measurements(counts, grouping.names, **about)
    return {"sets": list(config.measure.sets), "measurements": rows}


def _probabilities_of(network: Any, params: Any) -> Callable[[np.ndarray], np.ndarray]:
    @jax.jit
    def find(params: Any, windows: Any) -> Any:
        return network.probabilities(params, windows.astype(jnp.float32) / 255)

    return lambda windows: np.asarray(find(params, windows))


def measurements(counts: np.ndarray, names: tuple[str, ...], **about: Any) -> list[Measurement]:
    """Rows of each class and of their mean, in %."""
    found = segmentation.intersection_over_union(counts)
    grown = segmentation.inflation(counts)
    rows = [Measurement.of(metric="mean IoU", unit="%", value=float(np.nanmean(found)), **about)]
    for name, iou, area in zip(names, found, grown, strict=True):
        if not np.isnan(iou):
            rows.append(Measurement.of(metric="IoU", unit="%", part=name, value=float(iou), **about))
            rows.append(Measurement.of(metric="area", unit="predicted / true", part=name, value=float(area), **about))
    if names == CLASS_MAPS["synthia16"].scheme.names:  # prior work's second figure: wall, fence and pole left out
        some = [iou for name, iou in zip(names, found, strict=True) if name in CLASS_MAPS["synthia13"].scheme.names]
        about = about | {"grouping": "synthia13"}
        rows.append(Measurement.of(metric="mean IoU", unit="%", value=float(np.nanmean(some)), **about))
    return rows


def describe(experiment: Spcl) -> None:
    """Prints the network's parameters and the steps of the stages."""
    network = experiment.network
    params = jax.eval_shape(functools.partial(network.initial_params, 0), None)
    print(parameter_overview.get_parameter_overview(params, include_stats=False))
    print(f"classes: {', '.join(network.parts.names)}")
    print(f"target images: {experiment.num_images}")
    for name in ("source", "adapt", "self_train"):
        if name in experiment.config.stages:
            stage = experiment.config[name]
            print(f"{name}: {stage.steps} steps of {stage.batch_size}")


TRAINED = ("source", "adapt", "self_train")
SYSTEM = System(
    name="spcl",
    experiment=Spcl,
    check=settings.check,
    describe=describe,
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
        Stage(name="measure", run=run_measure, builds_on=TRAINED, measures=True),
    ),
)  # fmt: skip
