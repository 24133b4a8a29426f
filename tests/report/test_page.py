"""The report's page, read back by an HTML parser."""

import base64
import io
import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from scemae_jax.evaluation.measurement import Measurement, as_table
from scemae_jax.report import figures
from scemae_jax.report.html import Picture, duration, write_report
from scemae_jax.report.table import Table

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def table(**fields):
    """Errors of two cases by three methods."""
    errors = {"own place": (3.8123, 11.049), "before": (0.6149, 7.92), "ours": (0.6111, 3.96)}
    rows = [
        Measurement.of(metric="error", unit="px", method=method, case=case, value=value, deviation=0.25, n=count)
        for method, values in errors.items()
        for case, value, count in zip(
            ("same", "different"), values, (1855, 1855 if method == "ours" else 900), strict=True
        )
    ]
    rows.append(Measurement.of(metric="error", method="ours", freed=True, case="different", value=None, n=0))
    content = {"title": "Matching", "about": "error in pixels, 371 pairs", "rows": as_table(rows), "columns": ("case",),
               "index": ("method", "freed"), "ours": ("ours", "before"),
               "headlines": {"different": "Across people"}, "remark": "Same: one image."}  # fmt: skip
    return Table(**(content | fields))


RESULTS = {
    "config_hash": "ab12cd34ef56",
    "seed": 3,
    "dataset": "landmark_folder",
    "encoder": "XXS/8",
    "pretrain": {"steps": 100, "images_seen": 6400, "images": 3741, "seconds": 3905.0, "loss": 0.40583,
                 "mean_cosine": 0.25, "images_left_out": {"test": 1200, "validation": 3}},
    "export": {"path": "export/m.msgpack", "bytes": 2_100_000, "parameters": 1_340_000},
}  # fmt: skip
METRICS = [
    {"stage": stage, "step": step, "loss": 10.0 / step, "images_per_second": 100.0 + step}
    for stage in ("pretrain", "head")
    for step in (1, 50, 100)
]


class Page(HTMLParser):
    """A page as people and browsers take it: tables of text, pictures, headings, whatever it refers to."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, source):
        super().__init__()
        self.tables, self.bold, self.headings, self.references, self.tags = [], [], [], [], []
        self.images, self.style, self.title, self.text, self.open = [], "", "", "", []
        self.feed(source)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.references += [value for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "h2":
            self.headings.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open:
            return
        if self.open[-1] == "style":
            self.style += data
        elif self.open[-1] == "title":
            self.title += data
        else:
            self.text += data
        if "h2" in self.open:
            self.headings[-1] += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
            if self.open[-1] == "b":
                self.bold.append(data)


def report(tmp_path, **changes):
    content = {"title": "A run", "subtitle": "of a system", "results": {}, "tables": [], "pictures": {},
               "stage_titles": {"pretrain": "Stage 1"}, **changes}  # fmt: skip
    return Page(write_report(tmp_path, **content).read_text(encoding="utf-8"))


def test_tables_show_the_numbers_given(tmp_path):
    page = report(tmp_path, results=RESULTS, tables=[table()])
    text = " ".join(page.text.split())
    assert "Error in pixels, 371 pairs. Same: one image. The lowest is best, and bold." in text
    matching, _ = page.tables
    assert matching == [
        ["method", "samen = 1,855", "different"],
        ["own place", "3.81 ± 0.25", "11.05 ± 0.25 n = 900"],
        ["before", "0.61 ± 0.25", "7.92 ± 0.25 n = 900"],
        ["ours", "0.61 ± 0.25", "3.96 ± 0.25 n = 1,855"],
        ["ours, freed", "–", "– n = 0"],
    ]
    assert page.bold == ["0.61", "0.61", "3.96"]  # alike as printed: both are the best


def test_headline_compares_the_system_with_the_other_methods(tmp_path):
    text = " ".join(report(tmp_path, tables=[table()]).text.split())
    assert "Across people 3.96 error, px; lowest is best ours3.96 before7.92 own place11.05" in text
    assert "0.50 times before, 0.36 times own place" in text
    text = " ".join(report(tmp_path, tables=[table(ours=("nobody", "before"))]).text.split())
    assert "Across people 7.92 error" in text
    assert "Across people" not in report(tmp_path, tables=[table(ours=("nobody",))]).text
    assert "Across people" not in report(tmp_path, tables=[table(headlines={"far": "Across people"})]).text


def test_what_was_run_and_how_it_trained(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    (tmp_path / "config.json").write_text(json.dumps({"model": {"encoder": "XXS/8"}}))
    page = report(tmp_path, results=RESULTS)
    run, training, config = page.tables
    assert ["Config hash", "ab12cd34ef56"] in run
    left_out = ["Stage 1: unannotated images left out", "1,200 of people in test and 3 of people in validation"]
    assert left_out in run
    assert ["export: export/m.msgpack", "2.1 MB, 1.3 million parameters"] in run
    assert training == [
        ["Training", "Steps", "Images seen", "Images", "Training time", "Images/s", "Final loss", "Mean cosine"],
        ["Stage 1", "100", "6,400", "3,741", "1 hour and 5 minutes", "150", "0.406", "0.250"],
        ["head", "100", "–", "–", "–", "150", "0.1", "–"],
    ]
    assert config == [["model.encoder", '"XXS/8"']]
    assert page.headings == ["Training", "The run"]
    assert (tmp_path / "report" / "curves.png").read_bytes() == base64.b64decode(page.images[0]["src"].split(",")[1])
    assert Image.open(tmp_path / "report" / "curves.png").width == round(figures.WIDTH * figures.DPI)
    assert report(tmp_path / "none").headings == []


def test_curves_run_over_images_seen_where_they_are_known(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "training_curves", lambda curves: seen.extend(curves) or figures.Figure())
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    report(tmp_path, results=RESULTS)
    pretrain, head = seen
    assert (pretrain.unit, pretrain.seen.tolist()) == ("images seen", [64, 3200, 6400])
    assert (head.unit, head.seen.tolist()) == ("steps", [1, 50, 100])


def test_page_refers_to_nothing_outside(tmp_path):
    other = io.BytesIO()
    Image.new("RGB", (2, 2)).save(other, "png")
    pictures = {
        "one": Picture("Faces", "one", PIXEL, "a pixel"),
        "two": Picture("Faces", "two", other.getvalue(), "four"),
    }
    page = report(tmp_path, results=RESULTS, tables=[table()], pictures=pictures)
    assert page.headings.count("Faces") == 1
    contents = [image["src"].removeprefix("data:image/png;base64,") for image in page.images]
    assert [base64.b64decode(content) for content in contents] == [PIXEL, other.getvalue()]
    assert page.references == [image["src"] for image in page.images]
    assert not {"script", "link"} & set(page.tags)
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_text_is_escaped(tmp_path):
    nasty = "<script>alert(\"1\")</script> & 'x' <b>.png"
    rows = as_table([Measurement.of(metric="error", method=nasty, case=nasty, value=1.0)])
    (tmp_path / "config.json").write_text(json.dumps({"data": {"root": nasty}}))
    results = {**RESULTS, "dataset": nasty}
    page = report(tmp_path, title=nasty, subtitle=nasty, results=results, tables=[table(rows=rows, title=nasty)],
                  pictures={"one": Picture(nasty, nasty, PIXEL, nasty)})  # fmt: skip
    assert page.title == nasty
    assert "script" not in page.tags
    assert page.images[0]["alt"] == nasty
    assert page.headings[:2] == [nasty, nasty]
    assert page.tables[0] == [["method", nasty], [nasty, "1.00"]]
    assert ["Data", nasty] in page.tables[1]
    assert page.tables[-1] == [["data.root", json.dumps(nasty)]]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(8.44, "8 seconds"), (59.97, "1 minute"), (200, "3 minutes and 20 seconds"), (3905, "1 hour and 5 minutes")],
)
def test_durations_are_written_for_people(seconds, written):
    assert duration(seconds) == written
