"""Tables: selections of measurements, and the rows and columns that they are shown in. Nothing here knows a metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as Screen

from scemae_jax.evaluation.measurement import as_table

MISSING = "\N{EN DASH}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Measurements, and how they are shown."""

    title: str
    about: str
    """What is measured, in which unit and on what: behind the title, and below the table of a page."""
    rows: pd.DataFrame
    """Measurements, as `as_table` gives them."""
    index: tuple[str, ...] = ("method",)
    """Fields that tell the rows of the table apart; the method comes first."""
    columns: tuple[str, ...]
    """Fields that tell its columns apart."""
    remark: str = ""
    """How to read it."""
    best: Literal["lowest", "highest"] = "lowest"
    digits: int = 2
    ours: tuple[str, ...] = ()
    """Methods of the system, those to be held against the others first."""
    headlines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Titles of the columns that matter most, by their label."""

    @property
    def own(self) -> str | None:
        """The method that stands for the system: the first of `ours` that was measured."""
        return next((name for name in self.ours if name in set(self.rows["method"])), None)

    def grid(self) -> Grid:
        """Its cells by the labels of rows and columns, both in the order of the measurements.

        Raises:
          ValueError: two measurements have the same place.
        """
        places = {"place": labels(self.rows, self.index), "column": labels(self.rows, self.columns)}
        wide = self.rows.assign(**places).pivot(index="place", columns="column", values=["value", "deviation", "n"])
        order = {"index": dict.fromkeys(places["place"]), "columns": dict.fromkeys(places["column"])}
        value, deviation, n = (
            wide[name].reindex(**{axis: list(names) for axis, names in order.items()})
            for name in ("value", "deviation", "n")
        )
        return Grid(value, deviation, n, self.digits, self.best)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers of a table's cells; NA where there is none."""

    value: pd.DataFrame
    deviation: pd.DataFrame
    n: pd.DataFrame
    digits: int
    order: str

    @property
    def text(self) -> pd.DataFrame:
        """The values as they are printed."""
        return self.value.map(number, digits=self.digits)

    @property
    def spread(self) -> pd.DataFrame:
        """The deviations as they are printed, empty where there is none."""
        return self.deviation.map(lambda value: "" if pd.isna(value) else number(value, self.digits))

    @property
    def best(self) -> pd.DataFrame:
        """Whether a value is the best of its column, or printed like it."""
        best = self.value.min() if self.order == "lowest" else self.value.max()
        return self.text.eq(best.map(lambda value: number(value, self.digits))) & self.value.notna()

    def cells(self) -> pd.DataFrame:
        """ "9.37 ± 0.08", without a deviation where there is none."""
        return self.text + self.spread.map(lambda text: text and f" ± {text}")


def labels(rows: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    """What tells each row apart, in words: "SCE-MAE, position-free, 5 random pairings, stride 4"."""
    present = [field for field in fields if field in rows]
    return [", ".join(filter(None, map(_words, present, values))) for values in rows[present].itertuples(index=False)]


def _words(field: str, value: Any) -> str:
    name = field.replace("_", " ")
    if pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return name.replace(" ", "-") if value else ""
    if isinstance(value, str):
        return value
    return count_of(value, name) if name.endswith("s") else f"{name} {value:g}"


def number(value: Any, digits: int = 0) -> str:
    """With `digits` decimals and thousands set apart; a dash where there is none."""
    if pd.isna(value) or not np.isfinite(value):
        return MISSING
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def count_of(value: float, things: str) -> str:
    """ "1,203 queries", "1 query": `things` in the plural."""
    if value == 1:
        things = f"{things[:-3]}y" if things.endswith("ies") else things.removesuffix("s")
    return f"{number(value)} {things}"


def measured(results: Mapping[str, Any]) -> pd.DataFrame:
    """The measurements of results.json."""
    return as_table(results.get("measurements", ()))


def tables_by_stage(results: Mapping[str, Any]) -> list[Table]:
    """A table for each stage and unit: a row for each method and its variants, a column for each metric."""
    own = {"stage", "system", "dataset", "seed", "split", "metric", "unit", "value", "deviation", "n"}
    tables, everything = [], measured(results)
    for (stage, unit), rows in everything.groupby(["stage", "unit"], sort=False) if len(everything) else ():
        used = rows.dropna(axis="columns", how="all").columns
        about = ", ".join(filter(None, [str(unit), *(f"split {split}" for split in rows["split"].unique() if split)]))
        several = (name for name in ("dataset", "split", "seed") if rows[name].nunique() > 1)
        index = (*(name for name in used if name not in own), *several)
        tables.append(Table(title=str(stage), about=about, rows=rows, index=index, columns=("metric",)))
    return tables


def print_results(results: Mapping[str, Any], tables: Iterable[Table]) -> None:
    """Prints the tables, and below them where stages left their files."""
    console = Console()
    facts = {stage: found for stage, found in results.items() if isinstance(found, Mapping)}
    for stage, found in facts.items():
        if left_out := found.get("images_left_out"):
            console.print(f"{stage}: {LEFT_OUT}: {counts_by_split(left_out)}")
    endless = console.options.update(width=10_000)
    for table in tables:
        grid = table.grid()
        # Where deviations do not fit, without them; where that does not fit, columns become rows.
        screens = [_screen(table, grid.cells()), _screen(table, grid.text), _screen(table, grid.text.T, table.columns)]
        fitting = [screen for screen in screens if console.measure(screen, options=endless).maximum <= console.width]
        console.print([*fitting, screens[-1]][0])
    for stage, found in facts.items():
        if "path" in found:
            console.print(f"{stage}: {found['path']}")


def _screen(table: Table, cells: pd.DataFrame, rows: Sequence[str] = ()) -> Screen:
    """`rows` are the fields that tell the rows of `cells` apart, unless they are those of the table."""
    screen = Screen(title=": ".join(filter(None, [table.title, table.about])))
    screen.add_column((rows or table.index)[0])
    for column in cells:
        screen.add_column(str(column), justify="right")
    for name, row in cells.iterrows():
        screen.add_row(str(name), *row)
    return screen


def markdown(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    """The lines of a table in GitHub's Markdown."""
    header = list(header)
    return [f"| {' | '.join(map(str, cells))} |" for cells in (header, ["---"] * len(header), *rows)]


LEFT_OUT = "unannotated images left out"
"""Of training, since their people are in a split that errors are measured on."""


def counts_by_split(left_out: Mapping[str, int]) -> str:
    """How many images were left out, by the split that their people are in."""
    return " and ".join(f"{count:,} of people in {split}" for split, count in left_out.items())
