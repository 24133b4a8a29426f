"""A parser from arrays: images with masks, and images of the target without any."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Num, UInt8

from scemae_jax.data.pipeline import InMemory
from scemae_jax.faces.frame import Placement
from scemae_jax.faces.parts import DRAWN, IGNORED, PartScheme
from scemae_jax.model import Model, as_square_images, placement
from scemae_jax.models.parsing import ParsingNetwork, PartParser
from scemae_jax.systems.spcl import adapt, losses, settings, source
from scemae_jax.training import loop, sharding
from scemae_jax.training.feed import Input, keep

SETTINGS = {"source", "adapt", "head_width"}
"""The fields of SPCL's config that a parser from arrays depends on."""

CHUNK = 32
"""Images that are brought to squares at a time."""


def fit_parser(
    model: Model,
    images: Num[np.ndarray, "n h w 3"],
    masks: UInt8[np.ndarray, "n h w"],
    *,
    part_names: Sequence[str] = DRAWN.names,
    mirror: Sequence[tuple[str, str]] = (),
    target: Num[np.ndarray, "m h2 w2 3"] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Model:
    """A model that also parses images, learnt from images with masks: `model.parse(images)`.

    It learns as the stages `source` and `adapt` of SPCL do, and writes no files. Encoder and head both learn: with
    the default settings half an hour on two CPU cores for a small encoder, twice that with a target.

    Args:
      model: its encoder is where the parser's starts; nothing in the model changes.
      images: faces, of one size; uint8, or floats in [0, 1].
      masks: of each pixel an index of `part_names`, or 255 where it is not known.
      part_names: of the values.
      mirror: pairs of them that change places when an image is mirrored, ("left eye", "right eye") say.
      target: images without masks, some hundreds, of the kind that is to be parsed; of one size.
      seed: of the head, and of the order of the images.
      **changes: settings of SPCL to change, by section: `source={"steps": 600}`, `adapt={"contrast": {"weight": 0}}`,
        `head_width=32`.

    Raises:
      ValueError: images, masks and names do not fit each other, no pixel is known, or a setting does not fit;
        AttributeError or KeyError for a setting that does not exist.
    """
    parts = PartScheme(names=tuple(part_names), mirror=tuple(mirror))
    placed, config = placement(images, model.frame), settings.default()
    _check(images, masks, parts)
    if unknown := changes.keys() - SETTINGS:
        raise AttributeError(f"no setting of fit_parser is called {sorted(unknown)}: there are {sorted(SETTINGS)}")
    config.lock().update({"seed": seed, **changes})
    settings.check(config)
    if config.adapt.labels != "teacher":
        raise ValueError(f"adapt.labels is {config.adapt.labels!r}: fit_parser adapts with a teacher, so leave it out")
    if config.source.adversary and target is None:
        raise ValueError("source.adversary compares with target images, and there are none: give some, or leave it out")
    backbone = model.architecture.backbone
    network = ParsingNetwork(backbone=backbone, parts=parts, width=config.head_width)
    squares, labels = _squares(images, model), _square_masks(masks, placed)
    weights = losses.class_weights_of(losses.pixels_of(labels, parts.names), parts.names)
    labelled = {"image": squares, "parts": labels}
    if target is not None and not len(target):
        raise ValueError("target has no images: give some, or leave it out")
    unlabelled = None if target is None else {"image": _squares(target, model)}

    inputs = {"source": _batches(labelled, config.source.batch_size, seed)}
    if config.source.adversary and unlabelled is not None:
        inputs["target"] = _batches(unlabelled, config.source.batch_size, seed + 1)
    start = network.initial_params(seed, model.params["encoder"])
    learnt = _train(source.task(config, network, start, inputs, weights=weights, steps=config.source.steps)).params
    learnt = {name: learnt[name] for name in ("encoder", "head")}
    if unlabelled is not None:
        size = config.adapt.batch_size
        unit = config.adapt.contrast.unit_prototypes
        task = adapt.task(
            config, network, learnt, _batches(labelled, size, seed + 2), _batches(unlabelled, size, seed + 3),
            weights=weights, start=adapt.first_prototypes(network, learnt, squares, labels, unit=unit),
            steps=config.adapt.steps,
        )  # fmt: skip
        learnt = _train(task).state["teacher"]
    parser = PartParser(parts=parts, width=config.head_width, params=jax.device_get(learnt))
    return dataclasses.replace(model, parser=parser)


def _check(images: Any, masks: Any, parts: PartScheme) -> None:
    """Raises ValueError where they do not fit each other."""
    masks, there, names = np.asarray(masks), np.shape(masks), parts.names
    if there != np.shape(images)[:3]:
        raise ValueError(
            f"masks have the shape {there}, and images {np.shape(images)}: give a mask [height, width] for each image, "
            "in its size"
        )
    if masks.dtype != np.uint8:
        raise ValueError(f"masks are of type {masks.dtype}: give uint8, whose values are indices of part_names or 255")
    if not len(images):
        raise ValueError("there are no images: a parser needs some with masks")
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names):
        raise ValueError(f"part_names has {len(names)}, {len(set(names))} of them different: give 2 to 255 names")
    if unknown := [name for pair in parts.mirror for name in pair if name not in names]:
        raise ValueError(f"mirror names {', '.join(unknown)}: choose from part_names, {', '.join(names)}")
    values = np.flatnonzero(np.bincount(masks.ravel(), minlength=256))
    if nameless := [int(value) for value in values if len(names) <= value != IGNORED]:
        raise ValueError(
            f"masks have the values {nameless}, and there are {len(names)} part_names (values 0 to {len(names) - 1}): "
            "name them, or set those pixels to 255"
        )
    if values.tolist() == [IGNORED]:
        raise ValueError("every pixel of the masks is 255, not known: there is nothing to learn from")


def _squares(images: Num[np.ndarray, "n h w 3"], model: Model) -> UInt8[np.ndarray, "n s s 3"]:
    size, found = model.frame.image_size, []
    for start in range(0, len(images), CHUNK):
        squares = np.asarray(as_square_images(images[start : start + CHUNK], model.frame))
        found.append(squares if squares.dtype == np.uint8 else np.rint(255 * squares).astype(np.uint8))
    return np.concatenate([np.zeros((0, size, size, 3), np.uint8), *found])


def _square_masks(masks: UInt8[np.ndarray, "n h w"], placed: Placement) -> UInt8[np.ndarray, "n s s"]:
    """As the images: each pixel of the square has the value of the nearest of the mask, or is not known."""
    (width, height), (left, top) = placed.scaled, placed.padding
    columns, rows = (
        ((np.arange(side) + 0.5) / scale).astype(int) for side, scale in zip(placed.scaled, placed.scale, strict=True)
    )
    squares = np.full((len(masks), placed.square, placed.square), IGNORED, np.uint8)
    squares[:, top : top + height, left : left + width] = masks[:, rows[:, None], columns]
    return squares


def _batches(arrays: dict[str, np.ndarray], batch_size: int, seed: int) -> Input:
    kept = keep([InMemory(arrays)], cache="device", mesh=sharding.own_mesh())
    return kept.batches([1.0], batch_size=batch_size, seed=seed)


def _train(task: loop.Task) -> loop.TrainState:
    return loop.fit(task, workdir=None, mesh=sharding.own_mesh())
