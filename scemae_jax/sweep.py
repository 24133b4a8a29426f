"""A sweep: one experiment with other settings, each point an ordinary run of its own, and one table of them all.

  python -m scemae_jax.sweep --config configs/ytf68.py:tiny --sweep configs/sweeps/temperature.py \
    --workdir runs/temperature --config.init=xs8_ytf68 --config.stages="('refine','match')" \
    --config.data.test_split=validation

A sweep file has `get_sweep()`, which gives the fields of the config that each point changes, by the point's name, and
perhaps SEEDS. --seeds=0 runs that one alone; others can follow in the same DIR, and the tables are of the seeds of the
last call, so name them all then: what has finished is skipped. Choose settings on a validation part, as above, and
measure the one that was chosen on the test split.

Point by point, seed by seed, DIR/POINT (or DIR/POINT/seed0) becomes the workdir of a run; what has finished is skipped,
what was cut off goes on: run the same command again. Where the stages have `pretrain`, points that agree in all that
stage 1 depends on share one, in DIR/stage1. With a backbone given by config.init the seeds are those of stage 2 and
later. After every run DIR/sweep.csv (all numbers), sweep.md (means and sample deviations over the seeds) and sweep.png
are written anew. Exit status: 0 done, 1 a point failed (the others ran), 75 stopped at --stop_after_minutes.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import runpy
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from matplotlib.figure import Figure

from scemae_jax import config as configuration
from scemae_jax import experiment, run_flags
from scemae_jax.allocator import restart_keeping_freed_memory
from scemae_jax.command_line import DONE, FAILED, exit_status, start, stop_at
from scemae_jax.config import Config, leaves
from scemae_jax.experiment import read_results
from scemae_jax.model_file import save_model
from scemae_jax.report import figures
from scemae_jax.report.table import matching_forms, pairs_of
from scemae_jax.run_flags import CONFIG, DRY_RUN, STOP_AFTER, WORKDIR
from scemae_jax.systems import system_of
from scemae_jax.systems.sce_mae import settings
from scemae_jax.systems.sce_mae.networks import SceMae
from scemae_jax.systems.sce_mae.stages import MEASURED, SYSTEM
from scemae_jax.training import processes

flags.adopt_module_key_flags(run_flags)
SWEEP = flags.DEFINE_string("sweep", None, "The points to run: a file in configs/sweeps/.")
SEEDS = flags.DEFINE_list("seeds", None, "Seeds, as in 0,1,2, instead of those of the sweep file.")

STAGE1 = ("seed", "init", "dtype", "data", "mesh", "pretrain")
"""Sections and fields of the config that stage 1 depends on; and of the networks:"""
STAGE1_NETWORK = (
    "encoder", "positions", "image_size", "window", "decoder_width", "decoder_depth", "decoder_heads", "mask_ratio",
    "normalise_target",
)  # fmt: skip
RESERVED = ("stage1", "compiled")
"""Folders beside those of the points."""

CASES = ("same", "different", "different, far")
RANDOM_PAIRINGS = "different, random pairings"
"""*Different* again, the mean over random pairings of the same images, where they were asked for."""
POSITION_FREE = ", position-free"
DETECTION = "detection"
COMPARED = ("MAE only", "MAE, clustered", "own location", "mean shape")
"""Rows of the results that stand below the points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep file says."""

    title: str
    """First line of its docstring."""
    points: dict[str, dict[str, Any]]
    """Changed fields of the config, "section.field", by the point's name."""
    seeds: tuple[int, ...] = ()
    """None: that of the config, and no folders for seeds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One point with one seed."""

    point: str
    config: Config
    workdir: Path
    stage1: Config | None
    """The experiment that trains the backbone, unless that is given."""
    stage1_workdir: Path

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def results(self) -> dict[str, Any]:
        """What this config has measured so far; none of what another one left in the workdir, where no run goes on."""
        path = self.workdir / "config.json"
        there = json.loads(path.read_text()) if path.exists() else {}
        if configuration.differences(there, configuration.plain(self.config)):
            return {}
        return read_results(self.workdir)

    @property
    def finished(self) -> bool:
        return set(self.config.stages) <= self.results.keys()


def load_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it has no `get_sweep`, no points, or a point whose name cannot be that of a folder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--sweep {path} is not a file: name one of configs/sweeps")
    content = runpy.run_path(str(path))
    if "get_sweep" not in content:
        raise ValueError(f"--sweep {path} has no get_sweep(): it gives the changed fields of each point by its name")
    points = dict(content["get_sweep"]())
    if not points:
        raise ValueError(f"--sweep {path}: get_sweep() gives no points")
    for name in points:
        if name in RESERVED or not re.fullmatch(r"\w[\w .,=+-]*", name):
            raise ValueError(
                f"--sweep {path}: a point is called {name!r}, and its folder would be too: use letters, digits, "
                f"spaces and .,=+-_, and none of {', '.join(RESERVED)}"
            )
    title = (content.get("__doc__") or path.stem).strip().splitlines()[0]
    return Sweep(title=title, points=points, seeds=tuple(content.get("SEEDS", ())))


def plan(config: Config, sweep: Sweep, workdir: Path) -> list[Run]:
    """The runs of a sweep: all points with the first seed, then with the next.

    Raises:
      ValueError: a point changes a field that the config does not have, or to a value of another type.
    """
    runs = []
    for seed in sweep.seeds or (None,):
        for point, fields in sweep.points.items():
            changed, folder = _changed(config, point, fields), workdir / point
            if seed is not None:
                changed.seed, folder = seed, folder / f"seed{seed}"
            first = stage1_config(changed) if "pretrain" in changed.stages else None
            shared = workdir / "stage1" / (configuration.config_hash(first) if first else "none")
            if first:
                changed.stages = tuple(stage for stage in changed.stages if stage != "pretrain")
                changed.init = str(shared / "backbone.msgpack")
            runs.append(Run(point=point, config=changed, workdir=folder, stage1=first, stage1_workdir=shared))
    return runs


def _changed(config: Config, point: str, fields: Mapping[str, Any]) -> Config:
    changed = config.copy_and_resolve_references()
    known = dict(leaves(changed.to_dict()))
    for field, value in fields.items():
        if field not in known:
            raise ValueError(f"point {point!r} sets {field!r}, which the config does not have")
        try:
            changed.update_from_flattened_dict({field: value})
        except TypeError as error:
            raise ValueError(f"point {point!r} sets {field!r} to {value!r}: {error}") from error
    return changed


def stage1_config(config: Config) -> Config:
    """The experiment of stage 1 alone: equal for configs that agree in what stage 1 depends on."""
    shared = settings.default()
    for name in STAGE1:
        shared[name] = config[name]
    for name in STAGE1_NETWORK:
        shared.model[name] = config.model[name]
    shared.stages = ("pretrain",)
    return shared.copy_and_resolve_references()


def run_sweep(config: Config, sweep: Sweep, workdir: Path, stop_at: float | None = None) -> dict[str, str]:
    """Runs the points that have not finished, one after the other, and keeps the table up to date.

    Args:
      config: what the points start from.
      sweep: the points.
      workdir: of the sweep.
      stop_at: time (`time.monotonic`) after which to save and stop.

    Returns:
      Why runs failed, by their folder below `workdir`.

    Raises:
      ValueError: as `plan`.
      OutOfTime: `stop_at` came before the end; everything so far is saved.
    """
    runs = plan(config, sweep, workdir)
    failures: dict[str, str] = {}
    broken: dict[Path, Exception] = {}  # stages 1 that failed: they would for each of their points
    for run in runs:
        name = str(run.workdir.relative_to(workdir))
        print(f"== {name}", flush=True)
        try:
            if stop_at is not None and time.monotonic() > stop_at and not run.finished:
                raise processes.OutOfTime(f"stopped before {name}; run the same command to go on")
            system_of(run.config).check_config(run.config)
            if run.stage1:
                if run.stage1_workdir in broken:
                    raise broken[run.stage1_workdir]
                try:
                    _train_stage1(run.stage1, run.stage1_workdir, stop_at)
                except Exception as error:
                    broken[run.stage1_workdir] = error
                    raise
            experiment.run(system_of(run.config).open(run.config, run.workdir, stop_at))
        except (processes.OutOfTime, processes.Interrupted):
            raise
        except Exception as error:  # whatever it is, the other points may do
            logging.debug("where it happened", exc_info=True)
            print(f"error: {name}: {error}", file=sys.stderr)
            failures[name] = str(error)
        finally:
            write_tables(runs, sweep, workdir, failures)
    return failures


def _train_stage1(config: Config, workdir: Path, stop_at: float | None) -> None:
    """Trains a backbone that several points start from, and leaves it, with its decoder, as backbone.msgpack."""
    first, path = SceMae(config, workdir, SYSTEM, stop_at), workdir / "backbone.msgpack"
    if path.exists():
        experiment.check_init(first, first.results())
        return
    results = experiment.run(first)
    provenance = {
        "config_hash": results["config_hash"],
        "dataset": config.data.dataset,
        "init": config.init,
        "images_seen": results["pretrain"]["images_seen"],
    }
    save_model(dataclasses.replace(first.mae(), provenance=provenance), path)


def write_tables(runs: Sequence[Run], sweep: Sweep, workdir: Path, failures: Mapping[str, str]) -> None:
    """Writes sweep.csv, sweep.md and sweep.png of what there is so far, each all or nothing."""
    summary = Summary(runs)
    files = {
        "sweep.csv": _csv(runs, sweep, workdir, failures).encode(),
        "sweep.md": summary.markdown(sweep.title, failures).encode(),
    }
    if summary.matched:
        files["sweep.png"] = figures.png(summary.figure())
    workdir.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        partial = workdir / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(workdir / name)


def _csv(runs: Sequence[Run], sweep: Sweep, workdir: Path, failures: Mapping[str, str]) -> str:
    """A row a run: the fields that the points differ in, and every number of its results, named as in results.json."""
    fields = list(dict.fromkeys(field for changed in sweep.points.values() for field in changed))
    rows = []
    for run in runs:
        values, results = dict(leaves(run.config.to_dict())), run.results
        row = {"point": run.point, "seed": run.seed} | {field: values[field] for field in fields}
        for stage in ("refine", *MEASURED):
            found = dict(leaves(results.get(stage, {}), f"{stage}."))
            row |= {path: number for path, number in found.items() if isinstance(number, (int, float))}
        row["error"] = failures.get(str(run.workdir.relative_to(workdir)), "")
        rows.append(row)
    columns = dict.fromkeys(column for row in rows for column in row if column != "error")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "error"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


Measured = dict[str, dict[str, float]]
"""Errors by row (kind of features or method) and column (CASES, RANDOM_PAIRINGS, those without position, detection)."""


def measured(results: Mapping[str, Any], count: int) -> Measured:
    """What a run measured of `count` landmarks."""
    found: Measured = {}
    form = {form["landmarks"]: form for form in matching_forms(results.get("match", {}))}.get(count, {})
    again = form.get("random_pairings", {}).get("features", {})
    for name, errors in form.get("features", {}).items():
        suffix = POSITION_FREE if name.endswith(POSITION_FREE) else ""
        columns = {case: errors[case]["error"] for case in CASES}
        if name in again:
            columns[RANDOM_PAIRINGS] = again[name]["different"]["error"]
        row = found.setdefault(name.removesuffix(POSITION_FREE), {})
        row |= {column + suffix: error for column, error in columns.items() if error is not None}
    for name, errors in results.get("detect", {}).get(str(count), {}).get("methods", {}).items():
        found.setdefault(name, {})[DETECTION] = errors["error"]
    return found


class Summary:
    """What the runs of a sweep have measured so far, point by point over the seeds."""

    def __init__(self, runs: Sequence[Run]):
        self.points = list(dict.fromkeys(run.point for run in runs))
        self.total = len(runs)
        results = {(run.point, run.seed): found for run in runs if (found := run.results)}
        matching, detection, self.protocol = set(), set(), set()
        for found in results.values():
            for form in matching_forms(found.get("match", {})):
                matching.add(form["landmarks"])
                self.protocol.add(
                    f"Matching of {form['landmarks']}: {pairs_of(form)} of split {form['split']}, stride "
                    f"{form['stride']}, error in {form['unit']}."
                )
                if "random_pairings" in form:
                    self.protocol.add(
                        f"Random pairings: {form['random_pairings']['pairings']} of the same images, their mean error."
                    )
            for count, form in found.get("detect", {}).items():
                if count != "skipped" and form["methods"]:
                    detection.add(int(count))
                    self.protocol.add(f"Detection of {count}: {form['images']} images, error in {form['unit']}.")
        self.matched, self.counts = sorted(matching), sorted(matching | detection)
        """Numbers of landmarks: those that were matched, and those that were matched or detected."""
        self.found = {n: {run: measured(found, n) for run, found in results.items()} for n in self.counts}
        self.finished = sum(run.finished for run in runs)

    def over_seeds(self, count: int, row: str, point: str) -> dict[int, dict[str, float]]:
        """A row of the results of each seed that has it."""
        return {seed: found[row] for (name, seed), found in self.found[count].items() if name == point and row in found}

    def compared(self, count: int, row: str) -> dict[str, dict[int, dict[str, float]]]:
        """As `over_seeds` for all points; those that agree in the seeds that they share, and share one, are one.

        Under the row's name or, if there are several, also the points'.
        """
        groups: list[tuple[list[str], dict[int, dict[str, float]]]] = []
        for point in self.points:
            found = self.over_seeds(count, row, point)
            if not found:
                continue
            for names, others in groups:
                shared = others.keys() & found.keys()
                if shared and all(others[seed] == found[seed] for seed in shared):
                    names.append(point)
                    others |= found
                    break
            else:
                groups.append(([point], found))
        if len(groups) == 1:
            return {row: groups[0][1]}
        return {f"{row} ({'; '.join(names)})": found for names, found in groups}

    def markdown(self, title: str, failures: Mapping[str, str]) -> str:
        """A table for each number of landmarks, and what failed."""
        lines = [
            f"# {title}",
            "",
            f"{self.finished} of {self.total} runs have finished. Means over the seeds ± their sample deviation.",
            *sorted(self.protocol),
        ]
        columns = [c + suffix for suffix in ("", POSITION_FREE) for c in (*CASES, RANDOM_PAIRINGS)] + [DETECTION]
        for count in self.counts:
            table = {point: found for point in self.points if (found := self.over_seeds(count, "SCE-MAE", point))}
            for row in COMPARED:
                table |= self.compared(count, row)
            shown = [c for c in columns if any(c in errors for found in table.values() for errors in found.values())]
            lines += ["", f"| {count} landmarks | seeds | {' | '.join(shown)} |", "| --- " * (2 + len(shown)) + "|"]
            for name, found in table.items():
                cells = [mean_and_deviation([errors[c] for errors in found.values() if c in errors]) for c in shown]
                lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} |")
        if failures:
            lines += ["", "Failed:", "", *(f"- {name}: {' '.join(why.split())}" for name, why in failures.items())]
        return "\n".join(lines) + "\n"

    def figure(self) -> Figure:
        """*Different* of each point with its deviation; what it is to be compared with as lines."""
        figure = Figure(figsize=(figures.WIDTH, 3.2 * len(self.matched)), layout="constrained")
        for axes, count in zip(figure.subplots(len(self.matched), squeeze=False)[:, 0], self.matched, strict=True):
            for number, row in enumerate(("SCE-MAE", "MAE only", "own location")):
                found = {
                    place: [e["different"] for e in self.over_seeds(count, row, point).values() if "different" in e]
                    for place, point in enumerate(self.points)
                }
                found = {place: errors for place, errors in found.items() if errors}
                deviations = [statistics.stdev(e) if len(e) > 1 else 0.0 for e in found.values()]
                means = [statistics.mean(errors) for errors in found.values()]
                axes.errorbar(
                    list(found), means, yerr=None if number else deviations, label=row, color=figures.COLOURS[number],
                    linestyle="-" if number else "none", marker=None if number else "o", capsize=4,
                )  # fmt: skip
            axes.set_xticks(range(len(self.points)), self.points, rotation=20, ha="right")
            axes.set_ylabel("different", color=figures.INK)
            axes.set_title(f"{count} landmarks", color=figures.INK, fontsize=9, loc="left")
            axes.tick_params(colors=figures.INK, labelsize=8)
            axes.grid(color=figures.INK, alpha=0.25, linewidth=0.6)
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(figures.INK)
            axes.legend(frameon=False, labelcolor=figures.INK, fontsize=8)
        return figure


def mean_and_deviation(values: Sequence[float]) -> str:
    """ "9.37 ± 0.08": the sample deviation, left out of a single value; "–" of none."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def parse_seeds(given: Sequence[str]) -> tuple[int, ...]:
    """The numbers of --seeds.

    Raises:
      ValueError: there are none, one is not a whole number, or one stands there twice.
    """
    seeds = tuple(int(seed) for seed in given if re.fullmatch(r"\d+", seed))
    if not seeds or len({*seeds}) != len(given):
        raise ValueError(f"--seeds={','.join(given)}: whole numbers, each once, as in --seeds=0,1,2")
    return seeds


def main() -> None:
    config, workdir = CONFIG.value, Path(str(WORKDIR.value))  # `start` asks for them
    processes.handle_sigterm()
    with exit_status():
        if config.get("system") != SYSTEM.name:
            raise ValueError(f"config.system is {config.get('system')!r}: a sweep is of sce_mae alone")
        sweep = load_sweep(Path(str(SWEEP.value)))
        if SEEDS.value is not None:
            sweep = dataclasses.replace(sweep, seeds=parse_seeds(SEEDS.value))
        if DRY_RUN.value:
            for run in plan(config, sweep, workdir):
                changed = ", ".join(f"{field}={value}" for field, value in sweep.points[run.point].items())
                trained = f"stage 1 in {run.stage1_workdir}, " if run.stage1 else ""
                print(f"{run.workdir}: {changed or 'the config'}; {trained}{', '.join(run.config.stages)}")
            return
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # programs that one point compiled serve the next
            jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").absolute()))
        failures = run_sweep(config, sweep, workdir, stop_at(STOP_AFTER.value))
        print((workdir / "sweep.md").read_text())
        for name, why in failures.items():
            print(f"error: {name}: {why}", file=sys.stderr)
        sys.exit(FAILED if failures else DONE)


if __name__ == "__main__":
    restart_keeping_freed_memory()
    start(main, "config", "workdir", "sweep")
