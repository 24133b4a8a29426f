"""Figures of parsers: classes measured, confused, found in images and spread in the plane. As in `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scemae_jax.report.figures import COLOURS, INK, WIDTH, face_rows, plain


def bars_by_class(rows: pd.DataFrame, unit: str) -> Figure:
    """Measurements of each `part` as bars, side by side the `method`s; thin lines are the deviations."""
    methods, parts = list(rows["method"].unique()), list(rows["part"].unique())
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for number, (method, found) in enumerate(rows.groupby("method", sort=False)):
        places = found["part"].map(parts.index) + (number - (len(methods) - 1) / 2) * width
        axes.bar(
            places, found["value"], 0.92 * width, yerr=found["deviation"].fillna(0.0), label=str(method),
            color=COLOURS[(1, 5, 2, 0, 4)[number % 5]], error_kw={"elinewidth": 0.8, "ecolor": INK},
        )  # fmt: skip
    axes.set_xticks(range(len(parts)), [part.replace("_", " ") for part in parts], rotation=30, ha="right")
    axes.set_ylabel(unit, color=INK, fontsize=8)
    axes.set_ylim(0, 100)
    axes.set_axisbelow(True)
    plain(axes)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper right", ncols=len(methods), frameon=False, fontsize=8, labelcolor=INK)
    return figure


def confusions(panels: Mapping[str, Int[np.ndarray, "k k"]], names: Sequence[str]) -> Figure:
    """Of the pixels of each true class (rows), the share in % that was taken for each class; empty below half a %."""
    columns = max(len(panels), 2)
    side = WIDTH / columns
    figure = Figure(figsize=(WIDTH, side + 0.35), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    words = [name.replace("_", " ") for name in names]
    for cell in axes[len(panels) :]:
        cell.set_visible(False)
    for number, (cell, (title, counts)) in enumerate(zip(axes, panels.items(), strict=False)):
        true = counts.sum(axis=1, keepdims=True)
        share = np.where(true > 0, 100 * counts / np.maximum(true, 1), np.nan)
        cell.imshow(share, cmap="Blues", vmin=0, vmax=100)
        for (row, column), value in np.ndenumerate(share):
            if value >= 0.5:
                ink = "white" if value > 55 else "#202020"
                cell.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
        cell.set_xticks(range(len(names)), words, rotation=45, ha="right")
        cell.set_yticks(range(len(names)), words)
        cell.tick_params(colors=INK, labelsize=7, length=0, labelleft=number == 0)
        cell.spines[:].set_visible(False)
        cell.set_title(title, color=INK, fontsize=9, pad=4)
        cell.set_xlabel("predicted", color=INK, fontsize=8)
    axes[0].set_ylabel("true", color=INK, fontsize=8)
    return figure


def parsed_faces(
    rows: Mapping[str, UInt8[np.ndarray, "n h w 3"]], names: Sequence[str], colours: UInt8[np.ndarray, "k 3"]
) -> Figure:
    """Rows of images and painted masks, below them which colour is which part."""
    figure = face_rows({name: images / 255 for name, images in rows.items()})
    width, height = figure.get_size_inches()
    columns = min(len(names), 6)
    figure.set_size_inches(width, height + 0.25 * -(-len(names) // columns) + 0.05)
    marks = [Patch(facecolor=colour, edgecolor="black", linewidth=0.3) for colour in colours / 255]
    figure.legend(
        marks, [name.replace("_", " ") for name in names], loc="outside lower center", ncols=columns, frameon=False,
        fontsize=8, labelcolor=INK,
    )  # fmt: skip
    return figure


class Embedded(NamedTuple):
    """Features in the plane."""

    points: Float[np.ndarray, "s 2"]
    classes: Int[np.ndarray, "s"]
    target: Int[np.ndarray, "s"]
    """0 for the source's, 1 for the target's."""


def embedded_pixels(
    panels: Mapping[str, Embedded], names: Sequence[str], colours: UInt8[np.ndarray, "k 3"], domains: tuple[str, str]
) -> Figure:
    """Features of pixels, coloured by class: the source's as circles, the target's as triangles."""
    columns = max(len(panels), 2)
    figure = Figure(figsize=(WIDTH, WIDTH / columns + 0.6), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    shapes, edge = ("o", "^"), {"markeredgecolor": "black", "markeredgewidth": 0.3, "linestyle": ""}
    for cell in axes:
        cell.set(xticks=[], yticks=[], facecolor="none")
        cell.spines[:].set_visible(False)
    for cell, (title, found) in zip(axes, panels.items(), strict=False):
        for target, shape in enumerate(shapes):
            chosen = found.target == target
            cell.scatter(
                *found.points[chosen].T, s=11, c=colours[found.classes[chosen]] / 255, marker=shape,
                edgecolors="black", linewidths=0.25, gid="embedded",
            )  # fmt: skip
        cell.set_aspect("equal", "datalim")
        cell.set_title(title, color=INK, fontsize=9, pad=3)
    marks = [Line2D([], [], marker=shape, color="#bbbbbb", markersize=5, **edge) for shape in shapes]
    marks += [Line2D([], [], marker="s", color=colour, markersize=6, **edge) for colour in colours / 255]
    words = [*domains, *(name.replace("_", " ") for name in names)]
    figure.legend(
        marks, words, loc="outside lower center", ncols=7, frameon=False, fontsize=8, labelcolor=INK,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
    return figure


def curves(
    panels: Mapping[str, Float[np.ndarray, "r"]], steps: Int[np.ndarray, "r"], shares: Sequence[str] = ()
) -> Figure:
    """Numbers of training over its steps, a panel each, three in a row; `shares` are shown from 0 to 1."""
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in axes[len(panels) :]:
        cell.set_visible(False)
    for cell, (title, values) in zip(axes, panels.items(), strict=False):
        cell.plot(steps, values, color=COLOURS[6], linewidth=1.6, marker="o" if len(values) == 1 else None)
        cell.set_title(title, color=INK, fontsize=9, loc="left")
        cell.set_xlabel("steps", color=INK, fontsize=8)
        if title in shares:
            cell.set_ylim(0, 1.05)
        cell.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        plain(cell)
    return figure
