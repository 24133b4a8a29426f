"""A suite's rows as a table on the screen."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from benchmarks.measure import Row


def speed_table(title: str, rows: list[Row]) -> Table:
    """Of timed contenders: speed with its spread, also relative to one of them, utilisation, memory, compile time."""
    columns = ("", "images/s", "IQR", "min", "max", "ms a call", "relative", "IQR", "GFLOP an image", "utilisation")
    table = _table(title, (*columns, "MiB", "compile s", "share"))
    for row in rows:
        speed, relative = row["images_per_second"], row["relative"]
        table.add_row(
            row["name"],
            *(f"{speed[name]:,.4g}" for name in ("median", "iqr", "min", "max")),
            f"{row['milliseconds_per_call']:.4g}",
            f"{relative['median']:.3f}",
            f"{relative['iqr']:.3f}",
            _number(row["flops_per_image"], ".4g", 1e-9),
            _number(row["utilisation"], ".1%"),
            _number(row["memory_bytes"], ",.0f", 2**-20),
            _number(row["compile_seconds"], ".1f"),
            _number(row.get("share_of_step"), ".1%"),
        )
    return table


def agreement_table(title: str, rows: list[Row]) -> Table:
    """Of compared operations: the largest relative error, of what, and whether it passes."""
    table = _table(title, ("", "on", "type", "error", "bar", "of", ""))
    for row in rows:
        passed = "passed" if row["passed"] else "[bold red]failed"
        table.add_row(
            row["name"], row["device"], row["dtype"], f"{row['error']:.1e}", f"{row['bar']:.0e}", row["worst"], passed
        )  # fmt: skip
    return table


def hotspot_table(title: str, rows: list[Row]) -> Table:
    """Of a profile: time by category, then by operation."""
    table = _table(title, ("", "category", "ms a step", "share"))
    for row in rows:
        table.add_row(row["name"], row["category"], f"{row['milliseconds_per_step']:.3f}", f"{row['share']:.1%}")
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _number(value: Any, form: str, factor: float = 1.0) -> str:
    return "–" if value is None else f"{value * factor:{form}}"
