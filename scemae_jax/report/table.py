"""The results as a table on the screen."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(results: dict[str, Any]) -> None:
    """Prints matching and detection errors and silhouettes beside the baselines, as far as they were measured."""
    console = Console()
    for stage in ("pretrain", "refine"):
        if left_out := results.get(stage, {}).get("images_left_out"):
            console.print(f"{stage}: {LEFT_OUT}: {counts_by_split(left_out)}")
    for form in matching_forms(results.get("match", {})):
        title = f"Matching of {form['landmarks']} landmarks: error in {form['unit']}, {pairs_of(form)}"
        table = Table("features", title=title)
        cases = ("same", "different", "different, far")
        for case in cases:
            table.add_column(case, justify="right")
        for name, errors in form["features"].items():
            table.add_row(name, *(_number(errors[case]["error"]) for case in cases))
        console.print(table)
    for count, detect in results.get("detect", {}).items():
        if count == "skipped" or not detect["methods"]:
            continue
        title = f"Detection of {count} landmarks: error in {detect['unit']}, {detect['images']} images"
        table = Table("method", title=title)
        table.add_column("error", justify="right")
        for name, errors in detect["methods"].items():
            table.add_row(name, f"{errors['error']:.2f} ± {errors['deviation']:.2f}")
        console.print(table)
    few = results.get("few_shot", {})
    for form, measured in few_shot_forms(few):
        title = f"{form} landmarks from few annotations: error in {measured['unit']}, {few['images']} images"
        table = Table("annotated images", title=title)
        counts = list(dict.fromkeys(count for row in measured["methods"].values() for count in row))
        for count in counts:
            table.add_column(count, justify="right")
        for name, row in measured["methods"].items():
            table.add_row(name, *(_number(row[count]["error"] if count in row else None) for count in counts))
        console.print(table)
    if "features" in (represent := results.get("represent", {})):
        title = f"Silhouettes of {represent['count']} features of {represent['landmarks']} landmarks"
        table = Table("features", title=title)
        for column in ("feature space", f"t-SNE, {represent['repeats']} runs"):
            table.add_column(column, justify="right")
        for name, found in represent["features"].items():
            spread = "" if found["deviation"] is None else f" ± {found['deviation']:.3f}"
            table.add_row(name, f"{found['silhouette']:.3f}", f"{found['embedded']:.3f}{spread}")
        console.print(table)
    for stage in ("report", "export"):
        if "path" in results.get(stage, {}):
            console.print(f"{stage}: {results[stage]['path']}")


def matching_forms(match: dict[str, Any]) -> list[dict[str, Any]]:
    """The 5-point form, and that of all landmarks where there are more."""
    if "features" not in match:
        return []
    return [match, *([match | match["all_landmarks"]] if "all_landmarks" in match else [])]


LEFT_OUT = "unannotated images left out"
"""Of stages 1 and 2, since their people are in a split that errors are measured on."""


def counts_by_split(left_out: dict[str, int]) -> str:
    """How many images were left out, by the split that their people are in."""
    return " and ".join(f"{count:,} of people in {split}" for split, count in left_out.items())


def pairs_of(match: dict[str, Any]) -> str:
    """How many pairs a form was measured on, and how many of its queries are at the window's edge in their place."""
    pairs = f"{match['pairs']:,} pair" + ("" if match["pairs"] == 1 else "s")
    if "clamped_queries" not in match:  # measured before such landmarks counted
        return pairs
    count = match["clamped_queries"]
    return f"{pairs} ({count:,} {'query' if count == 1 else 'queries'} clamped to the window)"


def few_shot_forms(few_shot: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What was measured of each number of landmarks, fewest first."""
    forms = [(name, form) for name, form in few_shot.items() if isinstance(form, dict)]
    return sorted(forms, key=lambda item: int(item[0]))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
