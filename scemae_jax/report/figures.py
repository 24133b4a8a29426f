"""The report's figures: arrays in, a matplotlib figure out. Nothing here runs a network or touches a file.

Backgrounds are transparent and text is a grey that reads on white and on black. Marks have a dark edge, so that they
show on any skin.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps, patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scemae_jax.report.table import labels as labels_of

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
"""Those of Okabe and Ito, which people with any kind of colour vision tell apart."""
LINES = ("--", ":", "-.", "-")
INK = "#7d7d7d"
WIDTH = 8.6
"""Of every figure, in inches, so that its text has one size on the page."""
DPI = 160


def png(figure: Figure) -> bytes:
    """The figure as a PNG image, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, transparent=True, metadata={"Software": None})
    return buffer.getvalue()


class Curve(NamedTuple):
    """How one stage trained."""

    title: str
    seen: Float[np.ndarray, "r"]
    """Where the rows below were written, in `unit`."""
    unit: str
    loss: Float[np.ndarray, "r"]
    images_per_second: Float[np.ndarray, "r"]


def training_curves(curves: Sequence[Curve]) -> Figure:
    """Loss (logarithmic where it falls to a third or less) and speed, one row of two panels a stage."""
    figure = Figure(figsize=(WIDTH, 1.75 * len(curves)), layout="constrained")
    for row, curve in zip(figure.subplots(len(curves), 2, squeeze=False), curves, strict=True):
        panels = ((row[0], curve.loss, "loss"), (row[1], curve.images_per_second, "images per second"))
        for axes, values, label in panels:
            marker = "o" if len(values) == 1 else None
            axes.plot(curve.seen, values, color=COLOURS[5 if label == "loss" else 6], linewidth=1.6, marker=marker)
            axes.set_xlabel(curve.unit, color=INK, fontsize=8)
            axes.set_title(f"{curve.title}: {label}", color=INK, fontsize=9, loc="left")
            axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
            plain(axes)
        if _falls_far(curve.loss):
            row[0].set_yscale("log")
            row[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            row[0].yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            row[0].yaxis.set_minor_formatter(ticker.NullFormatter())
        row[1].set_ylim(0, 1.1 * curve.images_per_second.max())
    return figure


def _falls_far(loss: Float[np.ndarray, "r"]) -> bool:
    return bool(len(loss) and loss.min() > 0 and loss.max() > 3 * loss.min())


def face_rows(rows: Mapping[str, Float[np.ndarray, "n h w 3"]]) -> Figure:
    """Rows of images in [0, 1], each with its name; pixels are drawn as they are."""
    figure, axes = _grid(len(rows), len(next(iter(rows.values()))), list(rows), gap=0.02)
    for row, images in zip(axes, rows.values(), strict=True):
        for cell, image in zip(row, images, strict=True):
            _show(cell, image, pixels=True)
    return figure


class Selection(NamedTuple):
    """What the second stage keeps of an image: patches by index, row by row."""

    attentive: Bool[np.ndarray, "n"]
    cluster: Int[np.ndarray, "n"]
    """Of the inattentive patches, from 0; -1 where there is none."""
    centres: Int[np.ndarray, "k"]


def selections(
    images: Float[np.ndarray, "b h w 3"], chosen: Sequence[Selection], patch_size: int, names: tuple[str, str]
) -> Figure:
    """Images above, below them their attentive patches, bright and outlined, and tinted clusters with their centres.

    Args:
      images: in [0, 1].
      chosen: one for each image.
      patch_size: in pixels.
      names: of the two rows.
    """
    figure, axes = _grid(2, len(images), names, gap=0.02)
    for (above, below), image, selection in zip(axes.T, images, chosen, strict=True):
        _show(above, image)
        _show(below, _tinted(image, selection, patch_size), pixels=True)
        columns = image.shape[1] // patch_size
        border = _border(selection.attentive.reshape(-1, columns), patch_size)
        below.add_collection(LineCollection(list(border), colors="black", linewidths=2.6, capstyle="projecting"))
        below.add_collection(
            LineCollection(list(border), colors="white", linewidths=1.2, capstyle="projecting", gid="attentive")
        )
        x, y = patch_centres(selection.centres, columns, patch_size).T
        colours = [COLOURS[cluster % len(COLOURS)] for cluster in selection.cluster[selection.centres]]
        below.scatter(x, y, s=30, c=colours, marker="D", edgecolors="black", linewidths=1.2, gid="centres", zorder=3)
    return figure


def patch_centres(patches: Int[np.ndarray, "k"], columns: int, patch_size: int) -> Float[np.ndarray, "k 2"]:
    """(x, y) of the patches' centres in pixels, (0, 0) being the centre of the upper left pixel."""
    grid = np.stack([patches % columns, patches // columns], axis=-1)
    return grid * patch_size + (patch_size - 1) / 2


def _tinted(image: np.ndarray, selection: Selection, patch_size: int) -> np.ndarray:
    """The image with its inattentive patches grey, darkened and in the colour of their cluster."""
    height, width, _ = image.shape
    shape = (height // patch_size, width // patch_size)

    def pixels(patches: np.ndarray) -> np.ndarray:
        return np.kron(patches.reshape(shape), np.ones((patch_size, patch_size), patches.dtype))

    cluster, attentive = pixels(selection.cluster), pixels(selection.attentive)
    palette = np.array([to_rgb(colour) for colour in COLOURS])
    tint = np.where((cluster >= 0)[..., None], palette[cluster % len(COLOURS)], 0.5)
    grey = image.mean(axis=-1, keepdims=True)
    return np.where(attentive[..., None], image, 0.45 * grey + 0.4 * tint)


def _border(inside: Bool[np.ndarray, "r c"], patch_size: int) -> Float[np.ndarray, "s 2 2"]:
    """Line segments, each of two (x, y), between patches that are inside and those that are not."""
    padded = np.pad(inside, 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # (row of the border, column)
    along = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])  # (row, column of the border)
    lines = [((c, r), (c + 1, r)) for r, c in across] + [((c, r), (c, r + 1)) for r, c in along]
    return np.array(lines, float).reshape(-1, 2, 2) * patch_size - 0.5


class SimilarityRow(NamedTuple):
    """One query point, and how alike the features are to it everywhere."""

    name: str
    query: Float[np.ndarray, "2"]
    """(x, y) in the first face."""
    truth: Float[np.ndarray, "n 2"]
    """The same landmark in every face."""
    similarity: Float[np.ndarray, "n h w"]


def similarity_maps(images: Float[np.ndarray, "n h w 3"], rows: Sequence[SimilarityRow]) -> Figure:
    """The query in the first face, then its cosine similarity to all faces; a row has one scale, dark to bright.

    A cross marks the highest value, a hollow circle where the landmark is.
    """
    figure, axes = _grid(len(rows), len(images) + 1, [row.name for row in rows], gap=0.18)
    for cells, row in zip(axes, rows, strict=True):
        _show(cells[0], images[0])
        _dots(cells[0], row.query[None], COLOURS[:1], 7)
        low, high = row.similarity.min(), row.similarity.max()
        cells[0].set_title(f"cosine {low:.2f} to {high:.2f}", color=INK, fontsize=7, pad=3)
        for cell, image, similarity, truth in zip(cells[1:], images, row.similarity, row.truth, strict=True):
            _show(cell, np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1))
            cell.imshow(similarity, cmap="inferno", vmin=low, vmax=high, alpha=0.62, interpolation="bilinear")
            _rings(cell, truth[None], ["white"], 8)
            y, x = np.unravel_index(similarity.argmax(), similarity.shape)
            cell.plot(
                x, y, "+", color="#56B4E9", markersize=9, markeredgewidth=1.6, path_effects=_edge(1.6), gid="peak"
            )
    return figure


class Match(NamedTuple):
    """Points of one face sought in another; (x, y) in pixels."""

    queries: Float[np.ndarray, "l 2"]
    predicted: Float[np.ndarray, "l 2"]
    truth: Float[np.ndarray, "l 2"]
    label: str


def matches(
    first: Float[np.ndarray, "p h w 3"],
    second: Float[np.ndarray, "p h w 3"],
    found: Mapping[str, Sequence[Match]],
) -> Figure:
    """Pairs of faces, one a row, once for each kind of features: lines from the queries to what was found."""
    gap = 4
    _, height, width, _ = first.shape
    shift = np.array([width + gap, 0])
    cell_height = WIDTH / len(found) * height / (2 * width + gap) + 0.25
    figure = Figure(figsize=(WIDTH, cell_height * len(first)))
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.03)
    axes = figure.subplots(len(first), len(found), squeeze=False)
    for column, pairs in zip(axes.T, found.values(), strict=True):
        for row, (cell, pair) in enumerate(zip(column, pairs, strict=True)):
            for image, left in ((first[row], 0), (second[row], width + gap)):
                extent = (left - 0.5, left + width - 0.5, height - 0.5, -0.5)
                cell.imshow(np.clip(image, 0, 1), interpolation="bicubic", extent=extent)
            cell.set(xlim=(-0.5, 2 * width + gap - 0.5), ylim=(height - 0.5, -0.5))
            cell.set_axis_off()
            colours = [COLOURS[i % len(COLOURS)] for i in range(len(pair.queries))]
            ends = np.stack([pair.queries, pair.predicted + shift], axis=1)
            cell.add_collection(
                LineCollection(list(ends), colors=colours, linewidths=1.1, alpha=0.85, gid="matches", zorder=2)
            )
            _rings(cell, pair.truth + shift, colours, 9)
            _dots(cell, pair.queries, colours, 5.5)
            _dots(cell, pair.predicted + shift, colours, 5.5)
            cell.set_title(pair.label, color=INK, fontsize=8, pad=3)
    return figure


def embeddings(
    panels: Mapping[str, Float[np.ndarray, "s 2"]], labels: Int[np.ndarray, "s"], names: Sequence[str]
) -> Figure:
    """Points of a plane, coloured by label, one panel a kind; few labels are named in a legend below.

    Args:
      panels: by title.
      labels: of the points of each panel, from 0.
      names: of the labels.
    """
    few = len(names) <= len(COLOURS)
    colours = COLOURS if few else colormaps["turbo"](np.linspace(0, 1, len(names)))
    palette = np.array([to_rgb(colour) for colour in colours])
    side = WIDTH / max(len(panels), 2)
    figure = Figure(figsize=(WIDTH, side + (0.5 if few else 0.25)), layout="constrained")
    axes = figure.subplots(1, max(len(panels), 2), squeeze=False)[0]
    for cell in axes:
        cell.set(xticks=[], yticks=[], facecolor="none")
        cell.spines[:].set_visible(False)
    for cell, (title, points) in zip(axes, panels.items(), strict=False):
        cell.scatter(*points.T, s=14, c=palette[labels], edgecolors="black", linewidths=0.3, gid="embedded")
        cell.set_aspect("equal", "datalim")
        cell.set_title(title, color=INK, fontsize=9, pad=3)
    if few:
        edge = {"linestyle": "", "marker": "o", "markeredgecolor": "black", "markeredgewidth": 0.3}
        marks = [Line2D([], [], color=colour, **edge) for colour in palette[: len(names)]]
        legend = figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
        for text in legend.get_texts():
            text.set_color(INK)
    return figure


def errors_by_count(rows: pd.DataFrame, count: str, colour: str, line: str, unit: str) -> Figure:
    """Measurements over a count of things, both logarithmic; bars are the deviations.

    Args:
      rows: one for each place of a line.
      count: field that is counted.
      colour: field that gives a line its colour.
      line: field that gives it its dashes.
      unit: of the values.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    looks = {field: list(rows[field].fillna("").unique()) for field in (colour, line)}
    for name, found in rows.assign(name=labels_of(rows, (colour, line))).groupby("name", sort=False):
        kinds = {field: looks[field].index(found[field].fillna("").iloc[0]) for field in looks}
        axes.errorbar(
            found[count].astype(float), found["value"], yerr=found["deviation"].fillna(0.0), label=str(name),
            color=COLOURS[kinds[colour] % len(COLOURS)], linestyle=LINES[kinds[line] % len(LINES)], marker="o",
            markersize=4, linewidth=1.6, capsize=2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    ticks = sorted(rows[count].unique())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    shown = [tick for tick in (5, 7, 10, 15, 20, 30, 50, 70, 100, 150) if low <= tick <= high]
    axes.set_yticks(shown, [str(tick) for tick in shown])
    axes.set_xlabel(count.replace("_", " "), color=INK, fontsize=8)
    axes.set_ylabel(unit, color=INK, fontsize=8)
    plain(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, labelcolor=INK, handlelength=3.5)
    return figure


def plain(axes: Axes) -> None:
    """Two grey axes and a light grid."""
    axes.tick_params(colors=INK, labelsize=8, which="both")
    axes.grid(color=INK, alpha=0.25, linewidth=0.6)
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def detections(
    images: Float[np.ndarray, "n h w 3"],
    predicted: Float[np.ndarray, "n l 2"],
    truth: Float[np.ndarray, "n l 2"],
    labels: Sequence[str],
) -> Figure:
    """Detected landmarks (filled) and annotated ones (hollow), joined by a line; (x, y) in pixels of the images."""
    columns = 4
    figure, axes = _grid(-(-len(images) // columns), columns, None, gap=0.24)
    few = truth.shape[1] <= 20
    for cell, image, found, known, label in zip(axes.flat, images, predicted, truth, labels, strict=False):
        _show(cell, image)
        lines = np.stack([known, found], axis=1)
        cell.add_collection(
            LineCollection(list(lines), colors="white", linewidths=0.9, path_effects=_edge(0.9), zorder=2)
        )
        _rings(cell, known, ["white"] * len(known), 8 if few else 3.6)
        _dots(cell, found, [COLOURS[0]] * len(found), 5.5 if few else 3.2)
        cell.set_title(label, color=INK, fontsize=8, pad=3)
    return figure


def _grid(rows: int, columns: int, names: Sequence[str] | None, gap: float) -> tuple[Figure, np.ndarray]:
    """A figure of square cells without axes, its rows named at the left; few columns leave its right side empty.

    The gap between rows is in inches: room for titles.
    """
    places = max(columns, 4)
    figure = Figure(figsize=(WIDTH, rows * ((WIDTH - 0.3) / places + gap)))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, places, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], facecolor="none")
        axis.spines[:].set_visible(False)
    for row, name in zip(axes, names or (), strict=names is not None):
        row[0].set_ylabel(name, color=INK, fontsize=8)
    return figure, axes[:, :columns]


def _show(axes: Axes, image: np.ndarray, *, pixels: bool = False) -> None:
    """Draws the image and fixes the view to it; smoothly, or with its pixels as squares."""
    axes.imshow(np.clip(image, 0, 1), interpolation="nearest" if pixels else "bicubic")
    axes.set_autoscale_on(False)


def _edge(width: float) -> list[patheffects.AbstractPathEffect]:
    """Black on both sides of a line that is as wide."""
    return [patheffects.withStroke(linewidth=width + 1.4, foreground="black")]


def _dots(axes: Axes, points: np.ndarray, colours: Sequence[str], size: float) -> None:
    """Filled circles of `size` points across."""
    edge = min(0.9, size / 7)
    axes.scatter(*points.T, s=size**2, c=list(colours), edgecolors="black", linewidths=edge, gid="found", zorder=3)


def _rings(axes: Axes, points: np.ndarray, colours: Sequence[str], size: float) -> None:
    """Hollow circles of `size` points across."""
    line = min(1.1, size / 6)
    for (x, y), colour in zip(points, colours, strict=True):
        axes.plot(
            x, y, "o", markersize=size, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=line,
            path_effects=_edge(line), gid="truth", zorder=2.5,
        )  # fmt: skip
