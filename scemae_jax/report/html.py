"""The report as one HTML page that needs nothing else: results as tables, pictures inlined."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from scemae_jax.report.table import LEFT_OUT, counts_by_split, few_shot_forms, matching_forms, pairs_of

MISSING = "\N{EN DASH}"
CASES = ("same", "different", "different, far")
BASELINES = ("mean shape", "own location", "raw patches", "untrained", "MAE only")
"""What a result is compared with; all that is not the method itself."""
METHODS = ("SCE-MAE", "MAE only")
"""Whose numbers head the page: the first of them that was measured."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the report."""

    section: str
    """The heading it stands under; neighbours of the same section share one."""
    caption: str
    image: bytes
    """A PNG or an SVG."""
    alt: str

    @property
    def uri(self) -> str:
        """The image itself, as a data URI.

        Raises:
          ValueError: it is neither PNG nor SVG.
        """
        if self.image.startswith(b"\x89PNG\r\n\x1a\n"):
            kind = "png"
        elif self.image.lstrip().startswith((b"<svg", b"<?xml")):
            kind = "svg+xml"
        else:
            raise ValueError(f"picture {self.alt!r} starts with {self.image[:8]!r}: give a PNG or an SVG")
        return f"data:image/{kind};base64,{base64.b64encode(self.image).decode('ascii')}"


class Bar(NamedTuple):
    """One number of a headline, and its length beside the others, in %."""

    name: str
    text: str
    length: float
    ours: bool


class Headline(NamedTuple):
    title: str
    value: str
    sign: str
    """What stands right after the value."""
    unit: str
    remark: str
    bars: list[Bar]


class Cell(NamedTuple):
    value: str
    deviation: str
    count: str  # pyright: ignore[reportIncompatibleMethodOverride] - of tuple, where nobody calls it
    """Of the landmarks or images; empty where the column's head has it for all."""
    best: bool


class Column(NamedTuple):
    title: str
    remark: str
    cells: list[Cell]


class Results(NamedTuple):
    """A table of errors or silhouettes: a row for each method."""

    title: str
    remark: str
    first: str
    """Heads the names of the rows."""
    names: list[str]
    columns: list[Column]


def write_report(
    path: Path,
    *,
    title: str,
    results: dict[str, Any],
    metrics: list[dict[str, Any]],
    pictures: Sequence[Picture],
    config: dict[str, Any] | None = None,
) -> None:
    """Writes the page; stages that `results` lacks are left out.

    Args:
      path: of the HTML file.
      title: of the page.
      results: as in results.json.
      metrics: rows of metrics.jsonl.
      pictures: in the order to show them.
      config: shown in full at the end, if given.

    Raises:
      ValueError: a picture is neither PNG nor SVG.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scemae_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html").render(
        title=title,
        headlines=headlines(results),
        tables=[
            *matching_tables(results),
            *detection_tables(results),
            *few_shot_tables(results),
            *representation_tables(results),
        ],
        sections=[(name, list(group)) for name, group in itertools.groupby(pictures, lambda p: p.section)],
        run=run_facts(results),
        stage_columns=STAGE_COLUMNS,
        stages=stage_facts(results, metrics),
        config=[(name, leaf(value)) for name, value in flattened(config or {})],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def headlines(results: dict[str, Any]) -> list[Headline]:
    """The main numbers: matching across people, then detection."""
    found = []
    if match := results.get("match"):
        errors = {name: row["different"]["error"] for name, row in match["features"].items() if "different" in row}
        kept = {name: errors[name] for name in ("SCE-MAE", "MAE only", "untrained", "own location") if name in errors}
        found.append(_headline("Landmarks matched across people", kept, match["unit"], digits=2))
    for count, detect in _by_count(results):
        errors = {name: row["error"] for name, row in detect["methods"].items()}
        ordered = {name: errors[name] for name in sorted(errors, key=lambda name: name in BASELINES)}
        found.append(_headline(f"{count} landmarks detected", ordered, detect["unit"], digits=2))
    return [headline for headline in found if headline]


def _headline(title: str, errors: dict[str, float], unit: str, digits: int) -> Headline | None:
    errors = {name: error for name, error in errors.items() if _finite(error)}
    ours = next((name for name in METHODS if name in errors), None)
    if ours is None:
        return None
    others = [name for name in errors if name != ours and errors[name] > 0]
    ratios = [f"{errors[ours] / errors[name]:.2f} times {name}" for name in others]
    longest = max(errors.values()) or 1.0
    bars = [Bar(name, number(e, digits), round(100 * e / longest, 1), name == ours) for name, e in errors.items()]
    remark = ", ".join(ratios)
    sign = "%" if unit.startswith("%") else ""
    return Headline(title, number(errors[ours], digits), sign, unit.removeprefix("% "), remark, bars)


def matching_tables(results: dict[str, Any]) -> list[Results]:
    return [_matching_table(form) for form in matching_forms(results.get("match", {}))]


def _matching_table(match: dict[str, Any]) -> Results:
    rows = match["features"]
    cases = [case for case in CASES if any(case in row for row in rows.values())]
    columns = [_column(case, "", [row.get(case) for row in rows.values()]) for case in cases]
    count = match.get("pairs_of_one_person", 0)
    of_one_person = f", in {count_of(count, 'pair')} of one person" if count else ""
    remark = (
        f"Mean error in {match['unit']} ± deviation of the pairs' means; {pairs_of(match)}, "
        f"split {match['split']}, features every {match['stride']} pixels. "
        f"Same: two warped views of one image. Different: two images{of_one_person}. "
        "Far: only landmarks that lie more than 8 units from where they are in the other face, so that copying the "
        "place does not help. "
        "Position-free: each place's mean feature is taken off first. Lower is better; the best is bold."
    )
    return Results(f"Landmark matching, {match['landmarks']} landmarks", remark, "Features", list(rows), columns)


def detection_tables(results: dict[str, Any]) -> list[Results]:
    counts = _by_count(results)
    if not counts:
        return []
    names = list(dict.fromkeys(name for _, detect in counts for name in detect["methods"]))
    columns = [
        _column(f"{count} landmarks", detect["unit"], [detect["methods"].get(name) for name in names])
        for count, detect in counts
    ]
    first = counts[0][1]
    learnt = (
        f", learnt from {number(first['annotated_images'])} annotated images" if "annotated_images" in first else ""
    )
    remark = (
        f"Mean error ± deviation over {count_of(first['images'], 'image')} of the split {first['split']}{learnt}; "
        "the backbone stays frozen. Lower is better; the best is bold."
    )
    return [Results("Landmark detection", remark, "Method", names, columns)]


def few_shot_tables(results: dict[str, Any]) -> list[Results]:
    tables, few = [], results.get("few_shot") or {}
    for form, measured in few_shot_forms(few):
        methods = measured["methods"]
        counts = list(dict.fromkeys(count for row in methods.values() for count in row))
        columns = [
            _column(count_of(int(count), "image"), "", [row.get(count) for row in methods.values()]) for count in counts
        ]
        remark = (
            f"Mean error in {measured['unit']} ± sample deviation over draws of so many annotated images, n of them; "
            f"{count_of(few['images'], 'image')} of the split {few['split']}. Every method learns from warped views "
            "of the same images. Behind the features stands the head: prior work's plain one (1x1 convolution, "
            "softmax of gain 100), ours of that form (plain), or this project's linear one. Lower is better; the best "
            "is bold."
        )
        tables.append(Results(f"Few annotations, {form} landmarks", remark, "Method", list(methods), columns))
    return tables


def representation_tables(results: dict[str, Any]) -> list[Results]:
    represent = results.get("represent")
    if not represent:
        return []
    rows = represent["features"].values()
    columns = [
        _silhouettes("feature space", "cosine distance", [(row["silhouette"], None) for row in rows]),
        _silhouettes("t-SNE", "in the plane", [(row["embedded"], row["deviation"]) for row in rows]),
    ]
    remark = (
        f"Silhouette coefficient of {number(represent['count'])} features of {represent['landmarks']} landmarks in "
        f"{count_of(represent['images'], 'image')} of the split {represent['split']}, features every "
        f"{represent['stride']} pixels: 1 where those of one landmark lie close together and far from all others, 0 "
        "where landmarks touch, negative where they mix. t-SNE: mean ± sample deviation over "
        f"{count_of(represent['repeats'], 'run')}, perplexity {represent['perplexity']:g}. Higher is better; the best "
        "is bold."
    )
    return [Results("Landmark features", remark, "Features", list(represent["features"]), columns)]


def _silhouettes(title: str, remark: str, values: Sequence[tuple[float, float | None]]) -> Column:
    """Marks the highest means, alike as printed."""
    best = number(max(mean for mean, _ in values), 3)
    cells = []
    for mean, deviation in values:
        spread = number(deviation, 3) if deviation is not None else ""
        cells.append(Cell(number(mean, 3), spread, "", number(mean, 3) == best))
    return Column(title, remark, cells)


def _by_count(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    measured = [(count, result) for count, result in (results.get("detect") or {}).items() if result["methods"]]
    return sorted(measured, key=lambda item: int(item[0]))


def _column(title: str, unit: str, rows: Sequence[dict[str, Any] | None]) -> Column:
    """Marks the lowest errors, alike as printed, and moves the count to the head where all rows share it."""
    counts = {row["count"] for row in rows if row}
    shared = f"n = {number(counts.pop())}" if len(counts) == 1 else ""
    finite = [row["error"] for row in rows if row and _finite(row["error"])]
    best = number(min(finite), 2) if finite else None
    cells = []
    for row in rows:
        error = number(row["error"], 2) if row else MISSING
        deviation = number(row["deviation"], 2) if row and _finite(row["deviation"]) else ""
        cells.append(Cell(error, deviation, number(row["count"]) if row and not shared else "", error == best))
    return Column(title, ", ".join(text for text in (unit, shared) if text), cells)


def run_facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What was run: names and values."""
    facts = [(name, results.get(key)) for name, key in (("Data", "dataset"), ("Encoder", "encoder"), ("Seed", "seed"))]
    facts.append(("Config hash", results.get("config_hash")))
    for stage in ("pretrain", "refine"):
        if left_out := results.get(stage, {}).get("images_left_out"):
            facts.append((f"{stage_title(stage)}: {LEFT_OUT}", counts_by_split(left_out)))
    if export := results.get("export"):
        facts += [
            ("Exported model", export.get("path")),
            ("Its size", f"{export['bytes'] / 1e6:.1f} MB, {quantity(export['parameters'])} parameters"),
        ]
    return [(name, str(value)) for name, value in facts if value is not None]


STAGE_COLUMNS = ("Steps", "Images seen", "Images", "Training time", "Images/s", "Final loss", "Mean cosine")


def stage_facts(results: dict[str, Any], metrics: Iterable[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Per stage that trained, the values under `STAGE_COLUMNS`; from the metrics where the results say nothing."""
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for row in metrics:
        by_stage.setdefault(row["stage"], []).append(row)
    trained = [stage for stage in ("pretrain", "refine") if stage in results or stage in by_stage]
    trained += [stage for stage in by_stage if stage not in trained]
    facts = []
    for stage in trained:
        rows, result = by_stage.get(stage, []), results.get(stage, {})
        last = {**(rows[-1] if rows else {}), **result}
        speeds = [row["images_per_second"] for row in rows if _finite(row.get("images_per_second"))]
        facts.append(
            (
                stage_title(stage),
                [
                    number(last.get("steps", last.get("step"))),
                    quantity(last.get("images_seen")),
                    number(last.get("images")),
                    duration(last.get("seconds")),
                    quantity(statistics.median(speeds)) if speeds else MISSING,
                    significant(last.get("loss")),
                    number(last.get("mean_cosine"), 3),
                ],
            )
        )
    return facts


def stage_title(stage: str) -> str:
    """A stage's name for people."""
    if stage.startswith("detect_"):
        return f"Detector, {stage.removeprefix('detect_')} landmarks"
    return {"pretrain": "Stage 1, masked autoencoder", "refine": "Stage 2, projector"}.get(stage, stage)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: Any, digits: int = 0) -> str:
    """With `digits` decimals and thousands set apart; a dash where there is none."""
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}") if _finite(value) else MISSING


def significant(value: Any) -> str:
    """Three significant digits, never in powers of ten above 0.001."""
    if not _finite(value):
        return MISSING
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    return number(value, max(0, 2 - math.floor(math.log10(abs(value)))))


def quantity(value: Any) -> str:
    """Of things counted: `1.34 million`, `12,500`."""
    if not _finite(value):
        return MISSING
    return f"{value / 1e6:.2f} million" if abs(value) >= 1e6 else number(value)


def count_of(value: int, noun: str) -> str:
    return f"{number(value)} {noun}" + ("" if value == 1 else "s")


def duration(seconds: Any) -> str:
    """`1 h 05 min`, `3 min 20 s`, `8.4 s`."""
    if not _finite(seconds):
        return MISSING
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def flattened(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested dicts, by dotted name."""
    leaves = []
    for name, value in config.items():
        path = f"{prefix}{name}"
        leaves += flattened(value, f"{path}.") if isinstance(value, dict) and value else [(path, value)]
    return leaves


def leaf(value: Any) -> str:
    """As JSON writes it."""
    return json.dumps(value, ensure_ascii=False)
