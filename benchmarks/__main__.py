"""Measures training steps, clustering and input, beside PyTorch on request.

  python -m benchmarks --suite pretrain,refine --encoder S/8 --output results.json
  python -m benchmarks --suite pretrain --encoder B/8 --dtype bfloat16 --peer torch --compile
  python -m benchmarks --smoke

Suites:
  pretrain   the step of stage 1 as it is trained, and the masked autoencoder alone, which the peer runs too
  refine     the step of stage 2; with all tokens; with hypercolumns; clustering alone
  cluster    density peaks of 512 images, which the peer runs too, and of more and more tokens
  input      the step of stage 1 with images on the device, in memory, or decoded for every batch
  agreement  every operation on the CPU and on the default device: errors, and whether they pass

Contenders take turns, --repeats times, each time for --seconds or more. --output is written after every suite, and the
same command goes on after those it has. Exit status: 0 done, 1 error or a disagreement.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import humanize
import jax
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from benchmarks.agreement import agreement
from benchmarks.measure import Row
from benchmarks.settings import SMOKE, Settings
from benchmarks.suites import clustering, inputs, pretraining, refinement
from scemae_jax.allocator import restart_keeping_freed_memory
from scemae_jax.systems.sce_mae.stages import write_json

SUITES: dict[str, Callable[[Settings], list[Row]]] = {
    "pretrain": pretraining, "refine": refinement, "cluster": clustering, "input": inputs, "agreement": agreement,
}  # fmt: skip

FLAGS = flags.FLAGS
flags.DEFINE_list("suite", list(SUITES), "What to measure.")
flags.DEFINE_string("encoder", None, "Such as S/8.")
flags.DEFINE_string("decoder", None, "Of stage 1: width x depth x heads, such as 512x8x16.")
flags.DEFINE_integer("batch_size", None, "Of both stages; without it each has the config's.", 1)
flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Of the networks' arithmetic.")
flags.DEFINE_enum("peer", None, ["torch"], "Measure PyTorch in turns with ours.")
flags.DEFINE_bool("compile", None, "The peer by torch.compile too; needs a C compiler and minutes.")
flags.DEFINE_integer("repeats", None, "Turns of each.", 1)
flags.DEFINE_float("seconds", None, "Least length of a turn.", 0.0)
flags.DEFINE_integer("workers", None, "Processes that decode images; 0: threads.", 0)
flags.DEFINE_string("output", None, "JSON file for everything that was measured.")
flags.DEFINE_bool("smoke", False, "All suites at tiny sizes, a few minutes on a CPU.")
flags.register_validator("suite", lambda names: names and SUITES.keys() >= {*names}, f"choose from {', '.join(SUITES)}")
flags.register_validator(
    "decoder", lambda text: text is None or re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", text), "such as 512x8x16"
)


def table(title: str, rows: Sequence[Row]) -> Table:
    """On the screen."""
    if "error" in rows[0]:
        shown = [{**row, "error": f"{row['error']:.1e}", "bar": f"{row['bar']:.0e}"} for row in rows]
    else:
        shown = [
            {
                "name": row["name"],
                "images/s": f"{row['images_per_second']['median']:,.4g}",
                "min, max": f"{row['images_per_second']['min']:,.4g}, {row['images_per_second']['max']:,.4g}",
                "ms a call": f"{row['milliseconds_per_call']:.4g}",
                "relative (IQR)": f"{row['relative']['median']:.3f} ({row['relative']['iqr']:.3f})",
                "memory": humanize.naturalsize(row["memory_bytes"], binary=True) if row["memory_bytes"] else "",
            }
            for row in rows
        ]
    found = Table(*shown[0], title=title)
    for row in shown:
        found.add_row(*map(str, row.values()))
    return found


def begin(settings: Settings, output: Path | None) -> dict[str, Any]:
    """The results so far.

    Raises:
      ValueError: those in the file are of other settings, or of another kind of device.
    """
    device = {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "cores": os.cpu_count()}
    about = dataclasses.asdict(settings) | device | {name: version(name) for name in ("jax", "numpy")}
    about = json.loads(json.dumps(about))
    if output is None or not output.exists():
        return {"about": about, "suites": {}}
    results = json.loads(output.read_text())
    if differ := [name for name in about if results["about"].get(name) != about[name]]:
        there = ", ".join(f"{name} {results['about'].get(name)}, not {about[name]}" for name in differ)
        raise ValueError(f"--output {output} holds results of {there}: name another file")
    return results


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {' '.join(argv[1:])}")
    given: dict[str, Any] = SMOKE.copy() if FLAGS.smoke else {}
    for name in ("encoder", "decoder", "batch_size", "dtype", "compile", "repeats", "seconds", "workers"):
        if FLAGS[name].present:
            given[name] = FLAGS[name].value
    if FLAGS.peer:
        given["peer"] = True
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")  # of a GPU: PyTorch needs some too
    output, console = Path(FLAGS.output) if FLAGS.output else None, Console(width=None if sys.stdout.isatty() else 150)
    try:
        settings = Settings(**given)
        results = begin(settings, output)
        for name in FLAGS.suite:
            if name not in results["suites"]:
                results["suites"][name] = SUITES[name](settings)
                if output:
                    write_json(output, results)
            title = f"{name}: {settings.encoder}, {settings.dtype}, {results['about']['device']}"
            console.print(table(title, results["suites"][name]))
    except ValueError as error:
        logging.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}\n(--verbosity=1 shows where)")
    compared = results["suites"].get("agreement", [])
    if failed := [f"{row['name']} ({row['dtype']})" for row in compared if not row["passed"]]:
        sys.exit(f"error: {', '.join(failed)} of {results['about']['device']} disagree with the CPU")


if __name__ == "__main__":
    restart_keeping_freed_memory()
    logging.set_verbosity(logging.WARNING)
    app.run(main)
