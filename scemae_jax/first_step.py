"""Takes a few steps of stages 1 and 2 as a config has them, before a long run: does it work here, and how fast is it?

  python -m scemae_jax.first_step --config configs/celeba.py:s8

Batch, precision, network, augmentation, gradients and optimiser are the config's; the images are noise. Nothing is
written. A run may also hold its images on the device (`config.data.cache`): leave room for them.
Exit status: 0 if every step ran and the first loss and its gradients are finite, otherwise 1.
"""

from __future__ import annotations

import sys
import time

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from scemae_jax import config as configuration
from scemae_jax.command_line import exit_status, start
from scemae_jax.config import Config
from scemae_jax.data.pipeline import Batches, index_batches
from scemae_jax.faces.frame import FRAME
from scemae_jax.run_flags import CONFIG
from scemae_jax.systems.sce_mae import pretrain, refine
from scemae_jax.systems.sce_mae.stages import SYSTEM
from scemae_jax.training import loop, sharding
from scemae_jax.training.feed import Input
from scemae_jax.training.metrics import NEVER

TIMED = 3
"""Steps that are timed after the first."""


def first_step(config: Config, stage: str, mesh: Mesh) -> tuple[float, float]:
    """Takes a step of `pretrain` or `refine` from random weights, then `TIMED` more.

    Returns:
      The loss of the first, and the seconds that each of the others took.

    Raises:
      jax.errors.JaxRuntimeError: among others where the step does not fit into the devices' memory.
      FloatingPointError: the loss or a gradient is not finite.
      ValueError: a rule of `config.mesh` does not fit a parameter.
    """
    architecture, batch_size = configuration.architecture(config), config[stage].batch_size
    batches = Batches(index_batches([batch_size], weights=[1.0], batch_size=batch_size, seed=0))
    source, params = Input(batches=batches, batch_size=batch_size), pretrain.initial_params(architecture, config.seed)
    if stage == "pretrain":
        task = pretrain.task(config, architecture, params, source, steps=1)
    else:
        projector = refine.initial_projector(architecture, config.seed)
        task = refine.task(config, architecture, params["encoder"], projector, source, steps=1)

    state = loop.initial_state(task)
    state = sharding.place(state, sharding.by_rules(mesh, state, config.mesh.rules))
    constants = sharding.place(task.constants, sharding.replicated(mesh))
    seen = jax.jit(loop.gathered_metrics(task).empty, out_shardings=sharding.replicated(mesh))()
    shape = (batch_size, FRAME.image_size, FRAME.image_size, 3)  # as the data have them, whatever the model's are
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = {"unlabelled": sharding.shard_batch(mesh, {"image": images})}
    resident = {"unlabelled": source.resident}
    step = loop.compile_step(task, mesh, config.mesh.rules)
    state, seen = step(state, seen, constants, resident, batch)
    found = jax.device_get(seen.compute())
    if found["first_nonfinite"] != NEVER:
        raise FloatingPointError(f"the loss is {found['loss']}, the gradient's norm {found['gradient_norm']}")
    started = time.monotonic()
    for _ in range(TIMED):
        state, seen = step(state, seen, constants, resident, batch)
    jax.block_until_ready(state)
    return float(found["loss"]), (time.monotonic() - started) / TIMED


def main() -> None:
    config = CONFIG.value
    with exit_status():
        if config.get("system") != SYSTEM.name:
            raise ValueError(f"config.system is {config.get('system')!r}: the first step knows sce_mae alone")
        SYSTEM.check_config(config)
        mesh = sharding.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
        for stage in ("pretrain", "refine"):
            loop.check_batch(stage, config[stage].batch_size, config[stage].accumulate, mesh)
    about = f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {config.model.encoder}, {config.dtype}"
    for stage in ("pretrain", "refine"):
        if stage not in config.stages:
            continue
        what = f"first step of {stage} ({about}, batch_size {config[stage].batch_size})"
        started = time.monotonic()
        try:
            loss, each = first_step(config, stage, mesh)
        except Exception as error:  # whatever the devices, their compiler or their libraries say
            logging.debug("where it happened", exc_info=True)
            sys.exit(f"{what} failed: {type(error).__name__}: {error}\n{advice(stage, error)}")
        took = time.monotonic() - started
        print(f"{what}: loss {loss:.3f}, {took:.0f} s with compilation, then {each:.3g} s a step", flush=True)


def advice(stage: str, error: Exception) -> str:
    """What to do about a step that did not run."""
    if isinstance(error, FloatingPointError):
        return "Try --config.dtype=float32, and report it if that helps: this precision should be enough."
    if isinstance(error, ValueError):
        return "The config has to change, as this says."
    if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
        return (
            f"It does not fit into memory: try --config.{stage}.accumulate=2 (or 4), a smaller "
            f"--config.{stage}.batch_size, or end what else uses the device."
        )
    return (
        "Does the driver fit (nvidia-smi), and are jax, jaxlib and the CUDA plugin of one version (pip list)? "
        "--config.dtype=float32 goes without cuDNN's attention. (--verbosity=1 shows where it happened.)"
    )


if __name__ == "__main__":
    start(main, "config")
