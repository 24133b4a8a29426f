"""The suites: training steps of both stages, clustering, and the input."""

import dataclasses
import functools
import re
import tempfile
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Array, Float, UInt8

from benchmarks.measure import Contender, Row, measure, memory
from scemae_jax import config as configuration
from scemae_jax.config import Config
from scemae_jax.data import sources
from scemae_jax.data.augment import random_views
from scemae_jax.data.pipeline import InMemory
from scemae_jax.faces.frame import FRAME
from scemae_jax.models import carb, mae
from scemae_jax.models.architecture import Architecture
from scemae_jax.ops.density_peaks import density_peaks_of_images
from scemae_jax.ops.lcr import lcr_loss
from scemae_jax.systems.sce_mae import pretrain, refine
from scemae_jax.systems.sce_mae import settings as sce_mae
from scemae_jax.training import loop, sharding
from scemae_jax.training.feed import Input, keep

STEPS = 1000
"""Of the learning rate's schedule; no time depends on it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a run: the flags of `python -m benchmarks`."""

    suite: str = "pretrain,refine,cluster,input,parse,agreement"  # What to measure.
    encoder: str = "S/8"
    decoder: str = "512x8x16"  # Of stage 1: width x depth x heads.
    batch_size: int = 0  # Of both stages; 0: each has the config's.
    dtype: str = "float32"  # Of the networks' arithmetic, or bfloat16.
    peer: Literal["", "torch"] = ""  # To compare with; torch needs transformers too.
    compile: bool = False  # Also the peer by torch.compile; needs a C compiler and minutes.
    repeats: int = 5  # Turns of each.
    seconds: float = 2.0  # Least length of a turn.
    workers: int = 0  # Processes that decode images; 0: threads.
    cluster_images: int = 512  # Images that are clustered at once.
    most_tokens: int = 4096  # The most tokens of an image that are clustered.
    output: str = ""  # JSON file for the results.
    smoke: bool = False  # Tiny sizes instead, a few minutes on a CPU.

    @functools.cached_property
    def config(self) -> Config:
        if not re.fullmatch(r"\d+x\d+x\d+", self.decoder):
            raise ValueError(f"--decoder is {self.decoder!r}: give width x depth x heads, as in 512x8x16")
        config = sce_mae.default()
        sizes = {encoder: size for size, encoder in sce_mae.PAPER_ENCODERS.items()}
        if self.encoder in sizes:
            sce_mae.paper_network(config, sizes[self.encoder])
        model = config.model
        model.encoder, config.dtype = self.encoder, self.dtype
        model.decoder_width, model.decoder_depth, model.decoder_heads = map(int, self.decoder.split("x"))
        for stage in (config.pretrain, config.refine):
            stage.batch_size = self.batch_size or stage.batch_size
        sce_mae.check(config)
        return config

    @property
    def architecture(self) -> Architecture:
        return configuration.architecture(self.config)

    def images(self, count: int) -> UInt8[np.ndarray, "n 136 136 3"]:
        """Noise, as no time depends on the content."""
        return np.random.default_rng(0).integers(0, 256, (count, FRAME.image_size, FRAME.image_size, 3), np.uint8)


SMOKE = {
    "encoder": "XXS/8", "decoder": "32x1x2", "batch_size": 4, "repeats": 2, "seconds": 0.02, "cluster_images": 4,
    "most_tokens": 64,
}  # fmt: skip


class Trainer:
    """A task's compiled step and its state."""

    def __init__(self, task: loop.Task, settings: Settings, own_rules: sharding.Rules | None = None):
        mesh, state = sharding.make_mesh(), loop.initial_state(task)
        rules = settings.config.mesh.rules if own_rules is None else own_rules
        self._batch_size = task.batch_size
        self._draw = lambda: {name: source.put(mesh, source.draw(1)) for name, source in task.inputs.items()}
        self._state = sharding.place(state, sharding.by_rules(mesh, state, rules))
        self._seen = jax.jit(loop.gathered_metrics(task).empty, out_shardings=sharding.replicated(mesh))()
        self._constants = sharding.place(task.constants, sharding.replicated(mesh))
        self._resident = {name: source.resident for name, source in task.inputs.items()}
        self._batch = self._draw()
        step: Any = loop.compile_step(task, mesh, rules)
        self._program = step.lower(self._state, self._seen, self._constants, self._resident, self._batch).compile()

    def contender(self, name: str, *, draw: bool = True) -> Contender:
        """Steps on batches from the task's input, or always on the same batch."""

        def run(count: int) -> None:
            for _ in range(count):
                batch = self._draw() if draw else self._batch
                self._state, self._seen = self._program(self._state, self._seen, self._constants, self._resident, batch)
            jax.block_until_ready(self._state)

        return Contender(name, self._batch_size, run, memory(self._program))


def noise_on_devices(settings: Settings, batch_size: int) -> Input:
    images = InMemory({"image": settings.images(2 * batch_size)})
    kept = keep([images], cache="device", mesh=sharding.make_mesh())
    return kept.batches([1.0], batch_size=batch_size, seed=0)


def stage_task(config: Config, stage: str, source: Input, build: Callable[..., Any] = jax.jit) -> loop.Task:
    """A stage from random weights; `build` wraps the functions that draw them."""
    architecture = configuration.architecture(config)
    params = build(lambda: pretrain.initial_params(architecture, 0))()
    if stage == "pretrain":
        return pretrain.task(config, architecture, params, source, STEPS)
    projector = build(lambda: refine.initial_projector(architecture, 0))()
    return refine.task(config, architecture, params["encoder"], projector, source, STEPS)


def normalised_views(settings: Settings, count: int) -> Float[np.ndarray, "n 96 96 3"]:
    """Normalised centre windows, without augmentation."""
    windows = jnp.asarray(FRAME.centre_window(settings.images(count)))
    return np.asarray(settings.architecture.backbone.normalise(windows))


def without_augmentation(task: loop.Task, settings: Settings) -> loop.Task:
    """Stage 1's masked autoencoder and optimiser alone, which the peer has too."""
    network, batch_size = settings.architecture.build_mae(), task.batch_size
    patches = settings.architecture.backbone.side**2

    def loss(params: Any, _: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict]:
        noise = jax.random.uniform(key, (batch_size, patches))
        return cast(mae.MAEOutput, network.apply({"params": params}, batch["views"]["image"], noise)).loss, {}

    views = InMemory({"image": normalised_views(settings, batch_size)})
    kept = keep([views], cache="none", mesh=sharding.make_mesh())
    source = kept.batches([1.0], batch_size=batch_size, seed=0)
    return dataclasses.replace(task, loss=loss, inputs={"views": source})


def pretraining(settings: Settings) -> list[Row]:
    """Stage 1 as it is trained, and without augmentation, beside the peer."""
    task = stage_task(settings.config, "pretrain", noise_on_devices(settings, settings.config.pretrain.batch_size))
    bare = without_augmentation(task, settings)
    contenders = [
        Trainer(bare, settings).contender("masked autoencoder", draw=False),
        Trainer(task, settings).contender("stage 1 as trained"),
    ]
    if settings.peer:
        from benchmarks import peer

        eager, *compiled = (peer.pretrain_step(settings, compiled=form) for form in sorted({False, settings.compile}))
        contenders = [eager, *contenders, *compiled]
    return measure(contenders, repeats=settings.repeats, seconds=settings.seconds)


def with_hypercolumns(task: loop.Task, settings: Settings, *, hidden: bool) -> loop.Task:
    """Stage 2 on all patches, each described by its tokens after every layer, side by side (depth * width channels).

    The projector is linear, or has a hidden layer. All patches count as attentive; that does not change the cost.
    """
    architecture, stage = settings.architecture, settings.config.refine
    augmentation, backbone = ml_collections.FrozenConfigDict(stage.augment), architecture.backbone
    encoder, side, v = backbone.build(), backbone.side, backbone.variant
    projector = architecture.build_carb().projector.clone(hidden=hidden)
    positions, attentive = jnp.asarray(carb.patch_positions(side, side)), jnp.ones(side**2, bool)
    terms = {"temperature": stage.temperature, "repellence": tuple(stage.repellence)}

    def loss(params: Any, fixed: loop.Fixed, batch: loop.Batch, key: Array) -> tuple[Array, dict]:
        views, _ = random_views(key, batch["unlabelled"], augmentation, FRAME.window)
        weights = {"params": fixed.constants}
        _, seen = cast(Any, encoder.apply(weights, backbone.normalise(views["image"]), intermediates=True))
        columns = jnp.concatenate([seen[f"layer_{number}"][:, 1:] for number in range(1, v.depth + 1)], axis=-1)
        features = projector.apply({"params": params}, jax.lax.stop_gradient(columns))
        return jax.vmap(lambda f: lcr_loss(f, positions, attentive, **terms))(features).mean(), {}

    params = projector.init(jax.random.key(0), jnp.zeros((1, v.depth * v.width)))["params"]
    return dataclasses.replace(task, loss=loss, outputs=(), params=params)


def refinement(settings: Settings) -> list[Row]:
    """Stage 2 as it is trained, with all tokens, with hypercolumns; its clustering alone."""
    architecture, batch_size = settings.architecture, settings.config.refine.batch_size
    patches = architecture.backbone.side**2
    # All tokens but one are attentive, and that one is its own cluster: all layers and the loss see all tokens.
    everything = settings.config.copy_and_resolve_references()
    everything.model.attentive_fraction, everything.model.num_clusters = 1 - 1 / patches, 1
    task = stage_task(settings.config, "refine", noise_on_devices(settings, batch_size))
    tasks = {
        "stage 2": task,
        "all tokens": stage_task(everything, "refine", task.inputs["unlabelled"]),
        "hypercolumns, linear projector": with_hypercolumns(task, settings, hidden=False),
        "hypercolumns, two layers": with_hypercolumns(task, settings, hidden=True),
    }
    contenders = [Trainer(each, settings).contender(name) for name, each in tasks.items()]
    inattentive = patches - carb.num_attentive(settings.config.model.attentive_fraction, patches)
    contenders.append(density_peaks(settings, batch_size, inattentive, architecture.backbone.variant.width))
    return measure(contenders, repeats=settings.repeats, seconds=settings.seconds)


def density_peaks(settings: Settings, images: int, count: int, width: int) -> Contender:
    """Clustering of random tokens."""
    tokens, model = jax.random.normal(jax.random.key(0), (images, count, width)), settings.config.model
    cluster = jax.jit(lambda tokens: density_peaks_of_images(tokens, model.num_clusters, density=model.density))
    program = cluster.lower(tokens).compile()

    def run(calls: int) -> None:
        jax.block_until_ready([program(tokens) for _ in range(calls)])

    return Contender(f"density peaks, {count} x {width}", images, run, memory(program))


def clustering(settings: Settings) -> list[Row]:
    """Density peaks of 130 tokens of two widths, for many images at once; then of more and more tokens."""
    images, width, rows = settings.cluster_images, settings.architecture.backbone.variant.width, []
    for features in dict.fromkeys((192, width)):
        contenders = [density_peaks(settings, images, 130, features)]
        if settings.peer:
            from benchmarks import peer

            contenders.insert(0, peer.clustering(images, 130, features, settings.config.model.num_clusters))
        rows += measure(contenders, repeats=settings.repeats, seconds=settings.seconds)
    counts = [count for count in (64, 256, 1024, 4096) if count <= settings.most_tokens]
    growing = [density_peaks(settings, 4, count, width) for count in counts]
    return rows + measure(growing, repeats=settings.repeats, seconds=settings.seconds)


def inputs(settings: Settings) -> list[Row]:
    """Stage 1's step on synthetic faces (JPEGs in a temporary folder) by `data.cache`, beside a constant batch."""
    config, data = settings.config, settings.config.data.copy_and_resolve_references()
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        data.dataset, data.variant, data.data_dir = "synthetic_faces", "tiny", folder
        images, weights = sources.unlabelled_images(data, [sources.open_dataset(data)])
        common = {"batch_size": config.pretrain.batch_size, "seed": 0, "workers": settings.workers}
        by_cache = {
            cache: keep(images, cache=cache, mesh=sharding.make_mesh()).batches(weights, **common)
            for cache in ("device", "host", "none")
        }
        trainers = {c: Trainer(stage_task(config, "pretrain", source), settings) for c, source in by_cache.items()}
        contenders = [trainers["host"].contender("constant batch", draw=False)]
        contenders += [trainer.contender(cache) for cache, trainer in trainers.items()]
        rows = measure(contenders, repeats=settings.repeats, seconds=settings.seconds)
        for source in by_cache.values():
            source.batches.close()
    return rows
