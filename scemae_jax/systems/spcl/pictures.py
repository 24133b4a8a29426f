"""The pictures of SPCL's report: parts found, measured, confused, and how features of both domains lie."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8

from scemae_jax.data import sources
from scemae_jax.data.record import Faces
from scemae_jax.evaluation import representation
from scemae_jax.evaluation.measurement import select
from scemae_jax.ops import prototypes
from scemae_jax.report import figures, parsing_figures
from scemae_jax.report.html import Picture
from scemae_jax.report.table import measured
from scemae_jax.systems.spcl import adapt, evaluation_sets, measuring, settings
from scemae_jax.systems.spcl.measuring import Confusion
from scemae_jax.systems.spcl.networks import ParsingNetwork, Spcl, chunk_size
from scemae_jax.systems.spcl.settings import TRAINED
from scemae_jax.training.metrics import read_metrics

OF_TSNE = 200
"""Images of each domain, at most, whose pixels t-SNE shows."""
PERPLEXITY = 30.0
CURVES = {
    "segmentation": "loss, source pixels",
    "imitation": "loss, target pixels",
    "contrastive": "contrast with prototypes",
    "kept": "target pixels with a label",
    "largest_cosine": "prototypes' largest cosine",
}
"""Titles of what stage `adapt` notes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parsers:
    """Those of the stages that have trained, in their order."""

    network: ParsingNetwork
    params: Mapping[str, Any]
    """By stage."""

    @functools.cached_property
    def _apply(self) -> Any:
        @jax.jit
        def apply(params: Any, images: Any) -> Any:
            images = images.astype(jnp.float32) / 255
            features = prototypes.unit(self.network.apply(params, images).features)
            return self.network.probabilities(params, images).argmax(axis=-1).astype(jnp.uint8), features

        return apply

    def classes_and_features(
        self, stage: str, windows: UInt8[np.ndarray, "n s s 3"]
    ) -> tuple[UInt8[np.ndarray, "n s s"], Float[np.ndarray, "n f f c"]]:
        """The class of each pixel, and the features, of unit length."""
        size = chunk_size(windows)
        chunks = np.array_split(windows, range(size, len(windows), size))
        found = [jax.tree.map(np.asarray, self._apply(self.params[stage], chunk)) for chunk in chunks]
        classes, features = zip(*found, strict=True)
        return np.concatenate(classes), np.concatenate(features)

    def painted(self, windows: UInt8[np.ndarray, "n s s 3"]) -> dict[str, UInt8[np.ndarray, "n s s 3"]]:
        """The classes that each stage's parser finds, as pictures."""
        parts = self.network.parts
        return {stage: parts.painted(self.classes_and_features(stage, windows)[0]) for stage in self.params}


def pictures(experiment: Spcl) -> dict[str, Picture]:
    """By the names of their files; what did not run, or was not asked for, is left out.

    Raises:
      FileNotFoundError: no parser has trained.
    """
    experiment.final_parser()  # raises
    params = {stage: found for stage in TRAINED if (found := experiment.parser(stage)) is not None}
    parsers = Parsers(network=experiment.network, params=params)
    drawn = example_pictures(experiment, parsers)
    drawn |= target_pictures(experiment, parsers)
    drawn |= class_pictures(measured(experiment.results()))
    path = experiment.workdir / measuring.CONFUSIONS
    if path.exists():
        drawn |= confusion_pictures(measuring.read(path))
    drawn |= feature_pictures(experiment, parsers)
    return drawn | curve_pictures(read_metrics(experiment.workdir))


def example_pictures(experiment: Spcl, parsers: Parsers) -> dict[str, Picture]:
    """Drawn faces of the test split, with the true parts and those that each parser finds."""
    count, parts = experiment.config.report.examples, experiment.network.parts
    if not count or experiment.config.source_data.dataset != "synthetic_faces":
        return {}
    faces = sources.read_faces(experiment.source_dataset, ["test"], count, fields=("parts",))
    windows, truth = _windows(experiment, faces)
    rows = {"image": windows, "truth": parts.painted(truth), **parsers.painted(windows)}
    caption = (
        "Drawn faces that no stage has learnt from, their true parts, and those that the parser finds after each "
        "stage. A parser that has learnt from the target must still know the drawn faces."
    )
    drawn = figures.png(parsing_figures.parsed_faces(rows, parts.names, parts.colours()))
    alt = "Drawn faces with their parts in colours, the true ones and those found after each stage"
    return {"drawn_faces": Picture("Drawn faces", caption, drawn, alt)}


def target_pictures(experiment: Spcl, parsers: Parsers) -> dict[str, Picture]:
    """As many of the user's images as the config asks for, with the parts that each parser finds."""
    count, parts = experiment.config.report.target_pictures, experiment.network.parts
    if not count:
        return {}
    windows = _some_of_target(experiment, count)
    rows = {"image": windows, **parsers.painted(windows)}
    caption = (
        "Images of the target, and the parts that the parser finds after each stage. Look at small parts, and at "
        "whether parts grow into their neighbours."
    )
    drawn = figures.png(parsing_figures.parsed_faces(rows, parts.names, parts.colours()))
    alt = "Images of the target with the parts found after each stage in colours"
    return {"target_images": Picture("Target images", caption, drawn, alt)}


def _windows(experiment: Spcl, faces: Faces) -> tuple[UInt8[np.ndarray, "n s s 3"], UInt8[np.ndarray, "n s s"]]:
    """At most `OF_TSNE` windows of images, and the class of each pixel."""
    network = experiment.network
    assert faces.parts is not None
    windows, classes = network.windows(faces.images), network.windows(faces.parts[..., None])[..., 0]
    every = -(-len(windows) // OF_TSNE)
    return windows[::every], classes[::every]


def _some_of_target(experiment: Spcl, count: int) -> UInt8[np.ndarray, "n s s 3"]:
    """Windows of images that the user gave as the target, drawn by the seed."""
    records = experiment.unlabelled_images[0][0]
    chosen = np.random.default_rng(experiment.config.seed).permutation(len(records))[:count]
    images = np.stack([records[int(index)]["image"] for index in chosen])
    windows = experiment.network.windows(images)
    return windows[np.random.default_rng(experiment.config.seed).permutation(len(windows))[:count]]


def class_pictures(rows: pd.DataFrame) -> dict[str, Picture]:
    """Each class of the first grouping of each set."""
    drawn = {}
    found = select(rows, metric="IoU", classifier=None)
    for number, split in enumerate(found["split"].unique()):
        of_set = select(found, split=split)
        first = of_set["grouping"].iloc[0]
        bars = parsing_figures.bars_by_class(select(of_set, grouping=first), f"IoU in {split}, %")
        caption = (
            f"Intersection over union of each class in {split} (classes {first}); lines are deviations over other "
            "choices of the images."
        )
        alt = f"Bars of each class in {split}, a colour for each method"
        drawn[f"classes_{number}"] = Picture("Classes by method", caption, figures.png(bars), alt)
    return drawn


def confusion_pictures(found: Sequence[Confusion]) -> dict[str, Picture]:
    """What is taken for what in the first grouping of each set: before adaptation, and in the end."""
    drawn = {}
    by_set: dict[str, list[Confusion]] = {}
    for confusion in found:
        if not confusion.classifier and confusion.method in TRAINED:
            by_set.setdefault(confusion.split, []).append(confusion)
    for number, (split, of_set) in enumerate(by_set.items()):
        of_grouping = [confusion for confusion in of_set if confusion.grouping == of_set[0].grouping]
        shown = {
            f"{split}, after {confusion.method}": confusion.counts.sum(axis=0)
            for confusion in (of_grouping[0], of_grouping[-1])
        }
        caption = (
            f"Of the pixels of each true class in {split} (rows), the share in % that the parser takes for each class "
            "(columns); shares below 0.5 % are not written. A column that is dark off the diagonal belongs to a class "
            "that grows into others."
        )
        picture = figures.png(parsing_figures.confusions(shown, of_grouping[0].classes))
        alt = f"True against predicted classes in {split}, as a heat map"
        drawn[f"confusion_{number}"] = Picture("What is taken for what", caption, picture, alt)
    return drawn


def curve_pictures(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Picture]:
    """What stage `adapt` noted beside its loss."""
    rows = [row for row in metrics if row["stage"] == "adapt"]
    noted = [name for name in CURVES if rows and name in rows[0]]
    if not noted:
        return {}
    panels = {CURVES[name]: np.array([row[name] for row in rows], float) for name in noted}
    caption = (
        "The terms of the loss; the share of target pixels that have a label; and the cosine of the two prototypes "
        "that are most alike: near 1, two classes have become one."
    )
    steps = np.array([row["step"] for row in rows])
    drawn = figures.png(parsing_figures.curves(panels, steps, shares=[CURVES["kept"]]))
    return {"adaptation": Picture("Adaptation", caption, drawn, "Terms of the adaptation's loss over its steps")}


def feature_pictures(experiment: Spcl, parsers: Parsers) -> dict[str, Picture]:
    """t-SNE of pixels' features of source and target, before adaptation and in the end, coloured by class."""
    count, parts, seed = experiment.config.report.pixels, experiment.network.parts, experiment.config.seed
    if not count:
        return {}
    faces = experiment.some_source_images()
    source = faces.take(np.random.default_rng(seed).permutation(len(faces))[:OF_TSNE])
    target, about = _labelled_target(experiment, parsers)
    domains = [_windows(experiment, source), target]
    panels = {}
    for stage in dict.fromkeys((next(iter(parsers.params)), list(parsers.params)[-1])):
        features = [parsers.classes_and_features(stage, windows)[1] for windows, _ in domains]
        draw = np.random.default_rng(seed)  # the same pixels for every stage
        chosen = [
            _some_of_each(adapt.at_feature_size(labels, found), len(parts.names), count, draw)
            for (_, labels), found in zip(domains, features, strict=True)
        ]
        pixels = np.concatenate([found[places] for found, (places, _) in zip(features, chosen, strict=True)])
        points = representation.embed(pixels, perplexity=min(PERPLEXITY, (len(pixels) - 1) / 3), seed=seed)
        panels[f"after {stage}"] = parsing_figures.Embedded(
            points=points,
            classes=np.concatenate([labels for _, labels in chosen]),
            target=np.repeat([0, 1], [len(labels) for _, labels in chosen]),
        )
    caption = (
        f"Features of single pixels in the plane of one t-SNE for each parser, at most {count} of each class and "
        f"domain. Colours are true classes in the source, and {about}. Look for islands that hold one colour and both "
        "shapes: classes apart, domains together. Directions and distances between islands mean nothing."
    )
    drawn = parsing_figures.embedded_pixels(panels, parts.names, parts.colours(), ("source", "target"))
    alt = "Features of pixels as points in the plane, a colour for each class, a shape for each domain"
    return {"features": Picture("Features of pixels by t-SNE", caption, figures.png(drawn), alt)}


def _labelled_target(
    experiment: Spcl, parsers: Parsers
) -> tuple[tuple[UInt8[np.ndarray, "n s s 3"], UInt8[np.ndarray, "n s s"]], str]:
    """Windows and their classes: true ones where a test set has masks, else found ones; and which it is, in words."""
    real = [text for text in experiment.config.measure.sets if settings.described(text).folder != settings.SOURCE]
    for description in real:
        tested = evaluation_sets.open_set(description, experiment)
        if not tested.polygons:
            faces = Faces(images=tested.images, parts=tested.masks)
            order = np.random.default_rng(experiment.config.seed).permutation(len(faces))
            return _windows(experiment, faces.take(order[:OF_TSNE])), f"in the target ({tested.name})"
    windows = _some_of_target(experiment, OF_TSNE)
    found, _ = parsers.classes_and_features(list(parsers.params)[-1], windows)
    return (windows, found), "in the target those that the last parser finds"


def _some_of_each(
    labels: Int[np.ndarray, "n f f"], num_classes: int, count: int, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, ...], Int[np.ndarray, "s"]]:
    """Places of at most so many pixels of each class, and their classes."""
    flat = labels.ravel()
    chosen = [rng.permutation(np.flatnonzero(flat == label))[:count] for label in range(num_classes)]
    places = np.concatenate(chosen)
    return np.unravel_index(places, labels.shape), flat[places].astype(int)
