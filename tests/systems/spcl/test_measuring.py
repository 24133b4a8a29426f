"""Measuring: nearest prototypes against NumPy, landmarks as polygons, means, deviations, and what is kept of them."""

import jax
import numpy as np
import pytest

from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.faces.frame import FRAME
from scemae_jax.faces.parts import DRAWN, PartScheme
from scemae_jax.models.parsing import Parsed
from scemae_jax.report.table import labels
from scemae_jax.systems.spcl import evaluation_sets, measuring, tables
from scemae_jax.systems.spcl.evaluation_sets import groupings
from scemae_jax.systems.spcl.measuring import Confusion

K = len(DRAWN.names)


@pytest.fixture(scope="module")
def tested(drawn):
    """The drawn faces as a set."""
    return evaluation_sets.TestSet(
        name="drawn", images=np.stack([face.image for face in drawn]),
        masks=np.stack([face.parts[..., 0] for face in drawn]), asked=("all", "landmarks"),
    )  # fmt: skip


class PlantedNetwork:
    """Gives the features and logits that it was made with, whatever it sees."""

    window = 8

    def __init__(self, features, logits):
        self.parsed = Parsed(features, logits)

    def apply(self, params, windows):
        return self.parsed


def test_the_nearest_prototype_is_that_of_numpy_enlarged_and_a_class_without_one_is_never_chosen():
    rng = np.random.default_rng(0)
    features, logits = rng.normal(size=(2, 4, 4, 5)), rng.normal(size=(2, 4, 4, 3))
    vectors = rng.normal(size=(3, 5))
    vectors[1] = 0
    network = PlantedNetwork(features.astype(np.float32), logits.astype(np.float32))
    windows = np.zeros((2, 8, 8, 3), np.uint8)
    found = measuring.scores(network, None, vectors.astype(np.float32), windows)

    def length_1(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    expected = length_1(features) @ length_1(vectors[[0, 2]]).T
    expected = np.asarray(jax.image.resize(expected, (2, 8, 8, 2), "linear"))
    np.testing.assert_allclose(found[measuring.NEAREST][..., [0, 2]], expected, atol=1e-5)
    np.testing.assert_array_equal(found[measuring.NEAREST].argmax(axis=-1), np.where(expected.argmax(axis=-1), 2, 0))
    enlarged = np.asarray(jax.image.resize(logits, (2, 8, 8, 3), "linear"))
    np.testing.assert_array_equal(found[""].argmax(axis=-1), enlarged.argmax(axis=-1))
    np.testing.assert_allclose(found[""].sum(axis=-1), 1, atol=1e-5)


def test_images_are_counted_one_by_one_for_each_kind_of_scores(tested):
    def find(windows):
        """Right everywhere, or all skin."""
        start = next(
            i for i in range(len(tested.images)) if (FRAME.centre_window(tested.images[i : i + 1]) == windows[:1]).all()
        )
        masks = FRAME.centre_window(tested.masks[start : start + len(windows), ..., None])[..., 0]
        return {"": np.eye(K)[masks], "skin": np.broadcast_to(np.eye(K)[1], (*masks.shape, K))}

    found = tested.confusions(find, FRAME, DRAWN)
    everything, landmarks = groupings(DRAWN, ("all", "landmarks"))
    assert set(found) == {(kind, grouping) for kind in ("", "skin") for grouping in (everything, landmarks)}
    for number, mask in enumerate(tested.masks):
        window = mask[20:116, 20:116]
        true = np.bincount(window.ravel(), minlength=K)
        np.testing.assert_array_equal(found["", everything][number], np.diag(true))
        np.testing.assert_array_equal(found["skin", everything][number][:, 1], true)
        assert found["", landmarks][number].sum() == true.sum() - true[10]  # glasses do not count


def test_true_landmarks_make_polygons_that_are_the_parts(tested, drawn):
    def detect(images):
        np.testing.assert_array_equal(images, tested.images)
        return np.stack([face.landmarks for face in drawn])

    ((grouping, counts),) = tested.confusions_of_landmarks(detect, FRAME, DRAWN).items()
    assert (grouping.name, counts.shape) == ("landmarks", (len(drawn), 7, 7))
    rows = Confusion(
        split="drawn", method="landmarks", grouping="landmarks", classes=grouping.names, counts=counts
    ).measurements(without=(), seed=0)  # fmt: skip
    found = {row.variant["part"]: row.value for row in rows if row.metric == "IoU"}
    assert min(found["eyes"], found["nose"], found["lips"]) > 70
    moved = tested.confusions_of_landmarks(lambda images: detect(images) + 6, FRAME, DRAWN)[grouping]
    assert np.trace(moved.sum(axis=0)) < 0.95 * np.trace(counts.sum(axis=0))


def test_a_set_that_does_not_ask_for_that_grouping_has_no_polygons(tested):
    only = evaluation_sets.TestSet(name="drawn", images=tested.images, masks=tested.masks, asked=("all",))
    assert only.confusions_of_landmarks(pytest.fail, FRAME, DRAWN) == {}


@pytest.fixture
def confusion():
    """Three classes in four images; the third is nowhere true."""
    counts = np.random.default_rng(0).integers(1, 50, (4, 3, 3))
    counts[:, 2] = 0
    return Confusion(split="s", method="adapt", grouping="all", classes=("a", "b", "c"), counts=counts)


def test_means_leave_out_absent_classes_and_those_that_are_named(confusion):
    rows = confusion.measurements(without=("b", "c", "unknown"), seed=0)
    table = as_table(rows)
    total = confusion.counts.sum(axis=0)
    expected = [100 * total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]) for k in (0, 1)]
    assert confusion.absent() == ["c"]
    assert select(table, metric="IoU")["value"].tolist() == pytest.approx(expected)
    mean, without = (select(table, metric="mean IoU", without=name)["value"].item() for name in (None, "b"))
    assert mean == pytest.approx(np.mean(expected))
    assert without == pytest.approx(expected[0])
    assert set(table["n"]) == {4}
    plain = as_table(confusion.measurements(without=("c",), seed=0))  # absent: the mean is without it anyhow
    assert len(select(plain, metric="mean IoU")) == 1


def test_deviations_are_those_over_other_choices_of_the_images(confusion):
    rng, means = np.random.default_rng(1), []
    for _ in range(2000):
        total = confusion.counts[rng.integers(0, 4, 4)].sum(axis=0)[:2]
        means.append(np.mean([100 * total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]) for k in (0, 1)]))
    found = next(row for row in confusion.measurements(without=(), seed=0) if row.metric == "mean IoU")
    assert found.deviation == pytest.approx(np.std(means, ddof=1), rel=0.1)


def test_one_image_has_no_deviation(confusion):
    one = Confusion(**{**vars(confusion), "counts": confusion.counts[:1]})
    assert one.measurements(without=(), seed=0)[0].deviation is None


def test_what_is_saved_is_read(confusion, tmp_path):
    other = Confusion(**{**vars(confusion), "method": "source", "classifier": measuring.NEAREST})
    measuring.save([confusion, other], tmp_path / "c.npz")
    for found, saved in zip(measuring.read(tmp_path / "c.npz"), (confusion, other), strict=True):
        np.testing.assert_array_equal(found.counts, saved.counts)
        assert (found.fields, found.classes) == (saved.fields, saved.classes)


def test_tables_have_a_row_for_each_method_and_a_column_for_each_mean(confusion):
    others = [Confusion(**{**vars(confusion), **changed}) for changed in (
        {"method": "source"}, {"method": "source", "classifier": measuring.NEAREST}, {"split": "t"},
    )]  # fmt: skip
    rows = [
        row.row(stage="measure") for one in (confusion, *others) for row in one.measurements(without=("a",), seed=0)
    ]
    means, *by_class = tables.tables({"measurements": rows})
    assert means.grid().value.index.tolist() == ["adapt", "source", "source, nearest prototype"]
    assert means.grid().value.columns.tolist() == ["s, all", "s, all, without a", "t, all", "t, all, without a"]
    assert means.own == "adapt"
    assert set(means.headlines) == {"s, all", "t, all"}
    assert [table.title for table in by_class] == ["Each part in s, classes all", "Each part in t, classes all"]
    assert by_class[0].grid().value.columns.tolist() == ["a", "b"]
    assert tables.tables({}) == []
    assert labels(means.rows, ("method", "classifier"))[0] == "adapt"


def test_colours_of_parts_differ():
    for scheme in (DRAWN, PartScheme(names=tuple(f"class {number}" for number in range(19)))):
        colours = scheme.colours().astype(int)
        distance = np.abs(colours[:, None] - colours).sum(axis=-1)
        assert distance[~np.eye(len(colours), dtype=bool)].min() > 40
    painted = DRAWN.painted(np.array([[0, 255], [10, 3]], np.uint8))
    np.testing.assert_array_equal(painted[0, 1], (255, 255, 255))
    np.testing.assert_array_equal(painted[1, 0], DRAWN.colours()[10])
