"""Tables of several runs: means and sample deviations over their seeds.

  python -m scemae_jax.compare --run=spcl=runs/spcl0,runs/spcl1,runs/spcl2 --run=oracle=runs/oracle0,runs/oracle1

Each --run names workdirs that differ in the seed alone. The tables are those of their system, in Markdown, with a row
for each name and method; "seeds" says how many a row has. Exit status: 0 done, 1 error.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import pandas as pd
from absl import flags

from scemae_jax import config as configuration
from scemae_jax.command_line import exit_status, start
from scemae_jax.evaluation.measurement import over
from scemae_jax.experiment import read_results
from scemae_jax.report.table import Table, markdown
from scemae_jax.systems import system_of

RUN = flags.DEFINE_multi_string("run", None, "NAME=WORKDIR,WORKDIR,... ; once for each name.")


def parse(given: Sequence[str]) -> dict[str, list[Path]]:
    """The workdirs by name.

    Raises:
      ValueError: one has another form, or two have one name.
    """
    runs: dict[str, list[Path]] = {}
    for text in given:
        name, _, folders = text.partition("=")
        workdirs = [Path(folder) for folder in folders.split(",") if folder]
        if not name or not workdirs:
            raise ValueError(f"--run={text}: write NAME=WORKDIR,WORKDIR,...")
        if name in runs:
            raise ValueError(f"--run names {name!r} twice: write all of its workdirs behind one")
        runs[name] = workdirs
    return runs


def compared(runs: Mapping[str, Sequence[Path]]) -> list[Table]:
    """The tables of the runs' systems, a row for each name and method, over the seeds.

    Raises:
      FileNotFoundError: a workdir has no finished stage.
      ValueError: workdirs of one name differ in more than the seed, or do not differ in it.
    """
    found: dict[str, list[Table]] = {}
    for name, workdirs in runs.items():
        for table in _of_one_name(name, workdirs):
            found.setdefault(table.title, []).append(table)
    return [
        dataclasses.replace(
            tables[0],
            rows=over(pd.concat([table.rows for table in tables], ignore_index=True), "seed", "dataset"),
            index=("run", *tables[0].index),
        )
        for tables in found.values()
    ]


def _of_one_name(name: str, workdirs: Sequence[Path]) -> Iterator[Table]:
    first: dict[str, Any] = {}
    seeds: dict[int, Path] = {}
    for workdir in workdirs:
        path = workdir / "config.json"
        results = read_results(workdir)
        if not results or not path.exists():
            raise FileNotFoundError(f"{workdir} has no config.json or no results.json: name the workdir of a run")
        fields = json.loads(path.read_text())
        first = first or fields
        if lines := configuration.differences(first | {"seed": 0}, fields | {"seed": 0}).values():
            raise ValueError(
                f"{workdirs[0]} and {workdir} differ in more than the seed, so they are not one row:\n  "
                + "\n  ".join(lines)
            )
        if fields["seed"] in seeds:
            raise ValueError(f"{seeds[fields['seed']]} and {workdir} have the seed {fields['seed']}: name one of them")
        seeds[fields["seed"]] = workdir
        for table in system_of(ml_collections.ConfigDict(fields)).tables(results):
            yield dataclasses.replace(table, rows=table.rows.assign(run=name, seed=fields["seed"]))


def as_markdown(tables: Sequence[Table]) -> str:
    """The tables with their titles and what is measured."""
    lines: list[str] = []
    for table in tables:
        grid = table.grid()
        seeds = grid.n.max(axis=1).astype(int)
        body = [[row, count, *cells] for (row, cells), count in zip(grid.cells().iterrows(), seeds, strict=True)]
        lines += [f"## {table.title}", "", f"{table.about}.", "", *markdown(["", "seeds", *grid.value], body), ""]
    return "\n".join(lines)


def main() -> None:
    with exit_status():
        print(as_markdown(compared(parse(RUN.value or ()))))


if __name__ == "__main__":
    start(main, "run")
