"""Whether a device agrees with the CPU: errors between their results."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from benchmarks.measure import Row
from benchmarks.suites import Settings, noise_on_devices, stage_task
from scemae_jax.model import Model
from scemae_jax.ops.density_peaks import density_peaks_of_images
from scemae_jax.ops.ridge import ridge
from scemae_jax.ops.tps import ThinPlateWarp
from scemae_jax.training import loop

IMAGES = 4
BARS = {"float32": 1e-3, "bfloat16": 5e-2}
"""The largest errors that pass, by the dtype of the device's networks; the CPU's are float32."""


def relative_error(expected: Any, found: Any) -> float:
    """|found - expected| / |expected| (norms over all leaves of a tree)."""
    expected, found = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (expected, found))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def operations(settings: Settings) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Functions and their inputs, by name. The gradients include augmentation, clustering and the losses."""
    images, rng = settings.images(IMAGES), np.random.default_rng(0)
    pretrain, refine = (
        stage_task(settings.config, stage, noise_on_devices(settings, IMAGES)) for stage in ("pretrain", "refine")
    )

    def gradient(task: loop.Task) -> tuple[Callable[..., Any], Any]:
        def compute(params: Any, constants: Any, images: Array) -> Any:
            return jax.grad(task.loss, has_aux=True)(
                params, loop.Fixed(constants, {}), {"unlabelled": {"image": images}}, jax.random.key(0)
            )[0]

        return compute, (task.params, task.constants, images)

    def features(encoder: Any, projector: Any, images: Array) -> Array:
        params = {"encoder": encoder, "projector": projector}
        return Model(architecture=settings.architecture, params=params).dense_features(images, 4, "both")

    def predict(features: Array, targets: Array, unlabelled: Array) -> Array:
        linear = ridge(features, targets, unlabelled, exponent=0.25, strength=0.002)
        return unlabelled @ linear.kernel + linear.bias

    return {
        "features": (features, (refine.constants, refine.params, images)),
        "gradient, stage 1": gradient(pretrain),
        "gradient, stage 2": gradient(refine),
        "density peaks": (lambda tokens: density_peaks_of_images(tokens, 4).density, (rng.normal(size=(4, 130, 192)),)),
        "thin-plate warp": (lambda image: ThinPlateWarp.sample(jax.random.key(0)).image(image / 255), (images[0],)),
        "ridge": (predict, (rng.normal(size=(20, 96)), rng.normal(size=(20, 10)), rng.normal(size=(60, 96)))),
    }


def agreement(settings: Settings) -> list[Row]:
    """Compares the CPU in float32 with the default device, for features and stage 1 also in bfloat16."""
    cpu, device, rows = jax.local_devices(backend="cpu")[0], jax.local_devices()[0], []
    exact = operations(dataclasses.replace(settings, dtype="float32"))
    for dtype, bar in BARS.items():
        found = exact if dtype == "float32" else operations(dataclasses.replace(settings, dtype=dtype))
        for name in exact if dtype == "float32" else ("features", "gradient, stage 1"):
            error = relative_error(computed_on(cpu, *exact[name]), computed_on(device, *found[name]))
            rows.append({"name": name, "dtype": dtype, "error": error, "bar": bar, "passed": error <= bar})
    return rows


def computed_on(device: Any, compute: Callable[..., Any], inputs: Any) -> Any:
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        return jax.device_get(jax.jit(compute)(*jax.device_put(inputs, device)))
