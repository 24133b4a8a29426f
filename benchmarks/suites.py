"""What is timed: training steps of both stages, clustering, features."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float
from matplotlib import ticker
from matplotlib.figure import Figure

from benchmarks import alternatives, flops
from benchmarks.measure import Contender, Row, compile_program, first_call_seconds, measure, repeated
from benchmarks.settings import Settings
from benchmarks.steps import (
    Trainer,
    held_on_devices,
    pretrain_task,
    random_weights,
    refine_task,
    with_hypercolumns,
    with_loss,
    without_augmentation,
)
from scemae_jax.model import Model, Which
from scemae_jax.ops.density_peaks import DensityPeaks, density_peaks_of_images
from scemae_jax.report import figures

SCALING_IMAGES = 4
"""That are clustered at once where the number of tokens grows."""


def pretraining(settings: Settings) -> list[Row]:
    """Stage 1's step as it is trained, and without augmentation as the peer takes it too."""
    task = pretrain_task(settings, held_on_devices(settings, settings.config.pretrain.batch_size))
    trained, bare = Trainer(task, settings), Trainer(without_augmentation(task, settings), settings)
    needed = flops.pretrain_step(settings.architecture)
    contenders = [
        trained.contender("stage 1", trained.on_drawn_batches(task.input), needed),
        bare.contender("masked autoencoder, ours", bare.on_one_batch, needed),
    ]
    if settings.peer:
        from benchmarks import peer

        forms = (False, True) if settings.compile_peer else (False,)
        contenders += [peer.pretrain_step(settings, compiled=compiled) for compiled in forms]
    reference = 2 if settings.peer else 0
    rows = measure(
        contenders, repeats=settings.repeats, seconds=settings.seconds, peak=settings.peak, reference=reference
    )
    task.input.batches.close()
    bare.task.input.batches.close()
    return rows


def refinement(settings: Settings) -> list[Row]:
    """Stage 2's step as it is trained, with all tokens, with hypercolumns; clustering alone, a share of the first.

    Hypercolumns have a linear projector, which costs least, or one with a hidden layer.
    """
    config, architecture = settings.config, settings.architecture
    task = refine_task(settings, held_on_devices(settings, config.refine.batch_size))
    tasks = {
        "stage 2": (task, flops.refine_step(architecture)),
        "stage 2, all tokens": (
            with_loss(task, settings, alternatives.all_tokens_loss),
            flops.refine_all_tokens(architecture),
        ),
    }
    for projector, hidden in {"linear": False, "two layers": True}.items():
        tasks[f"stage 2, hypercolumns, {projector}"] = (
            with_loss(with_hypercolumns(task, architecture, hidden=hidden), settings, alternatives.hypercolumn_loss),
            flops.refine_hypercolumns(architecture, hidden=hidden),
        )
    contenders = []
    for name, (form, needed) in tasks.items():
        trainer = Trainer(form, settings)
        contenders.append(trainer.contender(name, trainer.on_drawn_batches(task.input), needed))
    tokens = (config.refine.batch_size, flops.inattentive(architecture), architecture.variant.width)
    clustering = cluster_contender(settings, tokens)
    contenders.append(dataclasses.replace(clustering, name="clustering of stage 2 alone"))
    rows = measure(contenders, repeats=settings.repeats, seconds=settings.seconds, peak=settings.peak)
    step, alone = rows[0]["images_per_second"]["median"], rows[-1]["images_per_second"]["median"]
    rows[-1]["share_of_step"] = step / alone
    task.input.batches.close()
    return rows


def cluster_contender(settings: Settings, shape: tuple[int, int, int]) -> Contender:
    """Density peaks of random tokens, `[images, tokens, width]`."""
    images, count, width = shape
    tokens = jax.random.normal(jax.random.key(0), shape)
    model = settings.config.model

    def cluster(tokens: Float[Array, "b n d"]) -> DensityPeaks:
        return density_peaks_of_images(tokens, model.num_clusters, density=model.density)

    program = compile_program(jax.jit(cluster), tokens)
    return Contender(
        name=f"density peaks, {count} x {width}",
        images=images,
        run=repeated(program.call, tokens),
        flops=flops.clustering(count, width),
        compile_seconds=program.compile_seconds,
        memory_bytes=program.memory_bytes,
        about={"tokens": count, "width": width, "temporary_bytes_per_image": program.temporary_bytes / images},
    )


def clustering(settings: Settings) -> list[Row]:
    """Density peaks of tokens of two widths, then of more and more tokens."""
    width, rows = settings.architecture.variant.width, []
    for features in dict.fromkeys((192, width)):
        contenders = [cluster_contender(settings, (settings.cluster_batch, settings.cluster_tokens, features))]
        if settings.peer:
            from benchmarks import peer

            contenders.insert(0, peer.clustering(settings, features))
        rows += measure(contenders, repeats=settings.repeats, seconds=settings.seconds, peak=settings.peak)
    for count in settings.scaling_tokens:
        growing = [cluster_contender(settings, (SCALING_IMAGES, count, width))]
        found = measure(growing, repeats=settings.repeats, seconds=settings.seconds / 4, peak=settings.peak)
        rows += [row | {"scaling": True} for row in found]
    return rows


def scaling_figure(rows: list[Row]) -> Figure:
    """Time and memory of an image by the number of its tokens, of the rows of `clustering`; dashed: as n squared."""
    rows = [row for row in rows if "scaling" in row]
    tokens = np.array([row["tokens"] for row in rows])
    panels = {
        "milliseconds an image": [1000 / row["images_per_second"]["median"] for row in rows],
        "temporary MiB an image": [row["temporary_bytes_per_image"] / 2**20 for row in rows],
    }
    figure = Figure(figsize=(figures.WIDTH, 3.2), layout="constrained")
    for axes, (title, values), colour in zip(figure.subplots(1, 2), panels.items(), figures.COLOURS[5:], strict=True):
        axes.plot(tokens, values, color=colour, linewidth=1.6, marker="o", markersize=4)
        axes.plot(tokens, values[0] * (tokens / tokens[0]) ** 2, color=figures.INK, linewidth=1, linestyle="--")
        axes.set(xscale="log", yscale="log", xticks=tokens, facecolor="none")
        axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_title(f"Density peaks: {title}", color=figures.INK, fontsize=9, loc="left")
        axes.set_xlabel("tokens", color=figures.INK, fontsize=8)
        axes.tick_params(colors=figures.INK, labelsize=8, which="both")
        axes.grid(color=figures.INK, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(figures.INK)
    return figure


def features(settings: Settings) -> list[Row]:
    """`Model.features` at strides 8 and 4, after the backbone and after the projector."""
    architecture, count = settings.architecture, settings.feature_images
    weights = {name: random_weights(architecture)[name] for name in ("encoder", "projector")}
    model = Model(architecture=architecture, params=weights)
    images, rows = settings.images(count), []
    kinds: tuple[Which, ...] = ("backbone", "projected")
    for stride in (8, 4):
        contenders = []
        for which in kinds:
            needed = flops.features(architecture, stride, projected=which == "projected")
            run = repeated(model.features, images, stride, which)
            contenders.append(
                Contender(
                    name=f"{which}, stride {stride}",
                    images=count,
                    run=run,
                    flops=needed,
                    compile_seconds=first_call_seconds(run),
                )
            )
        if settings.peer:
            from benchmarks import peer

            contenders.insert(0, peer.features(settings, stride))
        rows += measure(contenders, repeats=settings.repeats, seconds=settings.seconds, peak=settings.peak)
    return rows
