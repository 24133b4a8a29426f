"""The report, read back: the page by an HTML parser, the figures by their artists."""

import base64
import dataclasses
import io
import json
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scemae_jax.data.record import Faces
from scemae_jax.evaluation.representation import Embedded
from scemae_jax.faces.landmarks import FIVE
from scemae_jax.model import Model
from scemae_jax.models import vit
from scemae_jax.models.mae import mask_by_noise
from scemae_jax.report import build, figures
from scemae_jax.report.html import Picture, duration, quantity, significant, write_report
from scemae_jax.report.table import print_results

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def errors(error, deviation=0.25, count=1855):
    return {"error": error, "deviation": deviation, "count": count}


FAR, UNKNOWN = errors(14.2, 2, 900), errors(float("nan"), float("nan"), 0)
RESULTS = {
    "config_hash": "ab12cd34ef56",
    "seed": 3,
    "dataset": "landmark_folder",
    "encoder": "XXS/8",
    "pretrain": {"steps": 100, "images_seen": 6400, "images": 3741, "seconds": 3905.0, "loss": 0.40583,
                 "images_left_out": {"test": 1200, "validation": 3}},
    "match": {
        "split": "test",
        "pairs": 371,
        "clamped_queries": 1203,
        "warp_seed": 0,
        "stride": 4,
        "landmarks": 5,
        "unit": "pixels of a 70x70 image",
        "features": {
            "own location": {"same": errors(3.8123), "different": errors(11.049), "different, far": FAR},
            "MAE only": {"same": errors(0.6149), "different": errors(7.92), "different, far": UNKNOWN},
            "SCE-MAE": {"same": errors(0.6111), "different": errors(3.96), "different, far": errors(5.02, 2, 900)},
        },
    },
    "detect": {
        "68": {"split": "test", "images": 742, "unit": "% of the inter-ocular distance",
               "methods": {"mean shape": errors(20.98), "SCE-MAE": errors(8.401)}},
        "5": {"split": "test", "images": 742, "unit": "% of the inter-ocular distance",
              "methods": {"mean shape": errors(30.36), "SCE-MAE": errors(9.1)}},
    },
}  # fmt: skip

METRICS = [
    {"stage": stage, "step": step, "loss": 10.0 / step, "images_per_second": 100.0 + step}
    for stage in ("pretrain", "detect_5")
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
    content = {"title": "A run", "results": {}, "metrics": [], "pictures": [], **changes}
    write_report(tmp_path / "index.html", **content)
    return Page((tmp_path / "index.html").read_text(encoding="utf-8"))


def test_tables_show_the_numbers_given(tmp_path):
    page = report(tmp_path, results=RESULTS, metrics=METRICS)
    assert "371 pairs (1,203 queries clamped to the window), split test" in page.text
    matching, detection, run, training = page.tables
    assert matching[0] == ["Features", "samen = 1,855", "differentn = 1,855", "different, far"]
    assert matching[1:] == [
        ["own location", "3.81 ± 0.25", "11.05 ± 0.25", "14.20 ± 2.00 n = 900"],
        ["MAE only", "0.61 ± 0.25", "7.92 ± 0.25", "\N{EN DASH} n = 0"],
        ["SCE-MAE", "0.61 ± 0.25", "3.96 ± 0.25", "5.02 ± 2.00 n = 900"],
    ]
    assert detection[1:] == [["mean shape", "30.36 ± 0.25", "20.98 ± 0.25"], ["SCE-MAE", "9.10 ± 0.25", "8.40 ± 0.25"]]
    assert page.bold == ["0.61", "0.61", "3.96", "5.02", "9.10", "8.40"]  # alike as printed: both are the best
    assert ["Config hash", "ab12cd34ef56"] in run
    left_out = [
        "Stage 1, masked autoencoder: unannotated images left out",
        "1,200 of people in test and 3 of people in validation",
    ]
    assert left_out in run
    row = dict(zip(training[0], training[1], strict=True))
    assert row["Training"] == "Stage 1, masked autoencoder"
    assert (row["Steps"], row["Images seen"], row["Training time"]) == ("100", "6,400", "1 h 05 min")
    assert (row["Images/s"], row["Final loss"]) == ("150", "0.406")
    assert training[2][:2] == ["Detector, 5 landmarks", "100"]


def test_the_table_on_the_screen_says_how_many_queries_were_clamped(capsys):
    match = {**RESULTS["match"], "all_landmarks": {"landmarks": 68, "clamped_queries": 1, "features": {}}}
    print_results({"match": match})
    text = " ".join(capsys.readouterr().out.split())
    assert "Matching of 5 landmarks: error in pixels of a 70x70 image, 371 pairs (1,203 queries clamped" in text
    assert "Matching of 68 landmarks: error in pixels of a 70x70 image, 371 pairs (1 query clamped" in text


def test_headline_compares_the_method_with_the_baselines(tmp_path):
    text = " ".join(report(tmp_path, results=RESULTS).text.split())
    assert "Landmarks matched across people 3.96 mean error, pixels of a 70x70 image" in text
    assert "0.50 times MAE only, 0.36 times own location" in text
    assert "5 landmarks detected 9.10% mean error, of the inter-ocular distance" in text
    assert text.index("5 landmarks detected") < text.index("68 landmarks detected")


@pytest.mark.parametrize("missing", [set(RESULTS), {"match"}, {"detect"}, {"pretrain", "match", "detect"}])
def test_missing_stages_are_left_out(tmp_path, missing):
    page = report(tmp_path, results={name: value for name, value in RESULTS.items() if name not in missing})
    assert any(heading.startswith("Landmark matching") for heading in page.headings) == ("match" not in missing)
    assert ("Landmark detection" in page.headings) == ("detect" not in missing)
    assert ("The run" in page.headings) == (missing != set(RESULTS))
    assert "nan" not in page.text.split()


def test_page_refers_to_nothing_outside(tmp_path):
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    pictures = [Picture("Faces", "one", PIXEL, "a pixel"), Picture("Faces", "two", drawing, "nothing")]
    page = report(tmp_path, results=RESULTS, pictures=pictures)
    assert page.headings.count("Faces") == 1
    kinds, contents = zip(*(image["src"].split(";base64,") for image in page.images), strict=True)
    assert kinds == ("data:image/png", "data:image/svg+xml")
    assert [base64.b64decode(content) for content in contents] == [PIXEL, drawing]
    assert page.references == [image["src"] for image in page.images]
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_text_is_escaped(tmp_path):
    nasty = "<script>alert(\"1\")</script> & 'x' <b>.png"
    results = {
        **RESULTS,
        "dataset": nasty,
        "export": {"path": nasty, "bytes": 1, "parameters": 2},
        "match": {**RESULTS["match"], "features": {nasty: {"same": errors(1.0)}}},
    }
    pictures = [Picture(nasty, nasty, PIXEL, nasty)]
    page = report(tmp_path, title=nasty, results=results, pictures=pictures, config={"data": {"root": nasty}})
    assert page.title == nasty
    assert "script" not in page.tags
    assert page.images[0]["alt"] == nasty
    assert nasty in page.headings
    assert page.tables[0][1][0] == nasty
    assert ["Exported model", nasty] in page.tables[2]
    assert page.tables[-1] == [["data.root", json.dumps(nasty)]]


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'a photograph' starts with .*PNG or an SVG"):
        report(tmp_path, pictures=[Picture("Faces", "", b"\xff\xd8\xff\xe0", "a photograph")])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (duration(8.44), "8.4 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(3599.6), "1 h 00 min"),
        (duration(None), "\N{EN DASH}"),
        (quantity(1_340_000), "1.34 million"),
        (quantity(153_600), "153,600"),
        (significant(0.040583), "0.0406"),
        (significant(1234.5), "1,234"),
        (significant(-2.5e-5), "\N{MINUS SIGN}2.5e\N{MINUS SIGN}05"),
        (significant(float("inf")), "\N{EN DASH}"),
    ],
)
def test_numbers_are_written_for_people(written, expected):
    assert written == expected


@pytest.fixture(scope="module")
def masked(small_architecture):
    """Images in [0, 1], and a mask of half of their patches."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(2, 96, 96, 3)).astype(np.float32)
    mask = np.asarray(mask_by_noise(rng.uniform(size=(2, 144)), 0.5).mask)
    hidden = np.repeat(np.repeat(mask.reshape(2, 12, 12), 8, axis=1), 8, axis=2).astype(bool)
    return images, mask, hidden


def test_pasting_keeps_visible_patches_exactly(small_architecture, masked):
    images, mask, hidden = masked
    reconstruction = np.random.default_rng(1).normal(size=(2, 144, 192)).astype(np.float32)
    whole = np.asarray(build.pasted(small_architecture, jnp.asarray(images), reconstruction, mask))
    np.testing.assert_array_equal(whole[~hidden], images[~hidden])
    assert (whole[hidden] != images[hidden]).mean() > 0.9
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_pasting_undoes_the_targets_statistics(small_architecture, masked):
    images, mask, _ = masked
    mean, std = np.array(small_architecture.mean), np.array(small_architecture.std)
    patches = ((images.astype(np.float64) - mean) / std).reshape(2, 12, 8, 12, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(2, 144, 192)
    target = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    whole = build.pasted(small_architecture, jnp.asarray(images), target.astype(np.float32), mask)
    np.testing.assert_allclose(whole, images, atol=1e-5)  # a perfect decoder gives the image back


def collection(axes, gid):
    return next(artist for artist in axes.collections if artist.get_gid() == gid)


def lines(axes, gid):
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_gid() == gid]


def test_overlay_draws_centres_and_outline_at_their_patches():
    attentive = np.zeros(144, bool)
    attentive[[13, 14]] = True  # row 1, columns 1 and 2
    cluster = np.where(attentive, -1, np.arange(144) % 2)
    centres = np.array([0, 143])
    image = np.full((96, 96, 3), 0.9)
    figure = figures.selections(image[None], [figures.Selection(attentive, cluster, centres)], 8, ("input", "kept"))
    axes = figure.axes[4]  # the second of two rows of four places
    np.testing.assert_allclose(collection(axes, "centres").get_offsets(), [(3.5, 3.5), (91.5, 91.5)])
    segments = np.array(collection(axes, "attentive").get_segments())
    assert np.abs(np.diff(segments, axis=1)).sum() == 2 * (16 + 8)  # the rectangle's border, nothing inside it
    assert segments.min(axis=(0, 1)).tolist() == [7.5, 7.5]
    assert segments.max(axis=(0, 1)).tolist() == [23.5, 15.5]
    drawn = axes.images[0].get_array()
    np.testing.assert_array_equal(drawn[8:16, 8:24], image[8:16, 8:24])
    assert drawn[:8].max() < 0.9
    assert len({tuple(colour) for row in drawn for colour in row}) == 3  # the face and two clusters


def test_selections_are_those_of_stage_two(small_model):
    images = np.random.default_rng(0).uniform(size=(2, 96, 96, 3)).astype(np.float32)
    for selection in build.selections(small_model, images):
        assert selection.attentive.sum() == 36
        assert selection.cluster[selection.centres].tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(selection.cluster == -1, selection.attentive)


def test_similarity_map_is_the_cosine_and_its_peak_is_marked():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 96, 96, 8)).astype(np.float32)  # as large as the window: no interpolation
    maps[1, 70, 30] = 5 * maps[0, 20, 50]
    found = np.asarray(build.cosine_maps(maps[0], maps, np.array([[50, 20]])))[0]
    unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, unit @ unit[0, 20, 50], atol=1e-5)

    points = np.array([[50.0, 20.0], [10.0, 11.0]])
    row = figures.SimilarityRow("nose", points[0], points, found)
    query, *others, _ = figures.similarity_maps(np.zeros((2, 96, 96, 3)), [row]).axes
    np.testing.assert_array_equal(collection(query, "found").get_offsets(), [(50, 20)])
    assert [lines(axes, "peak") for axes in others] == [[(50, 20)], [(30, 70)]]
    assert [lines(axes, "truth") for axes in others] == [[(50, 20)], [(10, 11)]]


def test_matches_join_queries_to_what_was_found_in_the_second_face():
    first, second = np.zeros((1, 96, 96, 3)), np.ones((1, 96, 96, 3))
    match = figures.Match(np.array([[10.0, 20.0]]), np.array([[30.0, 40.0]]), np.array([[31.0, 42.0]]), "label")
    (axes,) = figures.matches(first, second, {"SCE-MAE": [match]}).axes
    left = axes.images[1].get_extent()[0] + 0.5
    (segment,) = collection(axes, "matches").get_segments()
    np.testing.assert_array_equal(segment, [(10, 20), (left + 30, 40)])
    assert lines(axes, "truth") == [(left + 31, 42)]
    assert left >= 96  # the faces do not overlap


def test_detections_are_drawn_where_they_are():
    rng = np.random.default_rng(0)
    predicted, truth = rng.uniform(0, 96, (2, 3, 5, 2))
    figure = figures.detections(np.zeros((3, 96, 96, 3)), predicted, truth, ["a", "b", "c"])
    for i, axes in enumerate(figure.axes[:3]):
        np.testing.assert_array_equal(collection(axes, "found").get_offsets(), predicted[i])
        assert lines(axes, "truth") == [tuple(point) for point in truth[i]]
        assert axes.get_xlim() == (-0.5, 95.5)  # a mark outside does not move the view
    assert not figure.axes[3].has_data()


def test_curves_run_over_images_seen_where_they_are_known(monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "training_curves", lambda curves: seen.extend(curves) or figures.Figure())
    build.curve_pictures(RESULTS, METRICS)
    pretrain, detect = seen
    assert (pretrain.unit, pretrain.seen.tolist()) == ("images seen", [64, 3200, 6400])
    assert (detect.unit, detect.seen.tolist()) == ("steps", [1, 50, 100])
    assert build.curve_pictures(RESULTS, []) == {}


def test_a_loss_that_falls_far_is_drawn_on_a_log_axis():
    steps = np.arange(1.0, 6.0)
    curves = [figures.Curve("stage", steps, "steps", loss, steps) for loss in (10.0**-steps, 2 + 1 / steps, -steps)]
    axes = figures.training_curves(curves).axes
    assert [row.get_yscale() for row in axes[::2]] == ["log", "linear", "linear"]
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), 10.0**-steps)


@pytest.fixture(scope="module")
def few_faces():
    rng = np.random.default_rng(0)
    return Faces(
        images=rng.integers(0, 256, (6, 136, 136, 3), np.uint8),
        landmarks=rng.uniform(30, 100, (6, 68, 2)).astype(np.float32),
        subjects=np.array([0, 0, 0, 1, 1, 2]),
    )


def test_as_many_people_as_there_are(few_faces):
    for seed in range(5):
        assert sorted(build.different_people(few_faces, 3, seed).subjects) == [0, 1, 2]
        everyone = build.different_people(few_faces, 9, seed)
        assert sorted(everyone.landmarks[:, 0, 0]) == sorted(few_faces.landmarks[:, 0, 0])
    assert len({build.different_people(few_faces, 3, seed).images.tobytes() for seed in range(5)}) > 1


def test_report_of_a_run(tmp_path, few_faces, small_architecture, small_model, random_params):
    noise = np.zeros((1, 144), np.float32)
    params = random_params(small_architecture.build_mae(), np.zeros((1, 96, 96, 3), np.float32), noise)
    mae = Model(architecture=small_architecture, params=params)
    asked = []

    def detector(images):
        asked.append(images.shape)
        return np.full((len(images), 68, 2), 60.0)

    (tmp_path / "config.json").write_text('{"model": {"encoder": "XXS/8"}}')
    path = build.build_report(
        tmp_path, faces=few_faces, mae=mae, model=small_model, detectors={68: detector}, results=RESULTS,
        metrics=METRICS, examples=2, seed=0,
    )  # fmt: skip
    page = Page(path.read_text())
    assert page.title == "SCE-MAE XXS/8 on landmark_folder"
    assert page.headings == [
        "Landmark matching, 5 landmarks",
        "Landmark detection",
        "Training",
        "Reconstructions",
        "Attentive patches and clusters",
        "Similarity to a point",
        "Landmarks matched across people",
        "Detected landmarks",
        "The run",
    ]
    assert asked == [(2, 136, 136, 3)]
    files = {file.read_bytes() for file in path.parent.glob("*.png")}
    assert files == {base64.b64decode(image["src"].split(",")[1]) for image in page.images}
    assert all(Image.open(io.BytesIO(file)).width == round(figures.WIDTH * figures.DPI) for file in files)
    assert page.tables[-1] == [["model.encoder", '"XXS/8"']]


def test_report_of_a_backbone_alone(tmp_path, few_faces, small_architecture, small_model):
    backbone = Model(architecture=small_architecture, params={"encoder": small_model.params["encoder"]})
    path = build.build_report(
        tmp_path,
        faces=few_faces,
        mae=backbone,
        model=backbone,
        detectors={},
        results={},
        metrics=[],
        examples=1,
        seed=0,
    )
    headings = ["Attentive patches and clusters", "Similarity to a point"]  # no decoder, and nobody to match with
    assert Page(path.read_text()).headings == headings
    with pytest.raises(ValueError, match="0 asked for"):
        build.build_report(
            tmp_path, faces=few_faces, mae=backbone, model=backbone, detectors={}, results={}, metrics=[], examples=0,
            seed=0,
        )  # fmt: skip


def test_query_points_of_any_scheme():
    landmarks = np.arange(2 * 98 * 2, dtype=np.float32).reshape(2, 98, 2)
    assert build.query_points(landmarks).points.shape == (2, 5, 2)
    few = build.query_points(landmarks[:, :3])
    assert few.points.tolist() == few.truth.tolist() == (landmarks[:, :3] - 20).tolist()
    assert few.names == ("point 1", "point 2", "point 3")
    none = build.query_points(landmarks[:, :0])
    assert none.points.shape == none.truth.shape == (2, 5, 2)
    assert np.isnan(none.truth).all()
    assert ((none.points > 0) & (none.points < 96)).all()


def test_report_of_faces_that_nobody_annotated(tmp_path, few_faces, small_architecture, small_model):
    params = {"encoder": small_model.params["encoder"]}
    path = build.build_report(
        tmp_path,
        faces=dataclasses.replace(few_faces, landmarks=few_faces.landmarks[:, :0]),
        mae=Model(architecture=small_architecture, params=params),
        model=small_model,
        detectors={5: lambda images: pytest.fail("nothing to compare with")},
        results={},
        metrics=[],
        examples=2,
        seed=0,
    )
    page = Page(path.read_text())
    assert page.headings == [
        "Attentive patches and clusters", "Similarity to a point", "Landmarks matched across people",
    ]  # fmt: skip
    assert "nan" not in page.text


def test_matching_of_all_landmarks_has_a_table_too(tmp_path):
    match = RESULTS["match"]
    more = {"landmarks": 68, "features": {name: row for name, row in match["features"].items() if name == "SCE-MAE"}}
    page = report(tmp_path, results={"match": match | {"all_landmarks": more}})
    assert page.headings[:2] == ["Landmark matching, 5 landmarks", "Landmark matching, 68 landmarks"]
    assert [row[0] for row in page.tables[1][1:]] == ["SCE-MAE"]


REPRESENT = {
    "split": "test", "images": 40, "landmarks": 5, "count": 197, "stride": 4, "perplexity": 30.0, "repeats": 10,
    "path": "representation.npz",
    "features": {
        "MAE only": {"silhouette": 0.40312, "embedded": 0.5127, "deviation": 0.0161},
        "SCE-MAE": {"silhouette": 0.61249, "embedded": 0.51271, "deviation": None},
    },
}  # fmt: skip


def test_silhouettes_stand_in_a_table_and_on_the_screen(tmp_path, capsys):
    page = report(tmp_path, results={"represent": REPRESENT})
    assert page.headings == ["Landmark features"]
    assert page.tables == [
        [["Features", "feature spacecosine distance", "t-SNEin the plane"],
         ["MAE only", "0.403", "0.513 ± 0.016"],
         ["SCE-MAE", "0.612", "0.513"]],
    ]  # fmt: skip
    assert page.bold == ["0.513", "0.612", "0.513"]  # the highest; alike as printed, both are the best
    text = " ".join(page.text.split())
    assert "197 features of 5 landmarks in 40 images of the split test" in text
    assert "over 10 runs, perplexity 30. Higher is better" in text

    print_results({"represent": REPRESENT})
    lines = [line for line in capsys.readouterr().out.splitlines() if "0.513" in line]
    assert ["0.403" in line and "0.513 ± 0.016" in line for line in lines] == [True, False]
    assert "0.612" in lines[1]
    print_results({"represent": {"skipped": "nothing annotated"}})
    assert capsys.readouterr().out == ""


def test_embedded_points_are_drawn_where_they_are_in_the_colour_of_their_landmark():
    rng = np.random.default_rng(0)
    panels, labels = {"one": rng.normal(size=(9, 2)), "two": rng.normal(size=(9, 2))}, np.arange(9) % 3
    figure = figures.embeddings(panels, labels, ["eye", "nose", "mouth"])
    for axes, (title, points) in zip(figure.axes, panels.items(), strict=True):
        assert axes.get_title() == title
        dots = collection(axes, "embedded")
        np.testing.assert_array_equal(dots.get_offsets(), points)
        colours = dots.get_facecolors()
        for label in range(3):
            assert len(np.unique(colours[labels == label], axis=0)) == 1
        assert len(np.unique(colours, axis=0)) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["eye", "nose", "mouth"]
    for label, mark in enumerate(legend.legend_handles):
        np.testing.assert_array_equal(mark.get_color(), colours[label, :3])

    many = figures.embeddings({"one": rng.normal(size=(68, 2))}, np.arange(68), [str(i) for i in range(68)])
    assert len(np.unique(collection(many.axes[0], "embedded").get_facecolors(), axis=0)) == 68
    assert not many.legends
    assert not many.axes[1].has_data()


def test_the_panels_are_headed_by_their_silhouettes(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        figures, "embeddings", lambda panels, labels, names: drawn.update(panels, names=names) or figures.Figure()
    )
    embedded = Embedded(np.array([0, 4]), {"MAE only": np.zeros((2, 2)), "SCE-MAE": np.ones((2, 2))})
    picture = build.embedding_pictures(embedded, REPRESENT)["embeddings"]
    assert drawn.pop("names") == FIVE.names
    assert drawn.keys() == {"MAE only: silhouette 0.51", "SCE-MAE: silhouette 0.51"}
    assert "means over 10 t-SNE" in picture.caption
    build.embedding_pictures(embedded, REPRESENT | {"landmarks": 6})
    assert drawn["names"][5] == "point 6"


def test_patch_centres_agree_with_patchify():
    image = np.zeros((1, 96, 96, 1), np.float32)
    for patch in (0, 17, 143):
        (x, y) = figures.patch_centres(np.array(patch), 12, 8)
        image[:] = 0
        image[0, int(y), int(x)] = 1
        assert int(np.asarray(vit.patchify(image, 8)).sum(axis=-1).argmax()) == patch


def few(error, deviation=None):
    return {"error": error, "deviation": deviation, "count": 5}


FEW_SHOT = {
    "split": "test", "images": 742, "annotated_images": 900, "seeds": 5,
    "68": {"unit": "% of it", "methods": {"SCE-MAE": {"10": few(9.5, 0.5)}}},
    "5": {"unit": "% of it", "methods": {
        "mean shape": {"10": few(30.0, 1.0), "100": few(29.0, 0.25)},
        "SCE-MAE, linear": {"10": few(14.5, 0.5)},
    }},
}  # fmt: skip


def test_few_annotations_stand_in_tables_and_on_the_screen(tmp_path, capsys):
    page = report(tmp_path, results={"few_shot": FEW_SHOT})
    assert page.headings == ["Few annotations, 5 landmarks", "Few annotations, 68 landmarks"]
    assert page.tables[0] == [
        ["Method", "10 imagesn = 5", "100 imagesn = 5"],
        ["mean shape", "30.00 ± 1.00", "29.00 ± 0.25"],
        ["SCE-MAE, linear", "14.50 ± 0.50", "–"],
    ]
    assert page.bold == ["29.00", "14.50", "9.50"]
    print_results({"few_shot": FEW_SHOT})
    lines = [line for line in capsys.readouterr().out.splitlines() if "linear" in line]
    assert len(lines) == 1
    assert "14.50" in lines[0]
    assert "–" in lines[0]
    print_results({"few_shot": {"skipped": "nothing annotated"}})
    assert capsys.readouterr().out == ""


def test_errors_by_count_are_drawn_where_they_are():
    lines = {"one": ([1, 10], [40.0, 20.0], [2.0, 1.0]), "two": ([10, 100], [15.0, 12.0], [0.0, 0.0])}
    axes = figures.errors_by_count(lines, "%").axes[0]
    for container, (counts, errors, _) in zip(axes.containers, lines.values(), strict=True):
        np.testing.assert_array_equal(container.lines[0].get_xydata(), np.stack([counts, errors], axis=1))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "10", "100"]
    assert axes.get_xscale() == axes.get_yscale() == "log"
