"""Parsing: images per second of `Model.parse`, and SPCL's adaptation step beside its passes alone."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from benchmarks.measure import Contender, Row, measure
from benchmarks.suites import STEPS, Settings, Trainer
from scemae_jax.data.pipeline import InMemory
from scemae_jax.faces.parts import DRAWN
from scemae_jax.model import CHUNK, Model
from scemae_jax.models.parsing import ParsingNetwork, PartParser
from scemae_jax.systems.sce_mae import pretrain
from scemae_jax.systems.spcl import adapt, losses
from scemae_jax.systems.spcl.settings import default
from scemae_jax.training import sharding
from scemae_jax.training.feed import keep


def parsing(settings: Settings) -> list[Row]:
    """`Model.parse` of squares; the adaptation step, beside its gradient of two batches and its teacher's pass."""
    architecture, config, classes = settings.architecture, default(), len(DRAWN.names)
    size, times = (
        settings.batch_size or config.adapt.batch_size,
        {"repeats": settings.repeats, "seconds": settings.seconds},
    )
    network = ParsingNetwork(backbone=architecture.backbone, parts=DRAWN, width=config.head_width)
    params = network.initial_params(0, pretrain.initial_params(architecture, 0)["encoder"])
    images, masks = settings.images(CHUNK), np.random.default_rng(0).integers(0, classes, (CHUNK, 136, 136), np.uint8)
    parser = PartParser(parts=DRAWN, width=config.head_width, params=params)
    model = Model(architecture=architecture, params=params, parser=parser)

    kept = keep([InMemory({"image": images, "parts": masks})], cache="device", mesh=sharding.make_mesh())
    source, target = (kept.batches([1.0], batch_size=size, seed=seed) for seed in (0, 1))
    start = np.eye(classes, config.head_width, dtype=np.float32)
    task = adapt.task(config, network, params, source, target, weights=np.ones(classes), start=start, steps=STEPS)
    windows = jax.random.uniform(jax.random.key(0), (2, size, network.window, network.window, 3))

    @jax.jit
    def passes(params: Any) -> Any:
        taught = jax.nn.softmax(network.apply(params, windows[1]).logits)

        def loss(params: Any) -> Array:
            first, second = (losses.soft_cross_entropy(network.apply(params, x).logits, taught) for x in windows)
            return first + second

        return jax.grad(loss)(params)

    def run_passes(count: int) -> None:
        jax.block_until_ready([passes(params) for _ in range(count)])

    def run_parse(count: int) -> None:
        for _ in range(count):
            model.parse(images)

    step = Trainer(task, settings, ()).contender("adaptation step")
    rows = measure([Contender("its passes", step.images, run_passes), step], **times)
    return rows + measure([Contender("parse", CHUNK, run_parse)], **times)
