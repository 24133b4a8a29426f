"""Whether a device computes what a CPU does: every operation on both, and how far apart the results are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.measure import Row
from benchmarks.settings import Settings
from benchmarks.suites import noise_on_devices, pretrain_task, random_weights, refine_task
from scemae_jax.model import Model
from scemae_jax.ops.density_peaks import density_peaks_of_images
from scemae_jax.ops.lcr import lcr_loss
from scemae_jax.ops.ridge import ridge
from scemae_jax.ops.soft_argmax import soft_argmax
from scemae_jax.ops.tps import ThinPlateWarp
from scemae_jax.training import loop

IMAGES = 4


class Operation(NamedTuple):
    """Something to compute on both devices: arrays, or a tree of them."""

    name: str
    compute: Callable[..., Any]
    inputs: tuple[Any, ...]
    bar: float = 1e-4
    """The largest error that passes."""


def relative_error(expected: Any, found: Any) -> float:
    """The largest, over the leaves of a tree, of |found - expected| / |expected| (norms); infinite where not finite."""

    def of_leaf(expected: Any, found: Any) -> float:
        expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
        error = np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0)
        return float(error) if np.isfinite(error) else float("inf")

    return max(jax.tree.leaves(jax.tree.map(of_leaf, expected, found)))


def operations(settings: Settings) -> list[Operation]:
    """Those of float32 alone."""
    rng, architecture = np.random.default_rng(0), settings.architecture

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def cluster(tokens: Array) -> Any:
        """What stays where equal tokens change places."""
        peaks = density_peaks_of_images(tokens, architecture.num_clusters)
        return peaks.density, jnp.take_along_axis(peaks.score, peaks.centers, axis=1)

    def repel(features: Array, positions: Array) -> Any:
        def loss(features: Array) -> Array:
            features /= jnp.linalg.norm(features, axis=-1, keepdims=True)
            return lcr_loss(features, positions, jnp.arange(18) < 14, temperature=0.1, repellence=(5.0, 5.0, 2.0))

        return jax.value_and_grad(loss)(features)

    def warp(key: Array, image: Array) -> Any:
        return ThinPlateWarp.sample(jax.random.wrap_key_data(key)).image(image / 255)

    def regress(features: Array, targets: Array, unlabelled: Array) -> Any:
        # Where two directions vary alike any mixture of them is as good: what is predicted is well defined.
        linear = ridge(features, targets, unlabelled, exponent=0.25, strength=0.002)
        return unlabelled @ linear.kernel + linear.bias

    positions = rng.integers(0, 12, (18, 2)).astype(np.float32)
    key, image = np.asarray(jax.random.key_data(jax.random.key(1))), settings.images(1)[0].astype(np.float32)
    source = noise_on_devices(settings, IMAGES)
    return [
        Operation("density peaks", cluster, (normal(IMAGES, 130, architecture.variant.width),)),
        Operation("LCR loss, gradient", repel, (normal(18, architecture.projection), positions)),
        Operation("thin-plate warp", warp, (key, image)),
        Operation("soft-argmax", lambda maps: soft_argmax(maps, 10.0), (normal(IMAGES, 5, 12, 12),)),
        Operation("ridge", regress, (normal(20, 96), normal(20, 10), normal(60, 96)), 1e-3),
        gradients(settings, refine_task(settings, source, architecture), 1e-3),
    ]


def networks(settings: Settings, bars: tuple[float, float]) -> list[Operation]:
    """Features by cover-and-stride, and stage 1 with its augmentation, in the dtype of the settings."""
    weights = random_weights(settings.architecture)

    def features(params: Any, images: Array) -> Array:
        return Model(architecture=settings.architecture, params=params).dense_features(images, 4, "both")

    params = {name: weights[name] for name in ("encoder", "projector")}
    task = pretrain_task(settings, noise_on_devices(settings, IMAGES))
    inputs = params, settings.images(IMAGES)
    return [Operation("features", features, inputs, bars[0]), gradients(settings, task, bars[1])]


def gradients(settings: Settings, task: loop.Task, bar: float) -> Operation:
    """Loss and gradient of a stage, from random weights."""

    def compute(params: Any, constants: Any, images: Array) -> Any:
        value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
        (loss, _), gradient = value_and_grad(params, constants, {"image": images}, jax.random.key(0))
        return loss, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

    return Operation(f"gradient of {task.name}", compute, (task.params, task.constants, settings.images(IMAGES)), bar)


def agreement(settings: Settings) -> list[Row]:
    """Every operation on the CPU in float32 and on the default device, there also the networks in bfloat16."""
    cpu, device = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    exact, rounded = (dataclasses.replace(settings, dtype=dtype) for dtype in ("float32", "bfloat16"))
    same = [*operations(exact), *networks(exact, (1e-4, 1e-3))]
    coarse = networks(rounded, (2e-2, 5e-2))
    rows = []
    for reference, other in [*zip(same, same, strict=True), *zip(same[-2:], coarse, strict=True)]:
        error = relative_error(_computed_on(cpu, reference), _computed_on(device, other))
        dtype = "float32" if reference is other else "bfloat16"
        rows.append({"name": other.name, "dtype": dtype, "error": error, "bar": other.bar, "passed": error <= other.bar})
    return rows


def _computed_on(device: jax.Device, operation: Operation) -> Any:
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        return jax.device_get(jax.jit(operation.compute)(*jax.device_put(operation.inputs, device)))
