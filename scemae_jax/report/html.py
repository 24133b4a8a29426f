"""The report as one HTML page that needs nothing else: results as tables, pictures inlined."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import humanize
import jinja2
import numpy as np
import pandas as pd

from scemae_jax.config import leaves
from scemae_jax.report import figures
from scemae_jax.report.table import LEFT_OUT, MISSING, Table, counts_by_split, labels, number
from scemae_jax.training.metrics import read_metrics

TIMED = ("seconds", "loss")
"""Facts of training that have columns of their own."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the report."""

    section: str
    """The heading it stands under; neighbours of the same section share one."""
    caption: str
    image: bytes
    """A PNG."""
    alt: str

    @property
    def uri(self) -> str:
        """The image itself, as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.image).decode('ascii')}"


class Bar(NamedTuple):
    """One number of a headline, and its length beside the others, in %."""

    name: str
    text: str
    length: float
    ours: bool


class Headline(NamedTuple):
    """A column of a table that matters most: the system's own number, and bars for all methods."""

    title: str
    value: str
    about: str
    remark: str
    bars: list[Bar]


class Training(NamedTuple):
    """How one stage trained: what its row of a table says, by column, and its curves."""

    facts: dict[str, str]
    curve: figures.Curve


def write_report(
    workdir: Path,
    *,
    title: str,
    subtitle: str,
    results: Mapping[str, Any],
    tables: Sequence[Table],
    pictures: Mapping[str, Picture],
    stage_titles: Mapping[str, str],
) -> Path:
    """Writes `report/index.html` under the workdir, with its pictures as PNG files beside it, and returns its path.

    The workdir's config.json and metrics.jsonl are shown where they are there.

    Args:
      workdir: of the run.
      title: of the page.
      subtitle: below it.
      results: as in results.json.
      tables: in the order to show them.
      pictures: by the names of their files, in the order to show them.
      stage_titles: of stages that train, for people.
    """
    trained = training(results, read_metrics(workdir), stage_titles)
    pictures = {**curve_pictures([stage.curve for stage in trained]), **pictures}
    config = workdir / "config.json"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scemae_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        headlines=[headline for table in tables for headline in headlines(table)],
        tables=[(table, *cells(table)) for table in tables],
        sections=[(name, list(group)) for name, group in itertools.groupby(pictures.values(), lambda p: p.section)],
        run=run_facts(results, stage_titles),
        stages=pd.DataFrame([stage.facts for stage in trained]).fillna(MISSING).to_dict("records"),
        config=[(name, json.dumps(value, ensure_ascii=False)) for name, value in leaves(json.loads(config.read_text()))]
        if config.exists()
        else [],
    )
    folder = workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(picture.image)
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def headlines(table: Table) -> list[Headline]:
    """The columns that matter most, where the system itself was measured."""
    values, ours, found = table.grid().value, table.own, []
    for column, title in table.headlines.items():
        known = values.get(column, pd.Series()).dropna()[::-1]
        if ours not in known:
            continue
        plain = known[[name for name in known.index if name in set(table.rows["method"])]]
        ordered = plain.reindex([ours, *plain.index.drop(ours)])
        bars = [
            Bar(str(name), number(value, table.digits), round(100 * value / (ordered.max() or 1.0), 1), name == ours)
            for name, value in ordered.items()
        ]
        ratios = [
            f"{ordered[ours] / value:.2f} times {name}" for name, value in ordered.drop(ours).items() if value > 0
        ]
        of_column = [name == column for name in labels(table.rows, table.columns)]
        metric, unit = table.rows.loc[of_column, ["metric", "unit"]].iloc[0]
        about = f"{metric}{f', {unit}' if unit else ''}; {table.best} is best"
        found.append(Headline(title, number(ordered[ours], table.digits), about, ", ".join(ratios), bars))
    return found


def cells(table: Table) -> tuple[list[tuple[str, str]], list[tuple[str, list[dict[str, Any]]]]]:
    """The heads of a table's columns, with the count that all of a column share, and its rows."""
    grid = table.grid()
    shared = {column: n.dropna().iloc[0] for column, n in grid.n.items() if n.nunique() == 1}
    heads = [(str(column), f"n = {number(shared[column])}" if column in shared else "") for column in grid.value]
    counts = grid.n.map(lambda n: "" if pd.isna(n) else number(n))
    counts[list(shared)] = ""
    parts = {"text": grid.text, "spread": grid.spread, "n": counts, "best": grid.best}
    rows = [
        (str(name), [{part: frame.loc[name, column] for part, frame in parts.items()} for column in grid.value])
        for name in grid.value.index
    ]
    return heads, rows


def run_facts(results: Mapping[str, Any], stage_titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """What was run, and the files that it left: names and values."""
    names = {"dataset": "Data", "encoder": "Encoder", "seed": "Seed", "config_hash": "Config hash"}
    facts = [(title, str(results[name])) for name, title in names.items() if name in results]
    for stage, found in results.items():
        if not isinstance(found, Mapping):
            continue
        title = stage_titles.get(stage, stage)
        if left_out := found.get("images_left_out"):
            facts.append((f"{title}: {LEFT_OUT}", counts_by_split(left_out)))
        if "bytes" in found:
            size = humanize.naturalsize(found["bytes"])
            facts.append((f"{title}: {found['path']}", f"{size}, {humanize.intword(found['parameters'])} parameters"))
    return facts


def training(
    results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], stage_titles: Mapping[str, str]
) -> list[Training]:
    """The stages that trained, in their order; from the metrics where the results say nothing."""
    found = []
    for stage in dict.fromkeys(row["stage"] for row in metrics):
        rows, result = [row for row in metrics if row["stage"] == stage], results.get(stage, {})
        title, last = stage_titles.get(stage, stage), {**rows[-1], **result}
        steps, speeds = np.array([row["step"] for row in rows], float), [row["images_per_second"] for row in rows]
        shown = {
            "Training": title,
            "Steps": number(last["step"]),
            "Images seen": humanize.intcomma(last["images_seen"]) if "images_seen" in last else MISSING,
            "Images": humanize.intcomma(last["images"]) if "images" in last else MISSING,
            "Training time": duration(last["seconds"]) if "seconds" in last else MISSING,
            "Images/s": number(statistics.median(speeds)),
            "Final loss": f"{last['loss']:.3g}",
        }
        outputs = [name for name, value in result.items() if isinstance(value, float) and name not in TIMED]
        shown |= {name.replace("_", " ").capitalize(): number(result[name], 3) for name in outputs}
        known = "images_seen" in last
        curve = figures.Curve(
            title=title,
            seen=steps * (last["images_seen"] / last["step"]) if known else steps,
            unit="images seen" if known else "steps",
            loss=np.array([row["loss"] for row in rows], float),
            images_per_second=np.array(speeds, float),
        )
        found.append(Training(shown, curve))
    return found


def curve_pictures(curves: Sequence[figures.Curve]) -> dict[str, Picture]:
    if not curves:
        return {}
    caption = (
        "A healthy loss falls quickly and then levels off; if it still falls at the end, longer training would help. "
        "Dips in the speed are other work on the machine, or checkpoints."
    )
    drawn = figures.png(figures.training_curves(curves))
    return {"curves": Picture("Training", caption, drawn, "Loss and images per second of each training stage")}


def duration(seconds: float) -> str:
    """ "1 hour and 5 minutes", "3 minutes and 20 seconds"."""
    unit = "minutes" if seconds >= 3600 else "seconds"
    return humanize.precisedelta(round(seconds), minimum_unit=unit, format="%0.0f")
