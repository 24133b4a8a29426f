"""The figures, read back from their artists."""

import numpy as np

from scemae_jax.evaluation.measurement import Measurement, as_table
from scemae_jax.models import vit
from scemae_jax.report import figures


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


def test_a_similarity_map_is_marked_at_its_peak():
    found = np.zeros((2, 96, 96))
    found[0, 20, 50] = found[1, 70, 30] = 1
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


def test_a_loss_that_falls_far_is_drawn_on_a_log_axis():
    steps = np.arange(1.0, 6.0)
    curves = [figures.Curve("stage", steps, "steps", loss, steps) for loss in (10.0**-steps, 2 + 1 / steps, -steps)]
    axes = figures.training_curves(curves).axes
    assert [row.get_yscale() for row in axes[::2]] == ["log", "linear", "linear"]
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), 10.0**-steps)


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


def test_patch_centres_agree_with_patchify():
    image = np.zeros((1, 96, 96, 1), np.float32)
    for patch in (0, 17, 143):
        (x, y) = figures.patch_centres(np.array(patch), 12, 8)
        image[:] = 0
        image[0, int(y), int(x)] = 1
        assert int(np.asarray(vit.patchify(image, 8)).sum(axis=-1).argmax()) == patch


def test_errors_by_count_are_drawn_where_they_are():
    lines = {("one", "linear"): ([1, 10], [40.0, 20.0]), ("one", "plain"): ([10, 100], [15.0, 12.0]),
             ("two", None): ([1, 100], [9.0, 8.0])}  # fmt: skip
    rows = [
        Measurement.of(
            metric="m", method=method, **({"head": head} if head else {}), images=count, value=error, deviation=1
        )
        for (method, head), (counts, errors) in lines.items()
        for count, error in zip(counts, errors, strict=True)
    ]
    axes = figures.errors_by_count(as_table(rows), "images", "method", "head", "%").axes[0]
    drawn = [container.lines[0] for container in axes.containers]
    for line, (counts, errors) in zip(drawn, lines.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([counts, errors], axis=1))
    assert [container.get_label() for container in axes.containers] == ["one, linear", "one, plain", "two"]
    assert drawn[0].get_color() == drawn[1].get_color() != drawn[2].get_color()
    assert len({line.get_linestyle() for line in drawn}) == 3
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "10", "100"]
    assert axes.get_xscale() == axes.get_yscale() == "log"
