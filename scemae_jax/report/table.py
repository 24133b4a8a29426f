"""The results as a table on the screen."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(results: dict[str, Any]) -> None:
    """Prints matching and detection errors beside the baselines, as far as they were measured."""
    console = Console()
    if "match" in results:
        match = results["match"]
        title = f"Matching: mean error in {match['unit']}, {match['pairs']} pairs, split {match['split']}"
        table = Table("features", title=title)
        cases = ("same", "different", "different, far")
        for case in cases:
            table.add_column(case, justify="right")
        for name, errors in match["features"].items():
            table.add_row(name, *(f"{errors[case]['error']:.2f}" for case in cases))
        console.print(table)
    for count, detect in results.get("detect", {}).items():
        title = f"Detection of {count} landmarks: error in {detect['unit']}, {detect['images']} images"
        table = Table("method", title=title)
        table.add_column("error", justify="right")
        for name, errors in detect["methods"].items():
            table.add_row(name, f"{errors['error']:.2f} ± {errors['deviation']:.2f}")
        console.print(table)
    for stage in ("report", "export"):
        if stage in results:
            console.print(f"{stage}: {results[stage]['path']}")
