"""Training steps as `training.loop` compiles them, ready to be timed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Num

from benchmarks import alternatives
from benchmarks.measure import Contender, compile_program
from benchmarks.settings import Settings
from scemae_jax.data.sources import ImagesInMemory
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Architecture
from scemae_jax.models import mae, vit
from scemae_jax.systems.sce_mae import pretrain, refine
from scemae_jax.training import loop, sharding
from scemae_jax.training.feed import Input, from_host, on_devices

STEPS = 1000
"""Of the learning rate's schedule, which no time depends on."""


class Trainer:
    """A task's compiled step and the state that it changes."""

    def __init__(self, task: loop.Task, settings: Settings):
        mesh, rules = settings.mesh, settings.config.mesh.rules
        state = loop.initial_state(task)
        self.task, self.mesh = task, mesh
        self._state = sharding.place(state, sharding.by_rules(mesh, state, rules))
        self._seen = jax.jit(loop.gathered_metrics(task).empty, out_shardings=sharding.replicated(mesh))()
        self._constants = sharding.place(task.constants, sharding.replicated(mesh))
        self._batch = self._draw(task.input)
        self.program = compile_program(
            loop.compile_step(task, mesh, rules),
            self._state, self._seen, self._constants, task.input.resident, self._batch,
        )  # fmt: skip

    def _draw(self, source: Input) -> dict[str, Array]:
        return source.put(self.mesh, [next(source.batches)])

    def _step(self, batch: dict[str, Array]) -> None:
        self._state, self._seen = self.program.call(
            self._state, self._seen, self._constants, self.task.input.resident, batch
        )

    def on_one_batch(self, count: int) -> None:
        """Takes so many steps on the same batch, which lies on the devices."""
        for _ in range(count):
            self._step(self._batch)
        jax.block_until_ready(self._state)

    def on_drawn_batches(self, source: Input) -> Callable[[int], None]:
        """Steps on batches as training draws them, from the task's input or another of the same shapes."""

        def run(count: int) -> None:
            for _ in range(count):
                self._step(self._draw(source))
            jax.block_until_ready(self._state)

        return run

    def contender(self, name: str, run: Callable[[int], None], flops: float, **about: Any) -> Contender:
        return Contender(
            name=name,
            images=self.task.input.batch_size,
            run=run,
            flops=flops,
            compile_seconds=self.program.compile_seconds,
            memory_bytes=self.program.memory_bytes,
            devices=self.mesh.size,
            about=about,
        )


def held_on_devices(settings: Settings, batch_size: int) -> Input:
    images = ImagesInMemory(settings.images(2 * batch_size))
    return on_devices([images], [1.0], batch_size=batch_size, seed=0, mesh=settings.mesh)


@functools.cache
def random_weights(architecture: Architecture) -> dict[str, Any]:
    """Of encoder, decoder and projector."""
    return pretrain.initial_params(architecture, 0) | {"projector": refine.initial_projector(architecture, 0)}


def pretrain_task(settings: Settings, source: Input) -> loop.Task:
    """Stage 1 from random weights."""
    weights = random_weights(settings.architecture)
    params = {name: weights[name] for name in ("encoder", "decoder")}
    return pretrain.task(settings.config, settings.architecture, params, source, STEPS)


def refine_task(settings: Settings, source: Input) -> loop.Task:
    """Stage 2 from random weights."""
    weights = random_weights(settings.architecture)
    return refine.task(settings.config, settings.architecture, weights["encoder"], weights["projector"], source, STEPS)


def normalised_views(settings: Settings, count: int) -> Float[np.ndarray, "n 96 96 3"]:
    """What the networks see, without augmentation."""
    views = jnp.asarray(settings.images(count)[:, : FRAME.window, : FRAME.window])
    return np.asarray(settings.architecture.normalise(views))


def without_augmentation(task: loop.Task, settings: Settings) -> loop.Task:
    """Stage 1's masked autoencoder and optimiser alone, on views that are handed over."""
    stage, batch_size = settings.config.pretrain, task.input.batch_size
    network = settings.architecture.build_mae(vit.LayerLoop(scan=stage.scan_layers, remat=stage.remat))
    patches = settings.architecture.side**2

    def loss(params: Any, _: Any, batch: dict[str, Num[Array, "b 96 96 3"]], key: Array) -> tuple[Array, dict]:
        noise = jax.random.uniform(key, (batch_size, patches))
        return cast(mae.MAEOutput, network.apply({"params": params}, batch["image"], noise)).loss, {}

    views = ImagesInMemory(normalised_views(settings, batch_size))
    source = from_host([views], [1.0], batch_size=batch_size, seed=0, mesh=settings.mesh)
    return dataclasses.replace(task, loss=loss, input=source)


def with_loss(task: loop.Task, settings: Settings, loss_of_images: Callable[..., Array]) -> loop.Task:
    """Stage 2 on the same crops with one of the losses of `alternatives`."""
    architecture, stage = settings.architecture, settings.config.refine
    augmentation = ml_collections.FrozenConfigDict(stage.augment)
    terms = {"temperature": stage.temperature, "repellence": tuple(stage.repellence)}

    def loss(params: Any, encoder: Any, batch: dict[str, Array], key: Array) -> tuple[Array, dict]:
        views, _ = pretrain.random_views(key, batch["image"], augmentation)
        return loss_of_images(params, encoder, architecture.normalise(views), architecture, **terms), {}

    return dataclasses.replace(task, loss=loss, outputs=())


def with_hypercolumns(task: loop.Task, architecture: Architecture, *, hidden: bool) -> loop.Task:
    """Stage 2 with random weights of the projector that `alternatives.hypercolumn_loss` needs."""
    columns = jnp.zeros((1, architecture.variant.depth * architecture.variant.width))
    projector = alternatives.hypercolumn_projector(architecture, hidden=hidden)
    return dataclasses.replace(task, params=projector.init(jax.random.key(0), columns)["params"])
