"""Whether a device computes what a CPU does: every operation on both, and how far apart the results are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from benchmarks.measure import Row
from benchmarks.settings import Settings
from benchmarks.steps import normalised_views, pretrain_task, random_weights, refine_task
from scemae_jax.data.pipeline import Batches, index_batches
from scemae_jax.faces.frame import FRAME
from scemae_jax.models import carb, mae
from scemae_jax.ops.cover_and_stride import cover_and_stride
from scemae_jax.ops.density_peaks import density_peaks_of_images
from scemae_jax.ops.lcr import lcr_loss
from scemae_jax.ops.ridge import ridge
from scemae_jax.ops.soft_argmax import soft_argmax
from scemae_jax.ops.tps import ThinPlateWarp
from scemae_jax.systems.sce_mae.pretrain import random_views
from scemae_jax.training import loop
from scemae_jax.training.feed import Input

IMAGES = 4
STEPS = 2
"""Of training; the first has a learning rate of zero."""

Results = dict[str, Any]
"""Arrays, or trees of them, by name."""


class Operation(NamedTuple):
    """Something to compute on both devices."""

    name: str
    compute: Callable[..., Results]
    """Traced."""
    inputs: tuple[Any, ...]
    bar: float
    """The largest error that passes."""


def relative_error(expected: Any, found: Any) -> float:
    """|found - expected| / |expected| (norms over all leaves of a tree, in float64); infinite where not finite."""
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    squares = [
        (np.sum((b - a) ** 2), np.sum(a**2))
        for a, b in ((np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs)
    ]
    apart, size = np.sqrt(np.sum(squares, axis=0))
    error = apart / size if size else apart
    return float(error) if np.isfinite(error) else float("inf")


def operations(settings: Settings) -> list[Operation]:
    """Those of float32."""
    architecture = settings.architecture
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    tokens = normal(IMAGES, 130, architecture.variant.width)
    features = normal(IMAGES, 18, architecture.projection)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    positions = rng.integers(0, 12, (IMAGES, 18, 2)).astype(np.float32)
    attentive = jnp.arange(18) < 14
    images = settings.images(IMAGES)
    key = np.asarray(jax.random.key_data(jax.random.key(1)))
    augmentation = settings.config.pretrain.augment.copy_and_resolve_references()
    augmentation.jitter = 0.2

    def cluster(tokens: Array) -> Results:
        """What does not change where equal tokens change places: scores, and distances to the own centre."""
        peaks = density_peaks_of_images(tokens, settings.config.model.num_clusters)
        own = jnp.take_along_axis(peaks.centers, peaks.assignment, axis=1)
        apart = tokens - jnp.take_along_axis(tokens, own[..., None], axis=1)
        return {
            "density": peaks.density,
            "scores of the centres": jnp.take_along_axis(peaks.score, peaks.centers, axis=1),
            "distance to the own centre": jnp.linalg.norm(apart, axis=-1),
        }

    def repel(features: Array, positions: Array) -> Results:
        def loss(features: Array) -> Array:
            terms = {"temperature": settings.config.refine.temperature, "repellence": (5.0, 5.0, 2.0)}
            return jax.vmap(lambda f, p: lcr_loss(f, p, attentive, **terms))(features, positions).mean()

        value, gradient = jax.value_and_grad(loss)(features)
        return {"loss": value, "gradient": gradient}

    def stride(images: Array) -> Results:
        def mean_colours(view: Array) -> Array:
            return view.reshape(len(view), 12, 8, 12, 8, 3).mean(axis=(2, 4))

        floats = images.astype(jnp.float32) / 255
        return {"map": cover_and_stride(mean_colours, floats, window=FRAME.window, stride=4, patch_size=8)}

    def warp(key: Array, images: Array) -> Results:
        drawn = ThinPlateWarp.sample(jax.random.wrap_key_data(key))
        return {"images": jax.vmap(drawn.image)(images.astype(jnp.float32) / 255)}

    def augment(key: Array, images: Array) -> Results:
        views, crops = random_views(jax.random.wrap_key_data(key), images, augmentation)
        return {"views": views, "corners": crops.corner, "sizes": crops.size}

    def regress(features: Array, targets: Array, unlabelled: Array) -> Results:
        # Where two directions vary alike any mixture of them is as good: what is predicted is well defined.
        linear = ridge(features, targets, unlabelled, exponent=0.25, strength=0.002)
        return {"predicted": unlabelled @ linear.kernel + linear.bias}

    return [
        Operation("density peaks", cluster, (tokens,), 1e-4),
        Operation("LCR loss, gradient", repel, (features, positions), 1e-4),
        Operation("cover and stride", stride, (images,), 1e-5),
        Operation("thin-plate warp", warp, (key, images), 1e-4),
        Operation("soft-argmax", lambda maps: {"points": soft_argmax(maps, 10.0)}, (normal(IMAGES, 5, 12, 12),), 1e-4),
        Operation("ridge", regress, (normal(20, 96), normal(20, 10), normal(60, 96)), 1e-3),
        Operation("augmentation", augment, (key, images), 1e-4),
        *networks(settings, bars=(1e-4, 1e-4, 1e-3)),
        selection(settings),
        *(training_steps(settings, task) for task in (pretrain_task, refine_task)),
    ]


def networks(settings: Settings, bars: tuple[float, float, float]) -> list[Operation]:
    """Encoder, masked autoencoder and projector; the bars are of features, losses and gradients."""
    architecture = settings.architecture
    weights = random_weights(architecture)
    params = {name: weights[name] for name in ("encoder", "decoder")}
    views = normalised_views(settings, IMAGES)
    side = architecture.side
    noise = np.random.default_rng(0).random((IMAGES, side**2)).astype(np.float32)
    tokens = np.random.default_rng(1).normal(size=(IMAGES, 18, architecture.variant.width)).astype(np.float32)

    def encode(params: Any, images: Array) -> Results:
        return {"tokens": architecture.build_encoder().apply({"params": params["encoder"]}, images)}

    def loss(params: Any, images: Array, noise: Array) -> Array:
        return cast(mae.MAEOutput, architecture.build_mae().apply({"params": params}, images, noise)).loss

    def reconstruct(params: Any, images: Array, noise: Array) -> Results:
        return {"loss": loss(params, images, noise)}

    def differentiate(params: Any, images: Array, noise: Array) -> Results:
        return {"gradients": jax.grad(loss)(params, images, noise)}

    def project(params: Any, tokens: Array) -> Results:
        return {"projected": architecture.build_carb().projector.apply({"params": params}, tokens)}

    of_features, of_loss, of_gradients = bars
    return [
        Operation("ViT", encode, (params, views), of_features),
        Operation("masked autoencoder, loss", reconstruct, (params, views, noise), of_loss),
        Operation("masked autoencoder, gradients", differentiate, (params, views, noise), of_gradients),
        Operation("projector", project, (weights["projector"], tokens), of_features),
    ]


def selection(settings: Settings) -> Operation:
    """CARB: the maps that the kept tokens stand for, whatever their order."""
    architecture = settings.architecture
    weights = random_weights(architecture)
    params = {name: weights[name] for name in ("encoder", "projector")}

    def select(params: Any, images: Array) -> Results:
        output = architecture.build_carb().apply({"params": params}, images)
        features, selected = cast(tuple[Array, carb.SelectedTokens], output)
        projected = jnp.take_along_axis(features, selected.source[..., None], axis=1)
        return {"similarity": selected.similarity, "map": carb.approximate(selected), "projected map": projected}

    return Operation("CARB, projected", select, (params, normalised_views(settings, IMAGES)), 1e-3)


def training_steps(settings: Settings, build: Callable[[Settings, Input], loop.Task]) -> Operation:
    """Steps of a stage with AdamW from random weights: the last one's loss, and what the parameters become."""
    order = index_batches([IMAGES], weights=[1.0], batch_size=IMAGES, seed=0)
    task = build(settings, Input(batches=Batches(order), batch_size=IMAGES))

    def train(params: Any, constants: Any, images: Array) -> Results:
        state, found = task.optimizer.init(params), jnp.zeros(())
        for step in range(STEPS):
            value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
            (found, _), gradients = value_and_grad(params, constants, {"image": images}, jax.random.key(step))
            updates, state = task.optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return {"loss": found, "parameters": params}

    inputs = (task.params, task.constants, settings.images(IMAGES))
    return Operation(f"{STEPS} steps of {task.name}, AdamW", train, inputs, 1e-3)


def agreement(settings: Settings) -> list[Row]:
    """Every operation on the CPU in float32 and on the default device, there also the networks in bfloat16."""
    cpu, device = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    exact, coarse = (dataclasses.replace(settings, dtype=dtype) for dtype in ("float32", "bfloat16"))
    rows = [_compared(operation, operation, cpu, device, "float32") for operation in operations(exact)]
    reference = networks(exact, bars=(2e-2, 2e-2, 5e-2))
    for operation, rounded in zip(reference, networks(coarse, bars=(0, 0, 0)), strict=True):
        rows.append(_compared(operation, rounded, cpu, device, "bfloat16"))
    return rows


def _compared(operation: Operation, other: Operation, cpu: Any, device: Any, dtype: str) -> Row:
    program = jax.jit(operation.compute)
    expected = _computed_on(cpu, program, operation.inputs)
    if other is not operation:
        program = jax.jit(other.compute)
    found = _computed_on(device, program, operation.inputs)
    errors = {name: relative_error(expected[name], found[name]) for name in expected}
    worst = max(errors, key=lambda name: errors[name])
    return {
        "name": operation.name,
        "dtype": dtype,
        "reference": "float32 on the CPU",
        "device": device.device_kind + (", with itself" if device == cpu else ""),
        "errors": errors,
        "worst": worst,
        "error": errors[worst],
        "bar": operation.bar,
        "passed": errors[worst] <= operation.bar,
    }


def _computed_on(device: Any, program: Callable[..., Results], inputs: tuple[Any, ...]) -> Results:
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        return jax.device_get(program(*jax.device_put(inputs, device)))
