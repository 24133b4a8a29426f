"""Measures training steps, clustering and input, beside PyTorch on request.

  python -m benchmarks --suite pretrain --encoder T/8 --decoder 192x4x3 --peer torch --output results.json

Suites:
  pretrain   the step of stage 1 as it is trained, and the masked autoencoder alone, which the peer runs too
  refine     the step of stage 2; with all tokens; with hypercolumns; clustering alone
  cluster    density peaks of many images, which the peer runs too, and of more and more tokens
  input      the step of stage 1 with images on the device, in memory, or decoded for every batch
  parse      `Model.parse`; SPCL's adaptation step beside its passes (one core: taskset -c 0 python -m benchmarks ...)
  agreement  operations on the CPU and on the default device: errors, and whether they pass

Contenders take turns. --output is written after every suite; the same command skips the suites that it has.
Exit status: 0 done, 1 error or a disagreement.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import simple_parsing
from rich.console import Console
from rich.table import Table

from benchmarks import parse, suites
from benchmarks.agreement import agreement
from benchmarks.measure import Row
from benchmarks.suites import SMOKE, Settings
from scemae_jax.allocator import restart_keeping_freed_memory

SUITES = {
    "pretrain": suites.pretraining, "refine": suites.refinement, "cluster": suites.clustering, "input": suites.inputs,
    "parse": parse.parsing, "agreement": agreement,
}  # fmt: skip


def table(title: str, rows: list[Row]) -> Table:
    """Rows as a table for the screen."""
    found = Table(*rows[0], title=title)
    for row in rows:
        found.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    return found


def run(settings: Settings) -> dict[str, Any]:
    """Measures the suites that the output file lacks, and returns all results.

    Raises:
      ValueError: a setting does not exist, or the file's results are of other settings or another kind of device.
    """
    names, output, device = settings.suite.split(","), Path(settings.output), jax.devices()[0].device_kind
    if unknown := set(names) - SUITES.keys():
        raise ValueError(f"--suite names {', '.join(sorted(unknown))}: choose from {', '.join(SUITES)}")
    about = dataclasses.asdict(dataclasses.replace(settings, suite="", output="")) | {"device": device}
    results: dict[str, Any] = {"about": about, "suites": {}}
    if settings.output and output.exists():
        results = json.loads(output.read_text())
        if results["about"] != about:
            raise ValueError(f"--output {output} holds results of {results['about']}, not {about}: name another file")
    for name in names:
        if name not in results["suites"]:
            results["suites"][name] = SUITES[name](settings)
            if settings.output:
                output.write_text(json.dumps(results, indent=1) + "\n")
        title = f"{name}: {settings.encoder}, {settings.dtype}, {device}"
        Console(width=None if sys.stdout.isatty() else 150).print(table(title, results["suites"][name]))
    return results


def main() -> None:
    settings = simple_parsing.parse(Settings, prog="python -m benchmarks", description=__doc__)
    if settings.smoke:
        settings = dataclasses.replace(settings, **SMOKE)
    if settings.peer:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")  # of a GPU: PyTorch needs some too
    try:
        results = run(settings)
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    if failed := [row["name"] for row in results["suites"].get("agreement", []) if not row["passed"]]:
        sys.exit(f"error: {', '.join(failed)} of {results['about']['device']} disagree with the CPU")


if __name__ == "__main__":
    restart_keeping_freed_memory()
    main()
