"""Tables 1 to 4 of the paper with our numbers beside them, from the runs of launch/reproduce.sh.

  python -m scemae_jax.systems.sce_mae.paper --runs runs/paper --backbone s8 --data FOLDER

Reads the results.json of each run below --runs, writes tables.md and tables.csv there, and prints the tables. Where a
run is absent, its cells say why: with --data, the folder that the datasets are prepared from, also which of them is
not there. Another backbone has rows too where it was run in the same folder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from absl import flags
from rich.console import Console
from rich.table import Table

from scemae_jax.command_line import exit_status, start
from scemae_jax.data import sources
from scemae_jax.evaluation import detection, matching
from scemae_jax.evaluation.few_annotations import FROM_SCRATCH, HEADS, MEAN_SHAPE
from scemae_jax.evaluation.measurement import over, select
from scemae_jax.experiment import read_results
from scemae_jax.models import vit
from scemae_jax.report.table import labels, markdown, measured
from scemae_jax.systems.sce_mae import published
from scemae_jax.systems.sce_mae.published import ABLATION, DETECTION, FEW_ANNOTATIONS, MATCHING, NAMES, TABLES
from scemae_jax.systems.sce_mae.settings import PAPER_ENCODERS
from scemae_jax.systems.sce_mae.tables import OURS, pairs_of

RUNS = flags.DEFINE_string("runs", None, "Folder of the runs; the tables are written there.")
BACKBONE = flags.DEFINE_enum("backbone", "s8", list(NAMES), "Whose rows are shown, even if it was not run.")
DATA = flags.DEFINE_string("data", "", "Folder that the datasets are prepared from, to say which of them is absent.")

TRAINING_SET = "celeba_landmarks"
DATASETS = {"MAFL": "mafl", "AFLW_M": "aflw_m", "AFLW_RO": "aflw_r", "300-W": "three_hundred_w"}
"""By column of Table 2."""
WIDTH = 150
"""Of the tables where they do not go to a terminal, in characters."""
MARK = "\N{DAGGER}"
"""Of a row with a remark, which stands below its table."""
PREPARED = "prepared"
"""Folder below --runs of the prepared datasets."""

ABLATED = {"MAE only": "MAE alone", "MAE, clustered": "with clustering", "SCE-MAE": "with clustering and LCR"}
"""Features, and what Table 4 calls them."""
WITHOUT_BACKBONE = ("own location", "raw patches", MEAN_SHAPE, FROM_SCRATCH)
CONFIG_POINT = "the config"
"""The sweep's point that all of them are of."""
LINE = ["source", "method", "backbone", "parameters", "dims"]
"""What tells the lines of a table apart."""
NOTES = {
    DETECTION: "AFLW_RC is a corrected test set that its authors did not release. The gain of our heads' softmax is "
    "the config's; prior work has 100.",
    FEW_ANNOTATIONS: "The paper does not say which backbone its rows are of: the one that Table 1 has at that width is "
    "taken.",
    ABLATION: "The paper's rows of its own method are of DeiT-B: no other backbone has a difference here.",
}

Cells = list[dict[str, Any]]
"""Of one line or of several: each has the fields of `LINE`, its table and column, value and deviation, and a note."""


def present(data: Path, prepared: Path) -> set[str]:
    """The official datasets that can be prepared from `data` (a tree or an archive is there), or have been."""

    def is_there(name: str) -> bool:
        files = sources.OFFICIAL[name].FILES
        trees = [data / folder for folder in (*files.folders, ".")]
        return (
            any((tree / files.marker).is_file() for tree in trees)
            or (data / files.archive).is_file()
            or sources.dataset_builder(name, data_dir=prepared).info.initialized
        )

    return {name for name in sources.OFFICIAL if is_there(name)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of one backbone in a folder, as launch/reproduce.sh names them."""

    folder: Path
    backbone: str
    present: frozenset[str] | None = None
    """The datasets that are there; None: not looked for."""

    def workdir(self, name: str) -> Path:
        return self.folder / f"{name}_{self.backbone}"

    def results(self, name: str) -> dict[str, Any]:
        return read_results(self.workdir(name))

    def facts(self, name: str, stage: str) -> dict[str, Any]:
        return self.results(name).get(stage, {})

    @functools.cached_property
    def ablated(self) -> list[tuple[str, dict[str, Any]]]:
        """Points of Table 4's sweep, and results of their runs that were measured, seed by seed."""
        paths = sorted(self.workdir("table4").glob("*/seed*/results.json"))
        found = [(path.parent.parent.name, read_results(path.parent)) for path in paths]
        return [(point, results) for point, results in found if "pairs" in results.get("match", {})]

    def why_missing(self, dataset: str) -> str:
        trained = (self.workdir("celeba") / "export" / "scemae.msgpack").exists()
        for name in (dataset, *(() if trained else (TRAINING_SET,))):
            if self.present is not None and name not in self.present:
                return f"no data: {name} was not found"
        return "not run"

    def encoder(self) -> str:
        """The network that was trained: that of the backbone, or a smaller one in its place."""
        return self.results("celeba").get("encoder", PAPER_ENCODERS[self.backbone])

    def dims(self) -> dict[str, int]:
        """Channels of the features of each method, those of SCE-MAE as they are projected."""
        variant = vit.variant(self.encoder())
        return {"SCE-MAE": variant.projection, "MAE only": variant.width, "untrained": variant.width}

    def parameters(self) -> float | None:
        """Of encoder and projector, in millions."""
        exported = self.facts("celeba", "export")
        return exported["parameters"] / 1e6 if "parameters" in exported else None

    def line(
        self, table: int, method: str, found: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str], **fields: Any
    ) -> Cells:
        """A line of ours.

        Args:
          table: its number.
          method: its name there.
          found: value and deviation by column.
          missing: by column, why it has no value.
          fields: `dims`, `parameters`; `backbone` where the method has another network or no network at all.
        """
        about = {"table": table, "source": "ours", "method": method, "backbone": self.backbone, **fields}
        return [
            about | {"column": column, **found.get(column, {"note": missing[column]})}
            for column in TABLES[table].columns
        ]


def _by(field: str, rows: pd.DataFrame, *, deviation: bool = False) -> dict[str, dict[str, Any]]:
    """Value and deviation by a field of the rows; the deviation only where that is one over repeats."""
    return {
        str(row[field]): {"value": row["value"], "deviation": row["deviation"] if deviation else None}
        for row in rows.dropna(subset="value").to_dict("records")
    }


def _with_difference(ours: Cells, runs: Runs, **same: Any) -> Cells:
    """Our line, and below it how far it is from the paper's row with the `same` fields, if there is such a row."""
    rows = select(published.rows(), table=ours[0]["table"], backbone=runs.backbone, **same)
    paper = dict(zip(rows["column"], rows["value"], strict=True))
    return ours + [
        cell
        | {"source": "ours - paper", "value": cell["value"] - paper[cell["column"]]}
        | {"deviation": None, "parameters": None}
        for cell in ours
        if "value" in cell and cell["column"] in paper
    ]


def _compare_sce_mae(line: Cells, runs: Runs) -> Cells:
    """The paper's row that ours is to be held against, whatever network was trained in its place."""
    variant = vit.variant(PAPER_ENCODERS[runs.backbone])
    dims = variant.projection + (variant.width if line[0]["table"] == DETECTION else 0)
    return _with_difference(line, runs, method="SCE-MAE", dims=dims)


def _about_matching(runs: Runs, results: Mapping[str, Any]) -> str:
    facts = results["match"]
    pairs = pairs_of(measured(results), facts, 5)
    return (
        f"{NAMES[runs.backbone]}: {facts['pairs']} + {pairs} of MAFL's split {facts['split']}, stride {facts['stride']}"
    )


def table_1(runs: Runs) -> tuple[Cells, list[str]]:
    """Matching."""
    results, dims = runs.results("mafl"), runs.dims()
    facts = results.get("match", {})
    missing = dict.fromkeys(TABLES[MATCHING].columns, facts.get("skipped") or runs.why_missing("mafl"))
    if "pairs" not in facts:
        return runs.line(MATCHING, "SCE-MAE", {}, missing, dims=dims["SCE-MAE"]), []
    rows = select(measured(results), metric=matching.METRIC, landmarks=5, position_free=None)

    def line(method: str, found: dict[str, dict[str, Any]], name: str = "", **fields: Any) -> Cells:
        return runs.line(MATCHING, name or method, found, missing, dims=dims.get(method), **fields)

    fixed = select(rows, random_pairings=None)
    sce_mae = _by("case", select(fixed, method="SCE-MAE"))
    cells = _compare_sce_mae(line("SCE-MAE", sce_mae, parameters=runs.parameters()), runs)
    again = select(rows, method="SCE-MAE").dropna(subset="random_pairings") if "random_pairings" in rows else fixed[:0]
    if len(again):
        name = labels(again, ("method", "random_pairings"))[0]
        cells += line("SCE-MAE", _by("case", again, deviation=True), name, parameters=runs.parameters())
    cells += line("MAE only", _by("case", select(fixed, method="MAE only")))
    cells += line("own location", _by("case", select(fixed, method="own location")), backbone="")
    return cells, [f"{_about_matching(runs, results)}, warp seed {facts['warp_seed']}."]


def table_2(runs: Runs) -> tuple[Cells, list[str]]:
    """Detection."""
    missing, images = {"AFLW_RC": "not released"}, []
    found: dict[str, dict[str, dict[str, Any]]] = {"SCE-MAE": {}, MEAN_SHAPE: {}}
    for column, dataset in DATASETS.items():
        facts, landmarks = runs.facts(dataset, "detect"), 68 if dataset == "three_hundred_w" else 5
        missing[column] = facts.get("skipped") or runs.why_missing(dataset)
        rows = select(
            measured(runs.results(dataset)), stage="detect", metric=detection.METRIC, landmarks=landmarks
        ).assign(column=column)
        if len(rows):
            images.append(f"{column} {facts['images']:,} (trained on {facts['annotated_images']:,})")
        for method, columns in found.items():
            columns |= _by("column", select(rows, method=method))
    width = runs.dims()["MAE only"] + runs.dims()["SCE-MAE"]
    cells = _compare_sce_mae(runs.line(DETECTION, "SCE-MAE", found["SCE-MAE"], missing, dims=width), runs)
    if not images:
        return cells, []
    cells += runs.line(DETECTION, MEAN_SHAPE, found[MEAN_SHAPE], missing, backbone="")
    return cells, [f"{NAMES[runs.backbone]}, test images: {', '.join(images)}."]


def table_3(runs: Runs) -> tuple[Cells, list[str]]:
    """Few annotations."""
    results, dims = runs.results("aflw_m"), runs.dims()
    facts = results.get("few_shot", {})
    rows = select(measured(results), stage="few_shot", metric=detection.METRIC, landmarks=5)
    missing, paper_s = dict.fromkeys(TABLES[FEW_ANNOTATIONS].columns, "not run"), HEADS["prior_work"]
    if not len(rows):
        why = facts.get("skipped") or runs.why_missing("aflw_m")
        missing, name = dict.fromkeys(missing, why), f"SCE-MAE, {paper_s}"
        return runs.line(FEW_ANNOTATIONS, name, {}, missing, dims=dims["SCE-MAE"]), []
    rows = rows.assign(name=labels(rows, ("method", "head")))
    cells: Cells = []
    for name, of in sorted(rows.groupby("name", sort=False), key=lambda item: item[1]["method"].iloc[0] != "SCE-MAE"):
        method, fields = of["method"].iloc[0], {}
        if method in WITHOUT_BACKBONE:
            fields["backbone"] = ""
        found = _by("annotated_images", of, deviation=True)
        line = runs.line(FEW_ANNOTATIONS, str(name), found, missing, dims=dims.get(method), **fields)
        is_paper_s = len(select(of, method="SCE-MAE", head=paper_s)) > 0
        cells += _compare_sce_mae(line, runs) if is_paper_s else line
    return cells, [f"{NAMES[runs.backbone]}: {facts['images']:,} test images, {facts['seeds']} draws."]


def table_4(runs: Runs) -> tuple[Cells, list[str]]:
    """The ablation: mean and sample deviation over the seeds of stage 2; of random pairings over the seeds too."""
    missing = dict.fromkeys(TABLES[ABLATION].columns, runs.why_missing("mafl"))
    points = list(dict.fromkeys(point for point, _ in runs.ablated))
    if CONFIG_POINT not in points:
        return [cell for name in ABLATED.values() for cell in runs.line(ABLATION, name, {}, missing)], []
    rows = pd.concat([measured(results).assign(point=point) for point, results in runs.ablated])
    rows = select(rows, metric=matching.METRIC, landmarks=5, position_free=None)
    rows = rows.reindex(columns=["point", "method", "case", "random_pairings", "seed", "value"])
    means = over(rows.assign(deviation=None), "seed")
    lines = [(CONFIG_POINT, method, name) for method, name in ABLATED.items()]
    lines += [(point, OURS[0], f"ours: {point}") for point in points if point != CONFIG_POINT]
    cells: Cells = []
    for point, method, name in lines:
        found = select(means, point=point, method=method)
        for again, part in found.groupby("random_pairings", dropna=False, sort=False):
            label = name if pd.isna(again) else f"{name}, {again} random pairings"
            line = runs.line(ABLATION, label, _by("case", part, deviation=True), missing)
            cells += _with_difference(line, runs, method=name) if label == name else line
    ours = [results for point, results in runs.ablated if point == CONFIG_POINT]
    seeds = ", ".join(str(results["seed"]) for results in ours)
    note = f"seeds of stage 2: {seeds}; stage 2 on MAFL's training images, the paper's on CelebA."
    return cells, [f"{_about_matching(runs, ours[0])}; {note}"]


BESIDE = {MATCHING: table_1, DETECTION: table_2, FEW_ANNOTATIONS: table_3, ABLATION: table_4}


def compare(everything: Sequence[Runs]) -> tuple[pd.DataFrame, dict[int, list[str]]]:
    """The cells of all tables, the paper's and those of each backbone, and what stands below each table."""
    paper, notes = published.rows().assign(source="paper"), {}
    parts = []
    for number in TABLES:
        notes[number] = [f"{MARK} {remark}" for (table, _), remark in published.REMARKS.items() if table == number]
        notes[number] += [NOTES[number]] if number in NOTES else []
        ours: Cells = []
        for runs in everything:
            cells, about = BESIDE[number](runs)
            shown = {cell["method"] for cell in ours if not cell["backbone"]}
            ours += [cell for cell in cells if cell["method"] not in shown]
            notes[number] += about
        parts += [select(paper, table=number), pd.DataFrame(ours)]
    return pd.concat(parts, ignore_index=True).astype({"dims": "Int64"}), notes


def shown(cells: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of one table, as people read it."""
    columns = TABLES[cells["table"].iloc[0]].columns
    details = [name for name in ("parameters", "dims") if cells.loc[cells["source"] == "paper", name].notna().any()]
    rows = []
    for line, found in cells.groupby(LINE, sort=False, dropna=False):
        source, method, backbone, parameters, dims = line
        about = {
            "parameters": "" if pd.isna(parameters) else f"{parameters:.1f} M",
            "dims": "" if pd.isna(dims) else str(dims),
        }
        name = f"{method}, {NAMES[backbone]}" if backbone else method
        mark = f" {MARK}" if source == "paper" and found["note"].iloc[0] else ""
        texts = {cell["column"]: _text(cell) for cell in found.to_dict("records")}
        values = [texts.get(column, "") for column in columns]
        rows.append([source, name + mark, *(about[detail] for detail in details), *values])
    return ["", "method", *details, *columns], rows


def _text(cell: Mapping[str, Any]) -> str:
    if pd.isna(cell["value"]):
        return cell["note"]
    if cell["source"] == "ours - paper":
        return f"{cell['value']:+.2f}"
    return f"{cell['value']:.2f}" + ("" if pd.isna(cell["deviation"]) else f" ± {cell['deviation']:.2f}")


def reservations(runs: Runs) -> list[str]:
    """Why these runs are no results to hold against the paper's: another network, or fewer test images or pairs."""
    found, expected = [], PAPER_ENCODERS[runs.backbone]
    if runs.encoder() != expected:
        found.append(f"{NAMES[runs.backbone]} is {runs.encoder()} here, not {expected}")
    for dataset in DATASETS.values():
        official, facts = sources.OFFICIAL[dataset].OFFICIAL_COUNTS["test"], runs.facts(dataset, "detect")
        if facts.get("images", official) != official:
            found.append(f"{dataset} has {facts['images']} of {official:,} test images")
    official = sources.OFFICIAL["mafl"].OFFICIAL_COUNTS["test"] // 2
    matches = [runs.facts("mafl", "match"), *(results["match"] for _, results in runs.ablated)]
    pairs = sorted({match["pairs"] for match in matches if "pairs" in match})
    return found + [f"mafl is matched in {n} of {official:,} pairs" for n in pairs if n != official]


def preface(everything: Iterable[Runs]) -> list[str]:
    """What stands above the tables."""
    lines = []
    for runs in everything:
        if wrong := reservations(runs):
            lines.append(f"**Smoke: a test of the path, not a result.** {'; '.join(wrong)}.")
        trained = runs.facts("celeba", "pretrain")
        seen = f"saw {trained['images_seen']:,} images" if "images_seen" in trained else "has not finished"
        lines.append(f"{NAMES[runs.backbone]}: stage 1 {seen}; the paper's saw {published.STAGE_1_IMAGES:,}.")
    return lines


def show(cells: pd.DataFrame, notes: Mapping[int, Sequence[str]], above: Sequence[str]) -> str:
    """Prints the tables, and returns them in GitHub's Markdown."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    parts = ["# Tables 1 to 4 of SCE-MAE, and ours", *above]
    for text in above:
        console.print(text.replace("**", ""), markup=False)
    for number, about in TABLES.items():
        head, rows = shown(cells[cells["table"] == number])
        parts += [f"## Table {number}: {about.title}", f"Error in {about.unit}.", "\n".join(markdown(head, rows))]
        parts += notes[number]
        screen = Table(*head, title=f"Table {number}: {about.title}, error in {about.unit}")
        for column in screen.columns[2:]:
            column.justify = "right"
        for row in rows:
            screen.add_row(*row, style="bold" if row[0] == "ours" else "")
        console.print(screen)
        for note in notes[number]:
            console.print(note, markup=False)
    return "\n\n".join(parts) + "\n"


def report(folder: Path, backbone: str, data: Path | None) -> None:
    """Writes `tables.md` and `tables.csv` into the folder of the runs, and prints them.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--runs {folder} is no folder: name that of launch/reproduce.sh's runs")
    known = None if data is None else frozenset(present(data, folder / PREPARED))
    candidates = [Runs(folder=folder, backbone=name, present=known) for name in NAMES]
    everything = [runs for runs in candidates if runs.backbone == backbone or runs.workdir("celeba").exists()]
    cells, notes = compare(everything)
    columns = ["table", "source", "method", "backbone", "dims", "column", "value", "deviation", "note"]
    table = cells[columns].rename(columns={"value": "error"})
    text = show(cells, notes, preface(everything))
    for name, content in {"tables.md": text, "tables.csv": table.to_csv(index=False)}.items():
        partial = folder / f"{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.replace(folder / name)


def main() -> None:
    assert RUNS.value is not None  # `start` asks for it
    assert BACKBONE.value is not None  # it has a default
    with exit_status():
        report(Path(RUNS.value), BACKBONE.value, Path(DATA.value).expanduser() if DATA.value else None)


if __name__ == "__main__":
    start(main, "runs")
