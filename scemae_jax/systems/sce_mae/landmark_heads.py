"""Landmark heads on frozen features: those that heatmaps train, and a linear one for few annotations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, Num

from scemae_jax.config import Config
from scemae_jax.data import pipeline
from scemae_jax.faces.landmarks import scheme_of
from scemae_jax.model import Model, as_square_images, placement
from scemae_jax.models.heads import Head, LandmarkHead, LinearHead, Reads
from scemae_jax.ops.ridge import ridge
from scemae_jax.ops.tps import ThinPlateWarp
from scemae_jax.systems.sce_mae.settings import default
from scemae_jax.training import loop, optimizer, sharding
from scemae_jax.training.feed import Input

LOSS_SCALE = 10.0

LINEAR_SETTINGS = {"stride", "mirror", "linear"}
"""The fields of `config.detect` that a linear head depends on, whatever it reads."""


def mirrored_targets(targets: Float[np.ndarray, "n l 2"]) -> Float[np.ndarray, "n l 2"]:
    """Normalised landmarks of the mirrored images; raises ValueError as `LandmarkScheme.mirrored_order`."""
    return (targets * [-1, 1])[:, scheme_of(targets.shape[1]).mirrored_order()]


def with_mirrored(function: Callable[[Any], Array], images: Any, mirror: bool) -> Array:
    """What a function gives for images, and behind it what it gives for them mirrored, if `mirror`."""
    found = function(images)
    return jnp.concatenate([found, function(images[:, :, ::-1])]) if mirror else found


def few_annotations_warp(key: Key[Array, ""]) -> ThinPlateWarp:
    """A warp as ContrastLandmark (Cheng et al., ICCV 2021) draws it for few annotations.

    Half of the spline's weights, drawn at random, are 0 (its `warpsd_subset`), the others N(0, 0.0005).
    """
    return ThinPlateWarp.sample(
        key, subset_weight_sd=0.0, translation_sd=0.02, scale_sd=0.02, rotation_sd_degrees=2.0
    )  # fmt: skip


@jax.jit
def _warped(keys: Key[Array, "n"], images: Num[Array, "n 136 136 3"], landmarks: Float[Array, "n l 2"]) -> Any:
    def one(arguments: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        key, image, points = arguments
        warp = few_annotations_warp(key)
        if jnp.issubdtype(image.dtype, jnp.integer):
            image = image.astype(jnp.float32) / 255
        return jnp.clip(warp.image(image), 0, 1), warp.landmarks(points, *image.shape[:2])

    return jax.lax.map(one, (keys, images, landmarks))


def warped_faces(
    images: Num[Array | np.ndarray, "n 136 136 3"], landmarks: Float[np.ndarray, "n l 2"], count: int, *, seed: int
) -> tuple[Float[Array, "v 136 136 3"], Float[np.ndarray, "v l 2"]]:
    """`count` views, or one of each image where there are more, by `few_annotations_warp`.

    Every image is drawn once before any is drawn again. Views are in [0, 1], landmarks in pixels.
    """
    rng, number = np.random.default_rng(seed), len(images)
    rounds = -(-max(count, number) // number)
    drawn = np.concatenate([rng.permutation(number) for _ in range(rounds)])[: max(count, number)]
    keys = jax.random.split(jax.random.key(seed), len(drawn))
    views, points = _warped(keys, jnp.asarray(images)[drawn], jnp.asarray(landmarks, jnp.float32)[drawn])
    return views, np.asarray(points)


def fit_linear_head(
    model: Model,
    images: Num[Array | np.ndarray, "n 136 136 3"],
    landmarks: Float[np.ndarray, "n l 2"],
    unlabelled: Num[Array | np.ndarray, "m 136 136 3"] | None,
    settings: Config,
    *,
    seed: int,
) -> Head:
    """A linear head for few annotations, by `ops.ridge` on warped views of them: seconds, and no step size to choose.

    Ours, not the paper's. `unlabelled` faces tell how features vary, some hundreds of them; without any, the warped
    views have to. `settings` is `config.detect`, of which stride, mirror, projected_weight and the fields of `linear`
    count.

    Raises:
      ValueError: there are no images, a landmark is unknown, or there is but one unlabelled image.
    """
    _check_annotated(images, landmarks)
    if unlabelled is not None and len(unlabelled) < 2:
        raise ValueError(
            f"{len(unlabelled)} unlabelled faces do not show how features vary: give some hundreds, or None"
        )
    views, points = warped_faces(images, landmarks, settings.linear.views, seed=seed)
    targets = model.frame.normalise(points)
    reads = Reads(settings.stride, settings.linear.which, settings.projected_weight)

    def features(faces: Any) -> Array:
        found = with_mirrored(lambda faces: model.device_features(faces, *reads), faces, settings.mirror)
        return found.reshape(len(found), -1)

    if settings.mirror:
        targets = np.concatenate([targets, mirrored_targets(targets)])
    annotated = features(views)
    fitted = ridge(
        annotated, jnp.asarray(targets.reshape(len(targets), -1), jnp.float32),
        annotated if unlabelled is None else features(unlabelled),
        exponent=settings.linear.exponent, strength=settings.linear.strength,
    )  # fmt: skip
    params = jax.device_get({"linear": {"kernel": fitted.kernel, "bias": fitted.bias}})
    return Head(network=LinearHead(landmarks.shape[1]), params=params, reads=reads)


def _check_annotated(images: Any, landmarks: Float[np.ndarray, "n l 2"]) -> None:
    if not len(images) or not np.isfinite(landmarks).all():
        raise ValueError(f"a detector needs annotated faces: {len(images)} given, {int(np.isnan(landmarks).sum())} "
                         "unknown coordinates among them")  # fmt: skip


@functools.cache
def landmark_loss(network: nn.Module) -> loop.LossFn:
    """Huber's, of the landmarks that a network finds in the inputs of a batch."""

    def loss(params: Any, _: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        examples = batch["annotated"]
        predicted = cast(Array, network.apply({"params": params}, examples["inputs"]))
        return optax.huber_loss(LOSS_SCALE * predicted, LOSS_SCALE * examples["landmarks"]).mean(), {}

    return loss


@functools.partial(jax.jit, static_argnames="network")
def initial_params(network: nn.Module, key: Key[Array, ""], inputs: Array) -> Any:
    return network.init(key, inputs)["params"]


def _take(resident: dict[str, Array], batch: dict[str, Array]) -> dict[str, Array]:
    return {name: values[batch["number"]] for name, values in resident.items()}


def annotated_input(
    inputs: Num[Array | np.ndarray, "n h w c"], landmarks: Float[np.ndarray, "n l 2"], batch_size: int, seed: int
) -> Input:
    """Features or images, and their normalised landmarks, which stay on this process's devices.

    The batch is cut down to the number of inputs, and to a multiple of the devices.
    """
    mesh = sharding.own_mesh()
    batch_size = max(min(batch_size, len(inputs)) // mesh.size, 1) * mesh.size
    order = pipeline.index_batches([len(inputs)], weights=[1.0], batch_size=batch_size, seed=seed)
    resident = {"inputs": inputs, "landmarks": np.asarray(landmarks, np.float32)}
    return Input(
        batches=pipeline.Batches(order),
        batch_size=batch_size,
        resident=jax.device_put(resident, sharding.replicated(mesh)),
        read=_take,
    )


def fit_head(
    model: Model,
    images: Num[Array | np.ndarray, "n 136 136 3"],
    landmarks: Float[np.ndarray, "n l 2"],
    settings: Config,
    *,
    seed: int,
    workdir: Path | None = None,
    name: str = "detect",
    stop_at: float | None = None,
) -> Head:
    """Trains a landmark head on features computed once and kept on the accelerator, where they fit.

    Where they would take more than `settings.memory_gib`, the images are kept instead, and each batch's features are
    computed anew: the same head in more time.

    Args:
      model: gives the features; nothing in it changes.
      images: annotated faces.
      landmarks: (x, y) in pixels of them.
      settings: `config.detect`.
      seed: of the head's initial weights and of the order of the images.
      workdir: checkpoints and metrics go there, under `name`; None writes nothing.
      name: of the task.
      stop_at: see `loop.fit`.

    Raises:
      ValueError: there are no images, or a landmark is unknown.
    """
    _check_annotated(images, landmarks)
    targets = model.frame.normalise(landmarks)
    if settings.mirror:
        targets = np.concatenate([targets, mirrored_targets(targets)])
    network = LandmarkHead(landmarks.shape[1], settings.heatmaps, settings.kernel_size, settings.gain)
    reads = Reads(settings.stride, settings.which, settings.projected_weight)
    one = model.device_features(images[:1], *reads)
    loss, constants = landmark_loss(network), {}  # pyright: ignore[reportArgumentType] - Flax's modules are hashable
    if len(targets) * one.nbytes <= settings.memory_gib * 2**30:
        inputs = with_mirrored(lambda faces: model.device_features(faces, *reads), images, settings.mirror)
    else:
        inputs, constants = with_mirrored(jnp.asarray, images, settings.mirror), model.params
        loss = _loss_of_images(model, loss, reads)
    source = annotated_input(inputs, targets, settings.batch_size, seed)
    steps = settings.steps or max(settings.least_steps, 1, round(settings.epochs * len(targets) / source.batch_size))
    cosine = round(steps * settings.cosine_epochs / settings.epochs) if settings.cosine_epochs else steps
    task = loop.Task(
        name=name,
        loss=loss,
        outputs=(),
        params=initial_params(network, jax.random.key(seed), one),
        constants=constants,
        inputs={"annotated": source},
        optimizer=optimizer.adam_l2(settings, cosine),
        schedule=optimizer.learning_rate(settings, cosine),
        steps=steps,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        seed=seed,
    )
    trained = loop.fit(task, workdir=workdir, mesh=sharding.own_mesh(), stop_at=stop_at)
    return Head(network=network, params=jax.device_get(trained.params), reads=reads)


def _loss_of_images(model: Model, loss: loop.LossFn, reads: Reads) -> loop.LossFn:
    """The loss of a batch whose inputs are images: their features are computed on the way."""

    def loss_of_images(params: Any, fixed: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        examples = dict(batch["annotated"])
        found = dataclasses.replace(model, params=fixed.constants).dense_features(examples["inputs"], *reads)
        return loss(params, fixed, {"annotated": examples | {"inputs": jax.lax.stop_gradient(found)}}, key)

    return loss_of_images


def choose_kind(number: int, settings: Config) -> str:
    """The kind of head for so many annotated images: linear below `settings.linear.below`. Prints it, and why."""
    below = settings.linear.below
    kind, why = ("linear", "fewer") if number < below else ("heatmaps", "not fewer")
    print(f"landmark head: {kind}, since {number} annotated images are {why} than linear.below={below}")
    return kind


def fit_detector(
    model: Model,
    images: Num[Array | np.ndarray, "n h w 3"],
    landmarks: Float[np.ndarray, "n l 2"],
    *,
    unlabelled: Num[Array | np.ndarray, "m h w 3"] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Model:
    """A model that also detects these landmarks, learnt from annotated faces: `model.detect(images)`.

    Fewer images than `linear.below` get a linear head (seconds), more of them one with heatmaps; it says which.

    Args:
      model: from `scemae_jax.load`.
      images: faces cut as the training ones, of any size; uint8, or floats in [0, 1].
      landmarks: (x, y) in pixels of `images`, (0, 0) the centre of the top left one.
      unlabelled: more such faces, some hundreds, which nobody annotated; they make a linear head better.
      seed: of the head.
      **settings: fields of `config.detect` to change, such as mirror or, for a head with heatmaps, epochs;
        `linear={"below": 0}` asks for that one whatever the number of images.

    Raises:
      ValueError: as `fit_head` and `fit_linear_head`, or for a setting that a linear head does not have;
        AttributeError for one that does not exist.
    """
    fields = default().detect
    if unknown := settings.keys() - fields.keys():
        raise AttributeError(f"no detector setting is called {sorted(unknown)}: there are {sorted(fields)}")
    fields.update(settings)
    squares = as_square_images(images, model.frame)
    in_squares = placement(images, model.frame).to_square(np.asarray(landmarks))
    is_linear = choose_kind(len(images), fields) == "linear"
    reads = fields.linear.which if is_linear else fields.which
    if "projected_weight" in settings and reads != "both":
        raise ValueError(
            f"projected_weight is that of the projected features beside the backbone's, and this head reads {reads!r} "
            "alone: leave it out, or ask for 'both' (which, or linear={'which': 'both'} for a linear head)"
        )
    if not is_linear:
        return model.with_head(fit_head(model, squares, in_squares, fields, seed=seed))
    if unread := sorted(settings.keys() - LINEAR_SETTINGS - {"projected_weight"}):
        raise ValueError(
            f"{len(images)} images get a linear head (linear.below is {fields.linear.below}), which has no "
            f"{', '.join(unread)}: leave that out, or ask for a head with heatmaps with linear={{'below': 0}}"
        )
    others = None if unlabelled is None else as_square_images(unlabelled, model.frame)
    return model.with_head(fit_linear_head(model, squares, in_squares, others, fields, seed=seed))
