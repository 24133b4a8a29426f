"""What is timed: the training steps of both stages, clustering, and the input."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from jax.sharding import Mesh
from jaxtyping import Array, Float, Num

from benchmarks.measure import Contender, Row, measure, memory_bytes, repeated
from benchmarks.settings import Settings
from scemae_jax.data import sources
from scemae_jax.model import WINDOW, Architecture
from scemae_jax.models import carb, mae
from scemae_jax.ops.density_peaks import density_peaks_of_images
from scemae_jax.ops.lcr import lcr_loss
from scemae_jax.systems.sce_mae import pretrain, refine
from scemae_jax.training import loop, sharding
from scemae_jax.training.feed import Input, from_host, on_devices

STEPS = 1000
"""Of the learning rate's schedule, which no time depends on."""


class Trainer:
    """A task's compiled step, and the state that it changes."""

    def __init__(self, task: loop.Task, settings: Settings):
        mesh, rules = settings.mesh, settings.config.mesh.rules
        state = loop.initial_state(task)
        self.task, self.mesh = task, mesh
        self._state = sharding.place(state, sharding.by_rules(mesh, state, rules))
        self._seen = jax.jit(loop.gathered_metrics(task).empty, out_shardings=sharding.replicated(mesh))()
        self._constants = sharding.place(task.constants, sharding.replicated(mesh))
        self._batch = task.input.put(mesh, [next(task.input.batches)])
        step: Any = loop.compile_step(task, mesh, rules)
        arguments = self._state, self._seen, self._constants, task.input.resident, self._batch
        self.program = step.lower(*arguments).compile()

    def contender(self, name: str, source: Input | None = None) -> Contender:
        """Steps on batches drawn from a source of the same shapes as the task's; without it, on one batch."""

        def run(count: int) -> None:
            for _ in range(count):
                batch = source.put(self.mesh, [next(source.batches)]) if source else self._batch
                self._state, self._seen = self.program(
                    self._state, self._seen, self._constants, self.task.input.resident, batch
                )
            jax.block_until_ready(self._state)

        return Contender(name, self.task.input.batch_size, run, memory_bytes(self.program))


def noise_on_devices(settings: Settings, batch_size: int) -> Input:
    images = sources.ImagesInMemory(settings.images(2 * batch_size))
    return on_devices([images], [1.0], batch_size=batch_size, seed=0, mesh=settings.mesh)


def random_weights(architecture: Architecture) -> dict[str, Any]:
    """Of encoder, decoder and projector."""
    return pretrain.initial_params(architecture, 0) | {"projector": refine.initial_projector(architecture, 0)}


def pretrain_task(settings: Settings, source: Input) -> loop.Task:
    """Stage 1 from random weights."""
    params = pretrain.initial_params(settings.architecture, 0)
    return pretrain.task(settings.config, settings.architecture, params, source, STEPS)


def refine_task(settings: Settings, source: Input, architecture: Architecture) -> loop.Task:
    """Stage 2 from random weights."""
    weights = random_weights(architecture)
    return refine.task(settings.config, architecture, weights["encoder"], weights["projector"], source, STEPS)


def normalised_views(settings: Settings, count: int) -> Float[np.ndarray, "n 96 96 3"]:
    """What the networks see, without augmentation."""
    return np.asarray(settings.architecture.normalise(jnp.asarray(settings.images(count)[:, :WINDOW, :WINDOW])))


def without_augmentation(task: loop.Task, settings: Settings) -> loop.Task:
    """Stage 1's masked autoencoder and optimiser alone: what the peer does too."""
    network, batch_size = settings.architecture.build_mae(), task.input.batch_size
    patches = (WINDOW // settings.architecture.variant.patch_size) ** 2

    def loss(params: Any, _: Any, batch: dict[str, Num[Array, "b 96 96 3"]], key: Array) -> tuple[Array, dict]:
        noise = jax.random.uniform(key, (batch_size, patches))
        return cast(mae.MAEOutput, network.apply({"params": params}, batch["image"], noise)).loss, {}

    views = sources.ImagesInMemory(normalised_views(settings, batch_size))
    source = from_host([views], [1.0], batch_size=batch_size, seed=0, mesh=settings.mesh)
    return dataclasses.replace(task, loss=loss, input=source)


def pretraining(settings: Settings) -> list[Row]:
    """Stage 1 as it is trained, and without augmentation, beside the peer."""
    task = pretrain_task(settings, noise_on_devices(settings, settings.config.pretrain.batch_size))
    bare = without_augmentation(task, settings)
    contenders = [
        Trainer(task, settings).contender("stage 1 as trained", task.input),
        Trainer(bare, settings).contender("masked autoencoder"),
    ]
    if settings.peer:
        from benchmarks import peer

        contenders += [peer.pretrain_step(settings, compiled=form) for form in sorted({False, settings.compile})]
    rows = measure(contenders, repeats=settings.repeats, seconds=settings.seconds, reference=min(2, len(contenders) - 1))
    task.input.batches.close()
    bare.input.batches.close()
    return rows


def with_hypercolumns(task: loop.Task, settings: Settings, *, hidden: bool) -> loop.Task:
    """Stage 2 on all patches, each described by its tokens after every layer, side by side (depth * width channels).

    The projector is linear, or has a hidden layer. All patches count as attentive: a step's cost is the same.
    """
    architecture, stage = settings.architecture, settings.config.refine
    augmentation, v = ml_collections.FrozenConfigDict(stage.augment), architecture.variant
    encoder, side = architecture.build_encoder(), WINDOW // v.patch_size
    projector = carb.Projector(architecture.projection, hidden, dtype=jnp.dtype(architecture.dtype))
    positions, attentive = jnp.asarray(carb.patch_positions(side, side)), jnp.ones(side**2, bool)
    terms = {"temperature": stage.temperature, "repellence": tuple(stage.repellence)}

    def loss(params: Any, weights: Any, batch: dict[str, Array], key: Array) -> tuple[Array, dict]:
        views, _ = pretrain.random_views(key, batch["image"], augmentation)
        _, seen = cast(Any, encoder.apply({"params": weights}, architecture.normalise(views), intermediates=True))
        columns = jnp.concatenate([seen[f"layer_{number}"][:, 1:] for number in range(1, v.depth + 1)], axis=-1)
        features = projector.apply({"params": params}, jax.lax.stop_gradient(columns))
        return jax.vmap(lambda f: lcr_loss(f, positions, attentive, **terms))(features).mean(), {}

    params = projector.init(jax.random.key(0), jnp.zeros((1, v.depth * v.width)))["params"]
    return dataclasses.replace(task, loss=loss, outputs=(), params=params)


def refinement(settings: Settings) -> list[Row]:
    """Stage 2 as it is trained, with all tokens, with hypercolumns; its clustering alone."""
    architecture, batch_size = settings.architecture, settings.config.refine.batch_size
    patches = (WINDOW // architecture.variant.patch_size) ** 2
    # All tokens but one are attentive, and that one is its own cluster: every layer and the loss see all of them.
    everything = dataclasses.replace(architecture, attentive_fraction=1 - 1 / patches, num_clusters=1)
    task = refine_task(settings, noise_on_devices(settings, batch_size), architecture)
    tasks = {
        "stage 2": task,
        "all tokens": refine_task(settings, task.input, everything),
        "hypercolumns, linear projector": with_hypercolumns(task, settings, hidden=False),
        "hypercolumns, two layers": with_hypercolumns(task, settings, hidden=True),
    }
    contenders = [Trainer(each, settings).contender(name, task.input) for name, each in tasks.items()]
    inattentive = patches - carb.num_attentive(architecture.attentive_fraction, patches)
    contenders.append(density_peaks(settings, batch_size, inattentive, architecture.variant.width))
    rows = measure(contenders, repeats=settings.repeats, seconds=settings.seconds)
    task.input.batches.close()
    return rows


def density_peaks(settings: Settings, images: int, count: int, width: int) -> Contender:
    """Clustering of random tokens."""
    tokens, model = jax.random.normal(jax.random.key(0), (images, count, width)), settings.config.model
    cluster = jax.jit(lambda tokens: density_peaks_of_images(tokens, model.num_clusters, density=model.density))
    program = cluster.lower(tokens).compile()
    return Contender(f"density peaks, {count} x {width}", images, repeated(program, tokens), memory_bytes(program))


def clustering(settings: Settings) -> list[Row]:
    """Density peaks of many images' tokens, of two widths; then of more and more tokens."""
    images, width, rows = settings.cluster_images, settings.architecture.variant.width, []
    count, timing = 130, {"repeats": settings.repeats, "seconds": settings.seconds}
    for features in dict.fromkeys((192, width)):
        contenders = [density_peaks(settings, images, count, features)]
        if settings.peer:
            from benchmarks import peer

            contenders.insert(0, peer.clustering(settings, images, count, features))
        rows += measure(contenders, **timing)
    for more in settings.token_counts:
        rows += measure([density_peaks(settings, 4, more, width)], **timing)
    return rows


def inputs(settings: Settings) -> list[Row]:
    """Stage 1's step on synthetic faces by `data.cache`, beside one on a constant batch; then the input alone.

    The faces are prepared into a temporary folder, as JPEGs, which "none" decodes again for every batch.
    """
    data, mesh = settings.config.data.copy_and_resolve_references(), settings.mesh
    common: dict[str, Any] = {"batch_size": settings.config.pretrain.batch_size, "seed": 0, "mesh": mesh}
    timing = {"repeats": settings.repeats, "seconds": settings.seconds}
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        data.dataset, data.variant, data.data_dir = "synthetic_faces", "tiny", folder
        on_disk, weights = sources.unlabelled_images(data, sources.open_dataset(data))
        in_memory = [sources.in_memory(source) for source in on_disk]
        by_cache = {
            "device": on_devices(in_memory, weights, **common),
            "host": from_host(in_memory, weights, **common),
            "none": from_host(on_disk, weights, workers=settings.workers, **common),
        }
        task = pretrain_task(settings, by_cache["device"])
        resident = Trainer(task, settings)
        handed_over = Trainer(dataclasses.replace(task, input=by_cache["host"]), settings)
        contenders = [handed_over.contender("step, constant batch")]
        for cache, source in by_cache.items():
            trainer = resident if cache == "device" else handed_over
            contenders.append(trainer.contender(f"step, {cache}", source))
        rows = measure(contenders, **timing)
        for cache, source in by_cache.items():  # one after the other: what loads ahead would slow the next
            rows += measure([Contender(f"input alone, {cache}", task.input.batch_size, _draw(source, mesh))], **timing)
            source.batches.close()
    return rows


def _draw(source: Input, mesh: Mesh) -> Callable[[int], None]:
    """Hands batches over to the devices, which do nothing with them."""

    def run(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(source.put(mesh, [next(source.batches)]))

    return run
