"""A sweep: one experiment with other settings, each point an ordinary run of its own, and one table of them all.

  python -m scemae_jax.sweep --config configs/ytf68.py:tiny --sweep configs/sweeps/temperature.py \
    --workdir runs/temperature --config.init=xs8_ytf68 --config.stages="('refine','match')" \
    --config.data.test_split=validation

A sweep file has `get_sweep()`, which gives the fields of the config that each point changes, by the point's name, and
perhaps SEEDS. --seeds=0 runs that one alone; others can follow in the same DIR, and the tables are of the seeds of the
last call, so name them all then: what has finished is skipped. Choose settings on a validation part, as above, and
measure the one that was chosen on the test split.

Point by point, seed by seed, DIR/POINT (or DIR/POINT/seed0) becomes the workdir of a run; what has finished is skipped,
what was cut off goes on: run the same command again. Where the stages of sce_mae have `pretrain`, points that agree in
all that stage 1 depends on share one, in DIR/stage1. With a backbone given by config.init the seeds are those of stage
2 and later. After every run DIR/sweep.csv (all measurements), sweep.md (means and sample deviations over the seeds) and
sweep.png are written anew. Exit status: 0 done, 1 a point failed (the others ran), 75 stopped at --stop_after_minutes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from absl import flags, logging
from matplotlib.figure import Figure

from scemae_jax import config as configuration
from scemae_jax import experiment, run_flags
from scemae_jax.allocator import restart_keeping_freed_memory
from scemae_jax.command_line import DONE, FAILED, exit_status, start, stop_at
from scemae_jax.config import Config, leaves
from scemae_jax.evaluation.measurement import over
from scemae_jax.experiment import read_results
from scemae_jax.model_file import save_model
from scemae_jax.report import figures
from scemae_jax.report.table import Table, labels, markdown
from scemae_jax.run_flags import CONFIG, DRY_RUN, STOP_AFTER, WORKDIR
from scemae_jax.systems import system_of
from scemae_jax.systems.sce_mae import settings
from scemae_jax.systems.sce_mae.networks import SceMae
from scemae_jax.systems.sce_mae.stages import SYSTEM
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep file says."""

    title: str
    """First line of its docstring."""
    points: dict[str, dict[str, Any]]
    """Changed fields of the config, "section.field", by the point's name."""
    seeds: tuple[int, ...] = ()
    """Empty: that of the config, and no folders for seeds."""


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
            shares = changed.system == SYSTEM.name and "pretrain" in changed.stages
            first = stage1_config(changed) if shares else None
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
        "sweep.csv": all_rows(runs, sweep, workdir, failures).to_csv(index=False).encode(),
        "sweep.md": summary.markdown(sweep.title, failures).encode(),
    }
    if summary.panels():
        files["sweep.png"] = figures.png(summary.figure())
    workdir.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        partial = workdir / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(workdir / name)


def all_rows(runs: Sequence[Run], sweep: Sweep, workdir: Path, failures: Mapping[str, str]) -> pd.DataFrame:
    """A row for every measurement and every number among the facts of a stage, behind the fields that points differ in.

    A run that failed has a row that says why.
    """
    fields = list(dict.fromkeys(field for changed in sweep.points.values() for field in changed))
    rows = []
    for run in runs:
        values, results = dict(leaves(run.config.to_dict())), run.results
        about = {"point": run.point, "seed": run.seed} | {field: values[field] for field in fields}
        facts = {stage: found for stage, found in results.items() if isinstance(found, Mapping)}
        found = list(results.get("measurements", ()))
        for stage, numbers in facts.items():
            found += [
                {"stage": stage, "metric": name, "value": value}
                for name, value in numbers.items()
                if isinstance(value, int | float)
            ]
        if why := failures.get(str(run.workdir.relative_to(workdir))):
            found.append({"error": why})
        rows += [about | row for row in found]
    return pd.DataFrame(rows)


class Summary:
    """What the runs of a sweep have measured so far: the tables of their system, over the seeds, point by point."""

    def __init__(self, runs: Sequence[Run]):
        self.points = list(dict.fromkeys(run.point for run in runs))
        self.total, self.finished = len(runs), sum(run.finished for run in runs)
        found: dict[str, list[Table]] = {}
        for run in runs:
            for table in system_of(run.config).tables(run.results):
                rows = table.rows.assign(point=run.point, seed=run.seed)
                found.setdefault(table.title, []).append(dataclasses.replace(table, rows=rows))
        self.protocol = {title: dict.fromkeys(table.about for table in tables) for title, tables in found.items()}
        self.tables = [
            dataclasses.replace(tables[0], rows=pd.concat([table.rows for table in tables], ignore_index=True))
            for tables in found.values()
        ]

    def compared(self, table: Table) -> Table:
        """A row for each point, of the system's own method, and below them the other methods, over the seeds.

        Points that agree on another method in the seeds that they share, and share one, are one row: under the
        method's name or, if there are several, also the points'. Columns are the table's, and the method's variants.
        """
        columns, rows = (*table.columns, *table.index[1:]), table.rows
        rows = rows.assign(row=rows["point"].where(rows["method"] == table.own), column=labels(rows, columns))
        for method, found in rows[rows["row"].isna()].groupby("method", sort=False):
            groups = agreeing(found)
            names = {point: str(method) for group in groups for point in group}
            if len(groups) > 1:
                names = {point: f"{method} ({'; '.join(group)})" for group in groups for point in group}
            rows.loc[found.index, "row"] = found["point"].map(names)
        order = [*dict.fromkeys([*self.points, *rows["row"].dropna()])]
        rows = rows.sort_values("row", key=lambda names: names.map(order.index, na_action="ignore"), kind="stable")
        rows = rows.dropna(subset=["row", "value"]).drop_duplicates(["row", "column", "seed"])
        means = over(rows[["row", "column", "seed", "value"]], "seed")
        return dataclasses.replace(table, rows=means, index=("row",), columns=("column",))

    def markdown(self, title: str, failures: Mapping[str, str]) -> str:
        """The tables, and what failed."""
        lines = [
            f"# {title}",
            "",
            f"{self.finished} of {self.total} runs have finished. Means over the seeds ± their sample deviation.",
        ]
        for table in map(self.compared, self.tables):
            grid = table.grid()
            body = [
                [name, count, *cells]
                for (name, cells), count in zip(grid.cells().iterrows(), grid.n.max(axis=1).astype(int), strict=True)
            ]
            lines += ["", f"## {table.title}", "", *(f"{about}." for about in self.protocol[table.title]), ""]
            lines += markdown(["", "seeds", *grid.value], body)
        if failures:
            lines += ["", "Failed:", "", *(f"- {name}: {' '.join(why.split())}" for name, why in failures.items())]
        return "\n".join(lines) + "\n"

    def panels(self) -> list[tuple[Table, str, str]]:
        """Table, column and title of what the figure shows."""
        return [
            (table, column, title)
            for table in self.tables
            for column, title in table.headlines.items()
            if column in set(labels(table.rows, table.columns))
        ]

    def figure(self) -> Figure:
        """The columns that matter most: each point with its deviation, and the other methods as lines."""
        panels = self.panels()
        figure = Figure(figsize=(figures.WIDTH, 3.2 * len(panels)), layout="constrained")
        for axes, (table, column, title) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            rows = table.rows[[label == column for label in labels(table.rows, (*table.columns, *table.index[1:]))]]
            means = over(rows[["method", "point", "seed", "value"]], "seed").dropna(subset="value")
            for number, (method, found) in enumerate(means.groupby("method", sort=False)):
                mine = method == table.own
                axes.errorbar(
                    found["point"].map(self.points.index), found["value"], label=str(method),
                    yerr=found["deviation"].fillna(0.0) if mine else None, capsize=4,
                    color=figures.COLOURS[number % len(figures.COLOURS)], linestyle="none" if mine else "-",
                    marker="o" if mine else None,
                )  # fmt: skip
            axes.set_xticks(range(len(self.points)), self.points, rotation=20, ha="right")
            axes.set_ylabel(str(rows["unit"].iloc[0]), color=figures.INK, fontsize=8)
            axes.set_title(title, color=figures.INK, fontsize=9, loc="left")
            figures.plain(axes)
            axes.legend(frameon=False, labelcolor=figures.INK, fontsize=8)
        return figure


def agreeing(rows: pd.DataFrame) -> list[list[str]]:
    """Points in groups whose rows have the same values for the seeds that they share; a group has a seed in common."""
    groups: list[tuple[list[str], dict[Any, dict[str, float]]]] = []
    for point, found in rows.dropna(subset="value").groupby("point", sort=False):
        values = {seed: dict(zip(of["column"], of["value"], strict=True)) for seed, of in found.groupby("seed")}
        for points, others in groups:
            shared = others.keys() & values.keys()
            if shared and all(others[seed] == values[seed] for seed in shared):
                points.append(str(point))
                others |= values
                break
        else:
            groups.append(([str(point)], values))
    return [points for points, _ in groups]


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
        system_of(config)  # raises where there is none
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
