"""The suites by name, one after the other, and the file of results that they leave."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import agreement, hotspots, inputs, suites, table
from benchmarks.measure import Row
from benchmarks.settings import Settings
from scemae_jax.report import figures
from scemae_jax.systems.sce_mae.stages import write_json
from scemae_jax.version import __version__

SUITES: dict[str, tuple[Callable[[Settings], list[Row]], Callable[[str, list[Row]], Table]]] = {
    "pretrain": (suites.pretraining, table.speed_table),
    "refine": (suites.refinement, table.speed_table),
    "cluster": (suites.clustering, table.speed_table),
    "features": (suites.features, table.speed_table),
    "input": (inputs.inputs, table.speed_table),
    "agreement": (agreement.agreement, table.agreement_table),
    "profile": (hotspots.hotspots, table.hotspot_table),
}
TIMED = ("pretrain", "refine", "cluster", "features", "input")


def check_suites(names: Sequence[str]) -> None:
    """Raises ValueError where one does not exist."""
    if unknown := [name for name in names if name not in SUITES]:
        raise ValueError(f"--suite names {', '.join(map(repr, unknown))}: choose from {', '.join(SUITES)}")


def environment(settings: Settings) -> dict[str, Any]:
    """The machine and the versions of what runs on it."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "grain")
    found = {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "scemae_jax": __version__,
        "peak": settings.peak._asdict(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
    if settings.peer:
        from benchmarks import peer

        found |= peer.versions()
    return found


def begin(settings: Settings, output: Path | None) -> dict[str, Any]:
    """The results so far.

    Raises:
      ValueError: those in the file are of other settings, or of another kind of device.
    """
    if output is None or not output.exists():
        return {"settings": settings.plain(), "environment": environment(settings), "suites": {}, "finished": False}
    results = json.loads(output.read_text())
    if results["settings"] != settings.plain():
        there, here = results["settings"], settings.plain()
        differ = [
            f"{name}: {there.get(name)} there, {here[name]} now" for name in here if there.get(name) != here[name]
        ]
        raise ValueError(f"--output {output} holds results of other settings ({'; '.join(differ)}): name another file")
    there, here = results["environment"]["device"], jax.devices()[0].device_kind
    if there != here:
        raise ValueError(f"--output {output} holds results of {there}, and this is {here}: name another file")
    return results


def run_suites(names: Sequence[str], settings: Settings, output: Path | None, plot: Path | None) -> dict[str, Any]:
    """Runs the suites that the file does not have yet, prints each and writes all of them."""
    results, console = begin(settings, output), Console(width=None if sys.stdout.isatty() else 170)
    there = results["environment"]
    console.print(
        f"{there['devices']} x {there['device']}, {there['cores']} cores; {settings.encoder}, {settings.dtype}; "
        f"at most {there['peak']['flops'] / 1e12:.4g} TFLOP/s ({there['peak']['source']})"
    )
    for name in names:
        measured, print_table = SUITES[name]
        if name not in results["suites"]:
            start = time.monotonic()
            rows = measured(settings)
            results["suites"][name] = {"rows": rows, "seconds": time.monotonic() - start}
            results["finished"] = set(names) <= results["suites"].keys()
            if output:
                write_json(output, results)
        rows = results["suites"][name]["rows"]
        console.print(print_table(f"{name}: {settings.encoder}, {settings.dtype}", rows))
        if name == "cluster" and plot:
            plot.write_bytes(figures.png(suites.scaling_figure(rows)))
    return results
