"""The 300-W builder against a miniature: boxes, points counted from 1, cuts that leave the image, photographs."""

import io
import shutil

import miniature_trees
import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scemae_jax.data.datasets import three_hundred_w
from scemae_jax.data.images import Cut, DatasetError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("manual")
    return root, miniature_trees.three_hundred_w(root)


@pytest.fixture
def tree(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "manual") / "data/300w/300w"


def prepare(tmp_path):
    return miniature_trees.prepare("three_hundred_w", tmp_path / "manual", tmp_path / "data")


def set_boxes(tree, part, cells):
    array = np.empty((1, len(cells)), object)
    array[0, :] = cells
    scipy.io.savemat(tree / f"Bounding Boxes/bounding_boxes_{part}.mat", {"bounding_boxes": array})


def gradient(width, height):
    """A smooth, bright image that no flip, shift or transposition maps to itself."""
    y, x = np.mgrid[:height, :width]
    image = [90 + 150 * x / width, 250 - 150 * y / height, 120 + 60 * np.sin(x / 40 + y / 62)]
    return np.rint(np.stack(image, -1)).astype(np.uint8)


def cut_out(image, zoom, left, top):
    """In float64: the image resized, 100x100 pixels of it, black around it, enlarged to 136x136."""
    height, width = (int(side * zoom) for side in image.shape[:2])
    canvas = np.zeros((height + 400, width + 400, 3))
    canvas[200:-200, 200:-200] = miniature_trees.resize(image, height, width)
    return miniature_trees.resize(canvas[top + 200 : top + 300, left + 200 : left + 300], 136, 136)


def test_images_landmarks_and_order(made, tmp_path):
    root, drawn = made
    examples = miniature_trees.prepare("three_hundred_w", root, tmp_path)
    assert {split: len(found) for split, found in examples.items()} == {"train": 11, "validation": 1, "test": 12}
    faces = list(drawn.values())
    found, has_left = {}, 0
    for split in examples:
        found[split] = []
        for example in examples[split]:
            # The box fits the points: they are 52 pixels wide (its last pixel included), in a square of 100.
            span = np.ptp(example["landmarks"], axis=0)
            widths = [np.ptp(face.points, axis=0) for face in faces]
            index = int(np.argmin([np.abs(span - w * 52 / (w[0] + 1) * 1.36).max() for w in widths]))
            face, zoom = faces[index], 52 / (widths[index][0] + 1)
            shift = example["landmarks"] - face.points * zoom * 1.36
            np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-4)
            centre = (example["landmarks"].min(0) + example["landmarks"].max(0)) / 2 / 1.36
            np.testing.assert_allclose(centre, [49.5, 51.5], atol=1)  # to whole pixels; 2 below the middle

            # (x + 1) * zoom - 1 - left, in pixels of the cut
            left, top = np.rint(zoom - 1 - shift[0] / 1.36).astype(int)
            expected = cut_out(face.image, zoom, left, top)
            assert np.abs(example["image"] - expected).mean() < 2  # JPEG, twice
            height, width = (int(side * zoom) for side in face.image.shape[:2])
            has_left += left < 0 or top < 0 or left + 100 > width or top + 100 > height
            found[split].append(index)
    assert sorted(found["train"] + found["validation"]) == list(range(12))
    assert found["train"] == sorted(found["train"])
    assert found["test"] == list(range(12, 24))
    assert has_left == 12
    subjects = [example["subject"] for split in examples for example in examples[split]]
    assert len(set(subjects)) == 24
    for example in examples["test"]:
        points = example["landmarks"]
        assert points[36, 0] < points[45, 0]  # outer corners of the eyes
        assert points[8, 1] > points[[36, 45], 1].max()  # chin


@pytest.mark.parametrize(
    ("box", "size", "cut", "point", "expected"),
    [
        # 104 pixels wide: half size. Centre (101 + 52.5, 101 + 62.5) / 2 = (76.75, 81.75), down to (76, 81).
        ((101, 101, 204, 224), (400, 300), (0.5, 26, 29), (151, 201), ((75.5 - 27) * 1.36, (100.5 - 30) * 1.36)),
        # At a corner: centre (1 + 52.5, 1 + 52.5) / 2 = (26.75, 26.75); the cut begins 24 and 26 pixels outside.
        ((1, 1, 104, 104), (230, 301), (0.5, -24, -26), (1, 104), ((0.5 + 23) * 1.36, (52 + 25) * 1.36)),
        # 26 pixels wide: doubled. Centre (80 + 13.5, 60 + 13.5) * 2 = (187, 147); the image ends at 200, 160.
        ((80, 60, 105, 85), (100, 80), (2, 137, 95), (81, 61), ((162 - 138) * 1.36, (122 - 96) * 1.36)),
    ],
)
def test_one_face_by_hand(box, size, cut, point, expected, tree, tmp_path):
    zoom, left, top = cut
    expected_cut = Cut(None, (left, top, left + 100, top + 100), zoom, Image.Resampling.BICUBIC)
    assert three_hundred_w.face_cut(box) == expected_cut
    set_boxes(tree, "ibug", [{"imgName": "image_7.png", "bb_detector": 0, "bb_ground_truth": np.array([box], float)}])
    Image.fromarray(gradient(*size)).save(tree / "ibug/image_7.png")
    rows = "\n".join(["%d %d" % point] * 68)  # noqa: UP031 - the clearest way to write a pair
    (tree / "ibug/image_7.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}")
    example = prepare(tmp_path)["test"][-1]
    np.testing.assert_allclose(example["landmarks"], np.tile(expected, (68, 1)), rtol=1e-5)
    truth = cut_out(gradient(*size), zoom, left, top)
    error = np.abs(example["image"] - truth)
    # JPEG rings beside the edge of the image; elsewhere it is exact to its steps.
    assert error.max() < 40
    assert error.mean() < 1
    assert np.quantile(error, 0.9) < 3
    is_outside = truth.max(-1) == 0
    if left < 0:
        assert is_outside[: int(25 * 1.36)].all()
    assert (example["image"][is_outside] < 40).all()


@pytest.mark.parametrize(
    ("box", "zoom", "left", "top"), [((91, 71, 194, 174), 0.5, 21, 9), ((101, 91, 126, 116), 2, 179, 157)]
)
def test_the_first_resize_is_bicubic_and_the_second_bilinear(box, zoom, left, top, tree, tmp_path):
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 300, 3)).astype(np.uint8))
    drawn.save(tree / "ibug/image_7.png")
    set_boxes(tree, "ibug", [{"imgName": "image_7.png", "bb_ground_truth": np.array([box], float)}])
    rows = "\n".join(["110 110"] * 68)
    (tree / "ibug/image_7.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}")
    found = prepare(tmp_path)["test"][-1]["image"]

    zoomed = drawn.resize((int(300 * zoom), int(260 * zoom)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    part = zoomed.crop((left, top, left + 100, top + 100)).resize((136, 136), Image.Resampling.BILINEAR)
    part.save(file, "JPEG", quality=95, subsampling=0)
    np.testing.assert_array_equal(found, np.asarray(Image.open(file)))


@given(st.tuples(st.floats(1, 900), st.floats(1, 900)), st.tuples(st.floats(20, 800), st.floats(20, 800)))
def test_the_box_is_52_wide_and_the_cut_around_it(corner, size):
    """Whole pixels and counting from 1 leave less than 2 pixels of play."""
    left, top, width, height = *corner, *size
    cut = three_hundred_w.face_cut((left, top, left + width - 1, top + height - 1))
    assert cut.zoom * width == pytest.approx(52)
    assert cut.box[2] - cut.box[0] == cut.box[3] - cut.box[1] == 100
    middle = np.array([left + (width - 1) / 2, top + (height - 1) / 2]) * cut.zoom
    offset = np.array(cut.box[:2]) + 50 - middle
    assert (np.abs(offset - (0, -2) - cut.zoom) <= 1).all()


def test_faces_of_one_photograph_stay_together(tree):
    """Helen's and AFW's files are PHOTOGRAPH_FACE; LFPW's are numbered."""
    groups = {face.file: face.group for face in three_hundred_w.read_splits(tree)["train"]}
    assert groups["afw/0_1.jpg"] == "afw/0"
    assert groups["helen/trainset/1_1.jpg"] == "helen/trainset/1"
    assert groups["lfpw/trainset/image_0002.png"] == "lfpw/trainset/image_0002.png"
    assert len(set(groups.values())) == 12


def test_of_ibugs_boxes_only_those_with_images_count(tree):
    faces = three_hundred_w.read_splits(tree)["test"]
    assert not any("no_image" in face.file for face in faces)
    assert sum(face.file.startswith("ibug/image") for face in faces) == 4


BOX = {"imgName": "0_1.jpg", "bb_ground_truth": np.array([[1.0, 1, 50, 50]])}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([{"name": "0_1.jpg"}], r"bounding_boxes_afw\.mat cell 1: expected imgName and bb_ground_truth"),
        ([BOX, BOX | {"bb_ground_truth": "none"}], r"bounding_boxes_afw\.mat cell 2: expected imgName"),
        ([BOX, 3.0], r"bounding_boxes_afw\.mat cell 2: expected imgName"),
        ([BOX | {"bb_ground_truth": np.array([[50.0, 1, 1, 50]])}], r"cell 1 \('0_1\.jpg'\): \[50\.0, 1\.0, 1\.0"),
        ([BOX | {"bb_ground_truth": np.array([[1.0, 1, 50]])}], r"cell 1 .* is not left, top, right, bottom"),
        ([BOX | {"bb_ground_truth": np.array([[1.0, 1, np.nan, 50]])}], r"cell 1 .* is not left, top, right, bottom"),
        ([BOX | {"imgName": "77_1.jpg"}], r"has no afw/77_1\.pts\. .*300w\.tar\.gz"),
        (
            [BOX | {"bb_ground_truth": np.array([[1.0, 1, 1.001, 50]])}],
            r"'afw/0_1\.jpg' .* pixels would become 8\d{3}x8",
        ),
    ],
)
def test_bad_boxes_are_named(cells, message, tree, tmp_path):
    set_boxes(tree, "afw", cells)
    with pytest.raises(DatasetError, match=message):
        prepare(tmp_path)


def test_a_single_box_is_enough(tree):
    """MATLAB's cell array of one is not told from what is in it."""
    set_boxes(tree, "afw", [BOX])
    train = three_hundred_w.read_splits(tree)["train"]
    assert [face.file for face in train if face.file.startswith("afw")] == ["afw/0_1.jpg"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_points:  68", "n_points: 29", r"afw/0_1\.pts: expected 'version: 1', 'n_points: 68'"),
        ("}", "", r"afw/0_1\.pts: expected 'version: 1'"),
        ("{\n", "{\n5 5\n", r"afw/0_1\.pts: 138 numbers; expected x and y of 68 points"),
        ("{\n", "{\neye", r"afw/0_1\.pts: could not convert .*eye"),
        ("{\n", "{\n9999", r"'afw/0_1\.jpg' \(afw/0_1\.pts\): landmark 0 is at"),
    ],
)
def test_bad_points_are_named(old, new, message, tree, tmp_path):
    points = tree / "afw/0_1.pts"
    text = points.read_text()
    assert old in text
    points.write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=message):
        prepare(tmp_path)
