"""A measurement is a row. Tables on the screen, reports, sweeps and the paper's tables are selections of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Self

import pandas as pd

STATISTICS = ("value", "deviation", "n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number that a stage measured. The experiment adds stage, system, dataset and seed when it stores the row."""

    metric: str
    value: float | None = None
    """None: there was nothing to measure it on."""
    deviation: float | None = None
    n: int | None = None
    """How many things the value is the mean of."""
    unit: str = ""
    method: str = ""
    split: str = ""
    variant: Mapping[str, str | float | bool] = dataclasses.field(default_factory=dict)
    """Whatever else tells this row from others: {"landmarks": 5, "case": "same", "stride": 4}."""

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """A row from flat fields; those without an attribute of their own belong to `variant`."""
        own = {field.name for field in dataclasses.fields(cls)} - {"variant"}
        variant = {name: value for name, value in fields.items() if name not in own}
        return cls(**{name: value for name, value in fields.items() if name in own}, variant=variant)

    def row(self, **about: Any) -> dict[str, Any]:
        """Flat and JSON-able, behind the fields `about` the run."""
        own = {name: getattr(self, name) for name in ("split", "metric", "method")}
        numbers = {name: getattr(self, name) for name in (*STATISTICS, "unit")}
        return {**about, **own, **self.variant, **numbers}


def as_table(rows: Iterable[Measurement | Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table with a column for each field; what a row lacks is NA."""
    records = [row.row() if isinstance(row, Measurement) else dict(row) for row in rows]
    columns = dict.fromkeys(name for record in [Measurement(metric="").row(), *records] for name in record)
    table = pd.DataFrame(records, columns=list(columns)).convert_dtypes()
    return table.astype({"value": float, "deviation": float})


def measurements(table: pd.DataFrame) -> list[Measurement]:
    """The rows of a table, as `as_table` takes them."""
    return [
        Measurement.of(**{name: value for name, value in record.items() if not pd.isna(value)})
        for record in table.to_dict("records")
    ]


def over(table: pd.DataFrame, *fields: str) -> pd.DataFrame:
    """Means over repeats, which differ in `fields` alone: with their sample deviation (NA of one), and their number."""
    same = [name for name in table.columns if name not in (*fields, *STATISTICS)]
    groups = table.groupby(same, dropna=False, sort=False)["value"]
    return groups.agg(value="mean", deviation="std", n="count").reset_index()


def select(table: pd.DataFrame, /, **fields: Any) -> pd.DataFrame:
    """The rows that have these values; None stands for rows that lack the field."""
    for name, value in fields.items():
        column = table[name] if name in table else pd.Series(pd.NA, index=table.index)
        table = table[column.isna() if value is None else column.eq(value).fillna(False).astype(bool)]
    return table
