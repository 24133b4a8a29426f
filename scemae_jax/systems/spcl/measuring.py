"""Stage `measure`: intersection over union on images with true masks, of parsers and of what they are held against."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scemae_jax.evaluation import segmentation
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.model_file import load
from scemae_jax.models.parsing import enlarge, in_windows
from scemae_jax.ops import prototypes
from scemae_jax.systems.spcl import adapt, evaluation_sets
from scemae_jax.systems.spcl.evaluation_sets import Grouping, TestSet
from scemae_jax.systems.spcl.networks import ParsingNetwork, Spcl
from scemae_jax.systems.spcl.settings import TRAINED

NEAREST = "nearest prototype"
LANDMARKS = "landmarks"
CONFUSIONS = "confusions.npz"
RESAMPLES = 1000
"""Of the test images, for the deviations."""

Find = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confusion:
    """What was taken for what, in one set by one method."""

    split: str
    """Name of the set."""
    method: str
    grouping: str
    classes: tuple[str, ...]
    counts: Int[np.ndarray, "n k k"]
    """Of each image, pixels by their true class (rows) and the predicted one."""
    classifier: str = ""
    """Empty: the head's own."""

    @property
    def fields(self) -> dict[str, str]:
        """Those that its rows have."""
        about = {"method": self.method, "split": self.split, "grouping": self.grouping}
        return about | ({"classifier": self.classifier} if self.classifier else {})

    def absent(self) -> list[str]:
        """Classes that no true pixel has."""
        there = self.counts.sum(axis=(0, 2)) > 0
        return [name for name, found in zip(self.classes, there, strict=True) if not found]

    def measurements(self, *, without: tuple[str, ...], seed: int) -> list[Measurement]:
        """Rows of each class and of their mean, in %; also of the mean over all but some classes, if it has those.

        Classes that no true pixel has are left out. Deviations are those of the bootstrap over images.
        """
        total, about = self.counts.sum(axis=0), {**self.fields, "n": len(self.counts)}
        found, grown = segmentation.intersection_over_union(total), segmentation.inflation(total)
        draws = segmentation.resampled(self.counts, repeats=RESAMPLES, seed=seed)

        def mean(counted: np.ndarray, **fields: Any) -> Measurement:
            value = float(np.nanmean(found[counted]))
            spread = deviation(np.nanmean(draws[:, counted], axis=1), len(self.counts))
            return Measurement.of(metric="mean IoU", unit="%", value=value, deviation=spread, **about, **fields)

        there = ~np.isnan(found)
        others = there & ~np.isin(self.classes, without)
        rows = [mean(there)]
        if others.any() and (others != there).any():
            left_out = [name for name, counted in zip(self.classes, there & ~others, strict=True) if counted]
            rows.append(mean(others, without=", ".join(left_out)))
        for index in np.flatnonzero(there):
            part = {"part": self.classes[index], **about}
            spread, iou, area = deviation(draws[:, index], len(self.counts)), float(found[index]), float(grown[index])
            rows.append(Measurement.of(metric="IoU", unit="%", value=iou, deviation=spread, **part))
            rows.append(Measurement.of(metric="area", unit="predicted / true", value=area, **part))
        return rows


def deviation(draws: Float[np.ndarray, " r"], images: int) -> float | None:
    """Over resamples, those that lack the class left out; None of a single image."""
    return float(np.nanstd(draws, ddof=1)) if images > 1 and np.isfinite(draws).sum() > 1 else None


def run_measure(experiment: Spcl) -> dict[str, Any]:
    """Every test set, for the parser of each stage that has trained, its nearest prototypes, and detected landmarks."""
    config, network = experiment.config, experiment.network
    if not config.measure.sets:
        return {"skipped": "config.measure.sets names no images with masks to measure on"}
    finders, detect = list(_parsers(experiment)), _detector(experiment)
    rows: list[Measurement] = []
    found: list[Confusion] = []
    for description in config.measure.sets:
        tested = evaluation_sets.open_set(description, experiment)
        of_set = list(_confusions(tested, network, finders, detect))
        for confusion in of_set:
            rows += confusion.measurements(without=tuple(config.measure.without), seed=config.seed)
        for grouping, absent in {confusion.grouping: confusion.absent() for confusion in of_set}.items():
            if absent:
                print(f"{tested.name}, {grouping}: no pixel is {', '.join(absent)}: left out of the mean")
        found += of_set
    save(found, experiment.workdir / CONFUSIONS)
    return {"sets": list(config.measure.sets), "path": CONFUSIONS, "measurements": rows}


def _parsers(experiment: Spcl) -> Iterator[tuple[str, Find]]:
    """Stages that have trained, and what gives the scores of windows: the head's, and cosines with the prototypes."""
    network = experiment.network
    both = jax.jit(lambda *inputs: scores(network, *inputs))
    for stage in TRAINED:
        params = experiment.parser(stage)
        if params is None:
            continue
        state = experiment.trained("adapt", "state") if stage == "adapt" else None
        vectors = state["prototypes"] if state else adapt.source_prototypes(experiment, params)

        def find(windows: np.ndarray, params: Any = params, vectors: Any = vectors) -> dict[str, np.ndarray]:
            return jax.tree.map(np.asarray, both(params, vectors, windows))

        yield stage, find


def scores(
    network: ParsingNetwork, params: Any, vectors: Float[Array, "k c"], windows: Any
) -> dict[str, Float[Array, "b s s k"]]:
    """Of uint8 windows: the head's probabilities (""), and the features' cosines with the prototypes (`NEAREST`)."""

    def of_windows(windows: Array) -> Array:
        parsed = network.apply(params, windows)
        maps = jnp.concatenate([parsed.logits, prototypes.cosines(parsed.features, vectors)], axis=-1)
        logits, cosines = jnp.split(enlarge(maps, (network.window, network.window)), 2, axis=-1)
        return jnp.concatenate([jax.nn.softmax(logits), cosines], axis=-1)

    found = in_windows(of_windows, windows.astype(jnp.float32) / 255, network.window)
    probabilities, cosines = jnp.split(found, 2, axis=-1)
    return {"": probabilities, NEAREST: cosines}


def _detector(experiment: Spcl) -> Callable[[np.ndarray], np.ndarray] | None:
    """Of 68 landmarks, if the model that the parser starts from has one."""
    init = experiment.config.init
    model = load(init) if init else None
    if model is None or "68" not in model.heads:
        why = f"{init} has no head '68'" if init else "config.init names no model"
        print(f"parts by way of landmarks are not measured: {why}")
        return None
    return lambda images: model.detect(images, head="68")


def _confusions(
    tested: TestSet,
    network: ParsingNetwork,
    parsers: list[tuple[str, Find]],
    detect: Callable[[np.ndarray], np.ndarray] | None,
) -> Iterator[Confusion]:
    frame, parts = network.frame, network.parts

    def of(grouping: Grouping, counts: np.ndarray, **fields: str) -> Confusion:
        return Confusion(split=tested.name, grouping=grouping.name, classes=grouping.names, counts=counts, **fields)

    for stage, find in parsers:
        for (classifier, grouping), counts in tested.confusions(find, frame, parts).items():
            yield of(grouping, counts, method=stage, classifier=classifier)
    if detect:
        for grouping, counts in tested.confusions_of_landmarks(detect, frame, parts).items():
            yield of(grouping, counts, method=LANDMARKS)


def save(found: list[Confusion], path: Path) -> None:
    """Writes an .npz file, all or nothing: the counts by number, and "about", what they are of, as JSON."""
    about = [{**confusion.fields, "classes": confusion.classes} for confusion in found]
    counts = {str(number): confusion.counts for number, confusion in enumerate(found)}
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, about=np.array(json.dumps(about)), **counts)
    partial.replace(path)


def read(path: Path) -> list[Confusion]:
    """What `save` wrote."""
    with np.load(path) as stored:
        about: list[Mapping[str, Any]] = json.loads(str(stored["about"]))
        return [
            Confusion(counts=stored[str(number)], **{**fields, "classes": tuple(fields["classes"])})
            for number, fields in enumerate(about)
        ]
