"""Stage `adapt`: a parser that learnt from labelled source images learns from unlabelled target images too.

What is learnt from them is a choice of settings: labels by a teacher or made once, their cross-entropy, and SPCL's
contrast of pixels with semantic prototypes (Xie et al., arXiv 2111.12358).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, UInt8

from scemae_jax.config import Config
from scemae_jax.data import augment
from scemae_jax.faces.frame import AnyArray
from scemae_jax.faces.parts import IGNORED
from scemae_jax.models.parsing import ParsingNetwork, enlarge
from scemae_jax.ops import prototypes
from scemae_jax.ops.colour_transfer import colour_transfer
from scemae_jax.systems.spcl import losses, pseudo_labels
from scemae_jax.systems.spcl.networks import Spcl, chunk_size, parser_optimizer
from scemae_jax.systems.spcl.views import change_look
from scemae_jax.training import loop, optimizer
from scemae_jax.training.feed import Input


class Target(NamedTuple):
    """Target images as the student sees them, and what it is to say of each pixel."""

    images: Float[Array, "b s s 3"]
    probabilities: Float[Array, "b s s k"]
    """Zeros where nothing is known."""


def at_feature_size(
    labels: Integer[AnyArray, "b s s"], features: Float[AnyArray, "b f f c"]
) -> Integer[AnyArray, "b f f"]:
    """The nearest label of each feature."""
    step = labels.shape[1] // features.shape[1]
    return labels[:, step // 2 :: step, step // 2 :: step]


def first_prototypes(
    network: ParsingNetwork,
    params: Any,
    images: UInt8[np.ndarray, "n h w 3"],
    masks: UInt8[np.ndarray, "n h w"],
    *,
    unit: bool,
) -> Float[np.ndarray, "k c"]:
    """Of each class, the mean over source images of the mean feature of its pixels that the parser has right.

    Of the part of the images that is measured; with `unit` of unit length.
    """
    num_classes = len(network.parts.names)

    @jax.jit
    def sums(params: Any, images: Any, labels: Any) -> prototypes.ClassSums:
        parsed = network.apply(params, images.astype(jnp.float32) / 255)
        labels = at_feature_size(labels, parsed.features)
        right = parsed.logits.argmax(axis=-1) == labels
        return prototypes.image_sums(parsed.features, jnp.where(right, labels, IGNORED), num_classes)

    found, size = [], chunk_size(images)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        found.append(sums(params, network.windows(images[part]), network.windows(masks[part, ..., None])[..., 0]))
    means = jax.tree.map(lambda *parts: sum(parts), *found).means()
    return np.asarray(prototypes.unit(means) if unit else means)


def source_prototypes(experiment: Spcl, params: Any) -> Float[np.ndarray, "k c"]:
    """Those of an experiment's labelled images."""
    faces, unit = experiment.some_source_images(), experiment.config.adapt.contrast.unit_prototypes
    assert faces.parts is not None
    return first_prototypes(experiment.network, params, faces.images, faces.parts, unit=unit)


def task(
    config: Config,
    network: ParsingNetwork,
    params: Any,
    source: Input,
    target: Input,
    *,
    weights: np.ndarray,
    start: np.ndarray,
    steps: int,
) -> loop.Task:
    """The adaptation task.

    Args:
      config: the whole config, of which `adapt` counts.
      network: the parser, applied to images in [0, 1].
      params: those that stage `source` left.
      source: images and "parts".
      target: images; with `adapt.labels` of "offline" also "parts", the pseudo-labels, of "masks" the true ones.
      weights: of the classes, in the cross-entropy of source pixels, and of target pixels whose class is true.
      start: prototypes `[k, c]` to begin with.
      steps: how many.
    """
    settings = config.adapt
    frozen: Config = ml_collections.FrozenConfigDict(settings)
    views, student, contrast = frozen.augment, frozen.student, frozen.contrast
    num_classes, window = len(network.parts.names), network.window
    by_teacher = settings.labels == "teacher"

    def look_of_source(key: Array, images: Array, target: Array) -> Array:
        look_key, chosen_key = jax.random.split(key)
        if settings.target_colours:
            chosen = jax.random.bernoulli(chosen_key, settings.target_colours, (len(images), 1, 1, 1))
            images = jnp.where(chosen, colour_transfer(images, target), images)
        return change_look(look_key, images, frozen.look)

    def target_of(key: Array, state: Any, batch: dict[str, Array], source: dict[str, Array]) -> Target:
        mix_key, strong_key = jax.random.split(key)
        images = batch["image"]
        if by_teacher:
            logits = network.apply(state["teacher"], images).logits
            probabilities = jax.nn.softmax(enlarge(logits, (window, window)))
        else:
            probabilities = jax.nn.one_hot(batch["parts"], num_classes)
        if settings.class_mix:
            pasted = pseudo_labels.class_mix(mix_key, source["parts"], num_classes)[..., None]
            images = jnp.where(pasted, source["image"], images)
            probabilities = jnp.where(pasted, jax.nn.one_hot(source["parts"], num_classes), probabilities)
        return Target(change_look(strong_key, images, student), jax.lax.stop_gradient(probabilities))

    def loss(params: Any, fixed: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        source_key, look_key, target_key, student_key = jax.random.split(key, 4)
        source, _ = augment.random_views(source_key, batch["source"], views, window, network.parts)
        drawn, _ = augment.random_views(target_key, batch["target"], views, window, network.parts)
        source["image"] = look_of_source(look_key, source["image"], drawn["image"])
        target = target_of(student_key, fixed.state, drawn, source)
        on_source, on_target = network.apply(params, source["image"]), network.apply(params, target.images)
        labels = at_feature_size(source["parts"], on_source.features)

        right = on_source.logits.argmax(axis=-1) == labels
        right_labels = jnp.where(right, labels, IGNORED)
        seen = prototypes.pixel_sums(on_source.features, right_labels, num_classes)
        moved = prototypes.update(
            fixed.state["prototypes"], seen, momentum=contrast.momentum, normalise=contrast.unit_prototypes
        )

        segmentation = losses.cross_entropy(
            enlarge(on_source.logits, (window, window)) / settings.logit_temperature, source["parts"], weights
        )
        total, outputs = segmentation, {"segmentation": segmentation}
        if settings.target_weight:
            known = target.probabilities * weights if settings.labels == "masks" else target.probabilities
            imitation = losses.soft_cross_entropy(enlarge(on_target.logits, (window, window)), known)
            total, outputs["imitation"] = total + settings.target_weight * imitation, imitation
        guessed, confidence = target.probabilities.argmax(axis=-1), target.probabilities.max(axis=-1)
        sure = (confidence > 0) & (confidence >= contrast.least_confidence)
        guessed = at_feature_size(jnp.where(sure, guessed, IGNORED), on_target.features)
        if contrast.weight:
            terms = {"temperature": contrast.temperature, "class_balanced": contrast.class_balanced}
            own = right_labels if contrast.right_only else labels
            contrastive = prototypes.contrastive_loss(on_source.features, own, moved, **terms)
            contrastive += prototypes.contrastive_loss(on_target.features, guessed, moved, **terms)
            total, outputs["contrastive"] = total + contrast.weight * contrastive, contrastive
        outputs["kept"] = (guessed != IGNORED).mean()
        outputs["largest_cosine"] = prototypes.largest_cosine(moved)
        return total, outputs | {"sums": seen.sums, "counts": seen.counts}

    def next_state(state: Any, params: Any, outputs: dict[str, Any]) -> Any:
        seen = prototypes.ClassSums(outputs["sums"], outputs["counts"])
        vectors = prototypes.update(
            state["prototypes"], seen, momentum=contrast.momentum, normalise=contrast.unit_prototypes
        )
        steps = state["steps"] + 1
        decay = jnp.minimum(settings.teacher_decay, 1 - 1 / (steps + 1))
        teacher = optax.incremental_update(params, state["teacher"], 1 - decay)
        return {"prototypes": vectors, "teacher": teacher, "steps": steps}

    names = ["segmentation", "kept", "largest_cosine"]
    names += ["imitation"] * bool(settings.target_weight) + ["contrastive"] * bool(contrast.weight)
    return loop.Task(
        name="adapt",
        loss=loss,
        outputs=tuple(names),
        params=params,
        constants={},
        state={"prototypes": jnp.asarray(start), "teacher": params, "steps": jnp.zeros((), jnp.int32)},
        next_state=next_state,
        inputs={"source": source, "target": target},
        optimizer=parser_optimizer(settings, steps),
        schedule=optimizer.learning_rate(settings, steps),
        steps=steps,
        seed=config.seed + 1,
        **loop.pace(settings),
    )
