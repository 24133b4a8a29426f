"""Tables 1 to 4 of the paper with our numbers beside them, from the runs of launch/reproduce.sh.

  python -m scemae_jax.systems.sce_mae.paper --runs runs/paper --backbone s8 --data FOLDER

Reads the results.json of each run below --runs, writes tables.md and tables.csv there, and prints the tables. Where a
run is absent, its cells say why: with --data, the folder that the datasets are prepared from, also which of them is
not there. Another backbone has rows too where it was run in the same folder.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from absl import flags
from rich.console import Console
from rich.table import Table

from scemae_jax.command_line import exit_status, start
from scemae_jax.data import sources
from scemae_jax.evaluation.few_annotations import features_and_head, method_name
from scemae_jax.models import vit
from scemae_jax.report.table import pairs_of
from scemae_jax.systems.sce_mae import published
from scemae_jax.systems.sce_mae.published import Error, Published, Row
from scemae_jax.systems.sce_mae.settings import PAPER_ENCODERS

RUNS = flags.DEFINE_string("runs", None, "Folder of the runs; the tables are written there.")
BACKBONE = flags.DEFINE_enum("backbone", "s8", list(published.NAMES), "Whose rows are shown, even if it was not run.")
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
WITHOUT_BACKBONE = ("own location", "mean shape", "raw patches", "network from scratch")
CONFIG_POINT = "the config"
"""The sweep's point that all of them are of."""


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
class Line:
    """A row of a table as it is shown."""

    source: Literal["paper", "ours", "ours - paper"]
    row: Row
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By column: why it has no error."""

    def cell(self, column: str) -> str:
        if column not in self.row.errors:
            return self.missing.get(column, "")
        mean, deviation = self.row.errors[column]
        if self.source == "ours - paper":
            return f"{mean:+.2f}"
        return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A published table, and what stands beside it."""

    published: Published
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def details(self) -> list[str]:
        """Those of a row's `parameters` and `dims` that any row of the table has."""
        return [name for name in ("parameters", "dims") if any(getattr(row, name) for row in self.published.rows)]

    def header(self) -> list[str]:
        return ["", "method", *self.details, *self.published.columns]

    def cells(self, line: Line) -> list[str]:
        row = line.row
        details = {
            "parameters": "" if row.parameters is None else f"{row.parameters:.1f} M",
            "dims": "" if row.dims is None else str(row.dims),
        }
        method = f"{row.method}, {published.NAMES[row.backbone]}" if row.backbone else row.method
        if row.remark:
            method += f" {MARK}"
        return [
            line.source,
            method,
            *(details[name] for name in self.details),
            *(line.cell(column) for column in self.published.columns),
        ]


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
        return _read(self.workdir(name) / "results.json")

    def repeats(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Results of a sweep's runs that have been measured, a list over the seeds for each point."""
        found: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(self.workdir(name).glob("*/seed*/results.json")):
            if "features" in (results := _read(path)).get("match", {}):
                found.setdefault(path.parent.parent.name, []).append(results)
        return found

    def why_missing(self, dataset: str) -> str:
        trained = (self.workdir("celeba") / "export" / "scemae.msgpack").exists()
        for name in (dataset, *(() if trained else (TRAINING_SET,))):
            if self.present is not None and name not in self.present:
                return f"no data: {name} was not found"
        return "not run"

    def encoder(self) -> str:
        """The network that was trained: that of the backbone, or a smaller one in its place."""
        return self.results("celeba").get("encoder", PAPER_ENCODERS[self.backbone])

    def dims(self) -> tuple[int, int]:
        """Channels of the backbone's features, and of the projected ones."""
        variant = vit.variant(self.encoder())
        return variant.width, variant.projection

    def parameters(self) -> float | None:
        """Of encoder and projector, in millions."""
        exported = self.results("celeba").get("export", {})
        return exported["parameters"] / 1e6 if "parameters" in exported else None

    def row(self, method: str, errors: Mapping[str, Error], dims: int | None = None, **fields: Any) -> Row:
        """A row of the backbone, or of none where the method has another network or no network at all."""
        backbone = "" if features_and_head(method)[0] in WITHOUT_BACKBONE else self.backbone
        return Row(method=method, backbone=backbone, dims=dims, errors=errors, **fields)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _error(measured: Mapping[str, Any], *, deviation: bool = False) -> Error | None:
    """Of `{"error", "deviation"}` in results.json; its deviation only where that is one over repeats."""
    if measured.get("error") is None:
        return None
    return Error(measured["error"], measured["deviation"] if deviation else None)


def _known(errors: Mapping[str, Error | None]) -> dict[str, Error]:
    return {column: error for column, error in errors.items() if error is not None}


def _with_difference(ours: Line, table: Published, **same: Any) -> list[Line]:
    """Our line, and below it how far it is from the paper's row with the `same` fields, if there is such a row."""
    paper = [row for row in table.rows if all(getattr(row, name) == value for name, value in same.items())]
    if not paper or not ours.row.errors:
        return [ours]
    differences = {
        column: Error(error.mean - paper[0].errors[column].mean)
        for column, error in ours.row.errors.items()
        if column in paper[0].errors
    }
    row = dataclasses.replace(ours.row, errors=differences, parameters=None)
    return [ours, Line(source="ours - paper", row=row)]


def _line(row: Row, missing: Mapping[str, str]) -> Line:
    return Line(source="ours", row=row, missing=missing)


def _compare_sce_mae(line: Line, table: Published, runs: Runs) -> list[Line]:
    return _with_difference(line, table, method="SCE-MAE", backbone=runs.backbone, dims=_paper_dims(table, runs))


def _paper_dims(table: Published, runs: Runs) -> int:
    """What the paper's row has that ours is to be held against, whatever network was trained in its place."""
    variant = vit.variant(PAPER_ENCODERS[runs.backbone])
    return variant.projection + (variant.width if table is published.DETECTION else 0)


def matching(runs: Runs) -> tuple[list[Line], list[str]]:
    """Table 1."""
    table, match = published.MATCHING, runs.results("mafl").get("match", {})
    why = match.get("skipped") or runs.why_missing("mafl")
    missing, (width, projected) = dict.fromkeys(table.columns, why), runs.dims()
    if "features" not in match:
        return [_line(runs.row("SCE-MAE", {}, projected), missing)], []

    def lines(name: str, features: Mapping[str, Any], dims: int | None, *, repeated: str = "") -> list[Line]:
        errors = {case: _error(features[name][case], deviation=bool(repeated)) for case in table.columns}
        parameters = runs.parameters() if name == "SCE-MAE" else None
        line = _line(runs.row(name + repeated, _known(errors), dims, parameters=parameters), missing)
        return _compare_sce_mae(line, table, runs) if name == "SCE-MAE" else [line]

    found = lines("SCE-MAE", match["features"], projected)
    if "random_pairings" in match:
        again = match["random_pairings"]
        label = f", {again['pairings']} random pairings"
        found += lines("SCE-MAE", again["features"], projected, repeated=label)[:1]
    found += lines("MAE only", match["features"], width) + lines("own location", match["features"], None)
    return found, [
        f"{published.NAMES[runs.backbone]}: {match['pairs']} + {pairs_of(match)} of MAFL's split {match['split']}, "
        f"stride {match['stride']}, warp seed {match['warp_seed']}."
    ]


def detection(runs: Runs) -> tuple[list[Line], list[str]]:
    """Table 2."""
    table, (width, projected) = published.DETECTION, runs.dims()
    measured, missing, images = {}, {"AFLW_RC": "not released"}, []
    for column, dataset in DATASETS.items():
        detect = runs.results(dataset).get("detect", {})
        form = detect.get("68" if dataset == "three_hundred_w" else "5", {})
        measured[column] = form.get("methods", {})
        missing[column] = detect.get("skipped") or runs.why_missing(dataset)
        if measured[column]:
            images.append(f"{column} {form['images']:,} (trained on {form['annotated_images']:,})")

    def line(method: str, dims: int | None) -> Line:
        errors = {column: _error(methods.get(method, {})) for column, methods in measured.items()}
        return _line(runs.row(method, _known(errors), dims), missing)

    lines = _compare_sce_mae(line("SCE-MAE", width + projected), table, runs)
    if images:
        lines.append(line("mean shape", None))
    return lines, [f"{published.NAMES[runs.backbone]}, test images: {', '.join(images)}."] if images else []


def few_annotations(runs: Runs) -> tuple[list[Line], list[str]]:
    """Table 3."""
    table, few = published.FEW_ANNOTATIONS, runs.results("aflw_m").get("few_shot", {})
    methods, (width, projected) = few.get("5", {}).get("methods", {}), runs.dims()
    why = "not run" if methods else few.get("skipped") or runs.why_missing("aflw_m")
    missing = dict.fromkeys(table.columns, why)
    dims = {"SCE-MAE": projected, "MAE only": width, "untrained": width}
    lines, papers = [], method_name("SCE-MAE", "prior_work")  # the head that the paper has here
    for method in sorted(methods, key=lambda method: not method.startswith("SCE-MAE")) or (papers,):
        counts = methods.get(method, {})
        errors = {column: _error(counts.get(column, {}), deviation=True) for column in table.columns}
        line = _line(runs.row(method, _known(errors), dims.get(features_and_head(method)[0])), missing)
        lines += _compare_sce_mae(line, table, runs) if method == papers else [line]
    notes = (
        [f"{published.NAMES[runs.backbone]}: {few['images']:,} test images, {few['seeds']} draws."] if methods else []
    )
    return lines, notes


def ablation(runs: Runs) -> tuple[list[Line], list[str]]:
    """Table 4: mean and sample deviation over the seeds of stage 2."""
    table, points = published.ABLATION, runs.repeats("table4")
    missing = dict.fromkeys(table.columns, runs.why_missing("mafl"))
    if CONFIG_POINT not in points:
        return [_line(runs.row(method, {}), missing) for method in ABLATED.values()], []

    def line(method: str, name: str, point: str) -> Line:
        features = [results["match"]["features"][name] for results in points[point]]
        errors = {case: _over_seeds([measured[case]["error"] for measured in features]) for case in table.columns}
        return _line(runs.row(method, errors), missing)

    def repeated(method: str, name: str, point: str) -> list[Line]:
        """The same of random pairings (the mean of theirs for each seed), where they were measured."""
        again = [found["match"]["random_pairings"] for found in points[point] if "random_pairings" in found["match"]]
        if not again:
            return []
        errors = {
            case: _over_seeds([each["features"][name][case]["error"] for each in again]) for case in table.columns
        }
        return [_line(runs.row(f"{method}, {again[0]['pairings']} random pairings", errors), missing)]

    lines = []
    for name, method in ABLATED.items():
        lines += _with_difference(line(method, name, CONFIG_POINT), table, method=method, backbone=runs.backbone)
        lines += repeated(method, name, CONFIG_POINT)
    for point in points:
        if point != CONFIG_POINT:
            method = f"ours: {point}"
            lines += [line(method, "SCE-MAE", point), *repeated(method, "SCE-MAE", point)]
    match = points[CONFIG_POINT][0]["match"]
    seeds = ", ".join(str(results["seed"]) for results in points[CONFIG_POINT])
    about = (
        f"{match['pairs']} + {pairs_of(match)} of MAFL's split {match['split']}, stride {match['stride']}; seeds "
        f"of stage 2: {seeds}; stage 2 on MAFL's training images, the paper's on CelebA."
    )
    return lines, [f"{published.NAMES[runs.backbone]}: {about}"]


def _over_seeds(errors: Sequence[float]) -> Error:
    return Error(statistics.mean(errors), statistics.stdev(errors) if len(errors) > 1 else None)


BESIDE: Mapping[int, Callable[[Runs], tuple[list[Line], list[str]]]] = {
    1: matching,
    2: detection,
    3: few_annotations,
    4: ablation,
}
NOTES = {
    2: "AFLW_RC is a corrected test set that its authors did not release. The gain of our heads' softmax is the "
    "config's; prior work has 100.",
    3: "The paper does not say which backbone its rows are of: the one that Table 1 has at that width is taken.",
    4: "The paper's rows of its own method are of DeiT-B: no other backbone has a difference here.",
}


def compare(everything: Sequence[Runs]) -> list[Compared]:
    """All tables, with the lines of each backbone."""
    tables = []
    for table in published.TABLES:
        lines = [Line(source="paper", row=row) for row in table.rows]
        notes = [f"{MARK} {row.remark}" for row in table.rows if row.remark]
        notes += [NOTES[table.number]] if table.number in NOTES else []
        for runs in everything:
            ours, about = BESIDE[table.number](runs)
            shown = {line.row.method for line in lines if line.source == "ours" and not line.row.backbone}
            lines += [line for line in ours if line.row.method not in shown]
            notes += about
        tables.append(Compared(published=table, lines=tuple(lines), notes=tuple(notes)))
    return tables


def reservations(runs: Runs) -> list[str]:
    """Why these runs are no results to hold against the paper's: another network, or fewer test images or pairs."""
    found, expected = [], PAPER_ENCODERS[runs.backbone]
    if runs.encoder() != expected:
        found.append(f"{published.NAMES[runs.backbone]} is {runs.encoder()} here, not {expected}")
    for dataset in DATASETS.values():
        official = sources.OFFICIAL[dataset].OFFICIAL_COUNTS["test"]
        forms = runs.results(dataset).get("detect", {})
        images = {form["images"] for form in forms.values() if isinstance(form, dict)}
        found += [f"{dataset} has {n} of {official:,} test images" for n in images if n != official]
    official = sources.OFFICIAL["mafl"].OFFICIAL_COUNTS["test"] // 2
    ablated = [results for repeats in runs.repeats("table4").values() for results in repeats]
    matches = [results.get("match", {}) for results in (runs.results("mafl"), *ablated)]
    pairs = sorted({match["pairs"] for match in matches if "pairs" in match})
    found += [f"mafl is matched in {n} of {official:,} pairs" for n in pairs if n != official]
    return found


def preface(everything: Iterable[Runs]) -> list[str]:
    """What stands above the tables."""
    lines = []
    for runs in everything:
        if wrong := reservations(runs):
            lines.append(f"**Smoke: a test of the path, not a result.** {'; '.join(wrong)}.")
        trained = runs.results("celeba").get("pretrain", {})
        seen = f"saw {trained['images_seen']:,} images" if "images_seen" in trained else "has not finished"
        name = published.NAMES[runs.backbone]
        lines.append(f"{name}: stage 1 {seen}; the paper's saw {published.STAGE_1_IMAGES:,}.")
    return lines


def markdown(tables: Iterable[Compared], above: Iterable[str]) -> str:
    """The tables in GitHub's Markdown."""

    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    parts = ["# Tables 1 to 4 of SCE-MAE, and ours", *above]
    for table in tables:
        about = table.published
        header = table.header()
        lines = [row(header), row("---" for _ in header), *(row(table.cells(line)) for line in table.lines)]
        parts += [f"## Table {about.number}: {about.title}", f"Error in {about.unit}.", "\n".join(lines), *table.notes]
    return "\n\n".join(parts) + "\n"


def as_csv(tables: Iterable[Compared]) -> str:
    """A row for each number, with the remark on its line as its note, and for each that is missing, with the reason."""
    text = io.StringIO()
    columns = ["table", "source", "method", "backbone", "dims", "column", "error", "deviation", "note"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for line in table.lines:
            shared = {
                "table": table.published.number,
                "source": line.source,
                "method": line.row.method,
                "backbone": line.row.backbone,
                "dims": line.row.dims,
            }
            for column in table.published.columns:
                if error := line.row.errors.get(column):
                    numbers = {"error": error.mean, "deviation": error.deviation}
                    writer.writerow(shared | {"column": column, **numbers, "note": line.row.remark})
                elif column in line.missing:
                    writer.writerow(shared | {"column": column, "note": line.missing[column]})
    return text.getvalue()


def show(tables: Iterable[Compared], above: Iterable[str]) -> None:
    """Prints the tables."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for text in above:
        console.print(text.replace("**", ""), markup=False)
    for table in tables:
        about = table.published
        shown = Table(*table.header(), title=f"Table {about.number}: {about.title}, error in {about.unit}")
        for column in shown.columns[2:]:
            column.justify = "right"
        for line in table.lines:
            shown.add_row(*table.cells(line), style="bold" if line.source == "ours" else "")
        console.print(shown)
        for note in table.notes:
            console.print(note, markup=False)


def report(folder: Path, backbone: str, data: Path | None) -> None:
    """Writes `tables.md` and `tables.csv` into the folder of the runs, and prints them.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--runs {folder} is no folder: name that of launch/reproduce.sh's runs")
    known = None if data is None else frozenset(present(data, folder / PREPARED))
    candidates = [Runs(folder=folder, backbone=name, present=known) for name in published.NAMES]
    everything = [runs for runs in candidates if runs.backbone == backbone or runs.workdir("celeba").exists()]
    tables, above = compare(everything), preface(everything)
    for name, text in {"tables.md": markdown(tables, above), "tables.csv": as_csv(tables)}.items():
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)
    show(tables, above)


def main() -> None:
    assert RUNS.value is not None  # `start` asks for it
    assert BACKBONE.value is not None  # it has a default
    with exit_status():
        report(Path(RUNS.value), BACKBONE.value, Path(DATA.value).expanduser() if DATA.value else None)


if __name__ == "__main__":
    start(main, "runs")
