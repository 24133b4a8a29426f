"""What it costs to feed a training step: with each cache, against a batch that is there already."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable

import jax
import tensorflow_datasets as tfds

from benchmarks import flops
from benchmarks.measure import Contender, Row, measure
from benchmarks.settings import Settings
from benchmarks.steps import Trainer, pretrain_task
from scemae_jax.data import sources
from scemae_jax.training.feed import Input, from_host, on_devices


def _alone(source: Input, settings: Settings) -> Callable[[int], None]:
    """Draws batches and hands them over to the devices, which do nothing with them."""

    def run(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(source.put(settings.mesh, [next(source.batches)]))

    return run


def inputs(settings: Settings) -> list[Row]:
    """Stage 1's step on synthetic faces by `data.cache`: its speed as a share of that on a constant batch.

    The faces are prepared into a temporary folder, as JPEGs, which "none" decodes again for every batch.
    """
    batch_size, needed = settings.config.pretrain.batch_size, flops.pretrain_step(settings.architecture)
    data, common = settings.config.data.copy_and_resolve_references(), {"batch_size": batch_size, "seed": 0}
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        data.dataset, data.variant, data.data_dir = "synthetic_faces", "tiny", folder
        on_disk, weights = sources.unlabelled_images(data, sources.open_dataset(data))
        in_memory = [sources.in_memory(source) for source in on_disk]
        decoded = f"none, {settings.workers or 'no'} workers"
        by_cache = {
            "device": on_devices(in_memory, weights, mesh=settings.mesh, **common),
            "host": from_host(in_memory, weights, mesh=settings.mesh, **common),
            decoded: from_host(on_disk, weights, mesh=settings.mesh, workers=settings.workers, **common),
        }
        task = pretrain_task(settings, by_cache["device"])
        resident = Trainer(task, settings)
        handed_over = Trainer(dataclasses.replace(task, input=by_cache["host"]), settings)
        trainers = {"device": resident, "host": handed_over, decoded: handed_over}  # the last two: one program
        steps = [handed_over.contender("step, constant batch", handed_over.on_one_batch, needed)]
        for cache, trainer in trainers.items():
            run = trainer.on_drawn_batches(by_cache[cache])
            steps.append(trainer.contender(f"step, {cache}", run, needed))
        rows = measure(steps, repeats=settings.repeats, seconds=settings.seconds, peak=settings.peak)
        for cache, source in by_cache.items():  # one after the other: what loads ahead would slow the next
            alone = Contender(
                name="input alone, " + ("device: numbers" if cache == "device" else cache),
                images=batch_size,
                run=_alone(source, settings),
                about={"cores": os.cpu_count()},
            )
            rows += measure([alone], repeats=settings.repeats, seconds=settings.seconds, peak=settings.peak)
            source.batches.close()
    return rows
