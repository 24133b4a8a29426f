"""The two AFLW builders against miniatures: 1-based points, five x then five y, (y, x), sizes, photographs."""

import shutil

import miniature_trees
import numpy as np
import pytest
import scipy.io
from PIL import Image

from scemae_jax.data.images import DatasetError


@pytest.fixture(scope="module")
def makers(tmp_path_factory):
    made = {}
    for maker in (miniature_trees.aflw_m, miniature_trees.aflw_r):
        root = tmp_path_factory.mktemp(maker.__name__)
        made[maker.__name__] = (root, maker(root))
    return made


@pytest.fixture
def tree_m(makers, tmp_path):
    return shutil.copytree(makers["aflw_m"][0], tmp_path / "manual") / "data/aflw-mtfl"


@pytest.fixture
def tree_r(makers, tmp_path):
    return shutil.copytree(makers["aflw_r"][0], tmp_path / "manual") / "data/aflw/aflw_release-2"


def prepare(name, tmp_path):
    return miniature_trees.prepare(name, tmp_path / "manual", tmp_path / "data")


def edit(tree, path, old, new):
    text = (tree / path).read_text()
    assert old in text
    (tree / path).write_text(text.replace(old, new, 1))


def gradient(width, height):
    """A smooth image that no flip, shift or transposition maps to itself."""
    y, x = np.mgrid[:height, :width]
    return np.rint(np.stack([200 * x / width, 250 * y / height, 90 + 60 * np.sin(x / 20 + y / 31)], -1)).astype(
        np.uint8
    )


@pytest.mark.parametrize("name", ["aflw_m", "aflw_r"])
def test_images_landmarks_and_order(name, makers, tmp_path):
    root, drawn = makers[name]
    examples = miniature_trees.prepare(name, root, tmp_path)
    assert {split: len(found) for split, found in examples.items()} == {"train": 14, "validation": 2, "test": 8}
    faces = list(drawn.values())
    subjects, found = [], {}
    for split in examples:
        found[split] = []
        for example in examples[split]:
            points = [face.points * 136 / np.array(face.image.shape[1::-1]) for face in faces]
            index = int(np.argmin([np.abs(example["landmarks"] - p).max() for p in points]))
            np.testing.assert_allclose(example["landmarks"], points[index], rtol=0, atol=1e-5)
            error = example["image"] - miniature_trees.resize(faces[index].image, 136, 136)
            assert np.abs(error).mean() < 1.5  # JPEG, twice; of another face it is over 20
            found[split].append(index)
            subjects.append(example["subject"])
    assert sorted(found["train"] + found["validation"]) == list(range(16))
    assert found["train"] == sorted(found["train"])
    assert found["test"] == list(range(16, 24))
    assert len(set(subjects)) == 24  # nobody knows who they are
    first, second = found["validation"]  # both crops of one photograph, 2 i and 2 i + 1
    assert first // 2 == second // 2
    for face in examples["test"]:
        (left, right, nose, *_) = face["landmarks"]
        assert left[0] < right[0]
        assert nose[1] > (left[1] + right[1]) / 2


def test_aflw_m_by_hand(tree_m, tmp_path):
    """Point (51, 76) of the files, counted from 1, is (50, 75): at (50, 75) * 136 / 150."""
    edit(tree_m, "MTFL/testing.txt", (tree_m / "MTFL/testing.txt").read_text().splitlines()[0],
         "AFLW\\0016-image20008.jpg 51 91 71 56 86 76 77 96 121 122 2 1 2 3\n \n")  # fmt: skip
    rows = (tree_m / "aflw_cropped/facedata_cropped.csv").read_text().splitlines()
    rows[1] = "39341,image20000.jpg,cropped/39341.jpg,1,51,76,91,77,71,96,56,121,86,122,150"
    (tree_m / "aflw_cropped/facedata_cropped.csv").write_text("\n".join(rows))
    for file in ("MTFL/AFLW/0016-image20008.jpg", "aflw_cropped/cropped/39341.jpg"):
        Image.fromarray(gradient(150, 150)).save(tree_m / file, quality=98, subsampling=0)
    examples = prepare("aflw_m", tmp_path)
    expected = np.array([[50, 75], [90, 76], [70, 95], [55, 120], [85, 121]]) * 136 / 150
    for example in (examples["train"][0], examples["test"][0]):
        np.testing.assert_allclose(example["landmarks"], expected, rtol=1e-6)
        np.testing.assert_allclose(example["landmarks"][0], [45.333333, 68], rtol=1e-6)
        error = example["image"] - miniature_trees.resize(gradient(150, 150), 136, 136)
        assert np.abs(error).max() < 5
        assert np.abs(error.mean((0, 1))).max() < 0.5


def test_aflw_r_by_hand(tree_r, tmp_path):
    """The third crop, 110x134: its left eye, (y, x) = (67, 33) in the file, is at x = 33 * 136 / 110, y = 68."""
    keypoints = tree_r / "aflw_train_keypoints.mat"
    content = scipy.io.loadmat(keypoints)
    gt, hw = content["gt"], content["hw"]
    assert hw[2].tolist() == [134, 110]
    gt[2] = [[67, 33], [66, 77], [80, 55], [100, 40], [101, 70]]
    scipy.io.savemat(keypoints, {"gt": gt, "hw": hw})
    file = tree_r / "output" / (tree_r / "aflw_train_images.txt").read_text().split()[2]
    Image.fromarray(gradient(110, 134)).save(file, quality=98, subsampling=0)
    example = prepare("aflw_r", tmp_path)["train"][2]
    np.testing.assert_allclose(example["landmarks"][0], [40.8, 68], rtol=1e-6)
    np.testing.assert_allclose(example["landmarks"][4], [70 * 136 / 110, 101 * 136 / 134], rtol=1e-6)
    error = example["image"] - miniature_trees.resize(gradient(110, 134), 136, 136)
    assert np.abs(error).max() < 5
    assert np.abs(error.mean((0, 1))).max() < 0.5


def test_an_image_that_aflw_r_names_twice_is_there_twice(tree_r, tmp_path):
    """As 132 of the official test images are; they show one person."""
    images = (tree_r / "aflw_test_images.txt").read_text().split()
    content = scipy.io.loadmat(tree_r / "aflw_test_keypoints.mat")
    (tree_r / "aflw_test_images.txt").write_text("\n".join([*images, images[0]]) + "\n\n")
    twice = {name: np.concatenate([content[name], content[name][:1]]) for name in ("gt", "hw")}
    scipy.io.savemat(tree_r / "aflw_test_keypoints.mat", twice)
    test = prepare("aflw_r", tmp_path)["test"]
    assert len(test) == 9
    np.testing.assert_array_equal(test[0]["image"], test[8]["image"])
    assert test[0]["subject"] == test[8]["subject"]
    assert len({example["subject"] for example in test}) == 8


def test_exif_orientation_is_ignored(tree_r, tmp_path):
    """Annotations are of the pixels as they are stored."""
    file = tree_r / "output" / (tree_r / "aflw_train_images.txt").read_text().split()[2]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient(110, 134)).save(file, quality=98, subsampling=0, exif=exif)
    error = prepare("aflw_r", tmp_path)["train"][2]["image"] - miniature_trees.resize(gradient(110, 134), 136, 136)
    assert np.abs(error).max() < 5


TABLE, LIST = "aflw_cropped/facedata_cropped.csv", "MTFL/testing.txt"


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        (TABLE, "crop_file", "crop", r"facedata_cropped\.csv row 1: no column 'crop_file'"),
        (TABLE, ",150\n", "\n", r"facedata_cropped\.csv row 2: 14 cells where the header has 15"),
        (TABLE, "cropped/39341.jpg,1,", "cropped/39341.jpg,1,x", r"facedata_cropped\.csv row 2: .*'x"),
        (TABLE, "cropped/39341.jpg,1,", "cropped/39341.jpg,1,9", r"'cropped/39341\.jpg' .*landmark 0 is at \(9"),
        (TABLE, "image20007.jpg", "image20008.jpg", r"'AFLW/0016-image20008\.jpg' .*row 1\): .* also in training"),
        (LIST, "0018-image20009", "0018-image9", r"'AFLW/0018-image9\.jpg' .*row 3\): .* does not list"),
        (LIST, " 1 2 2 3\n", " 1 2 2 3\nAFLW/x-image20008.jpg 1 2 3\n", r"testing\.txt row 2: 3 numbers; expected x"),
    ],
)
def test_bad_files_of_aflw_m_name_the_row(path, old, new, message, tree_m, tmp_path):
    edit(tree_m, path, old, new)
    with pytest.raises(DatasetError, match=message):
        prepare("aflw_m", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gt, hw: {"gt": gt[:-1], "hw": hw}, r"gt \(15, 5, 2\) and hw \(16, 2\) for the 16 images of aflw_train"),
        (lambda gt, hw: {"gt": gt, "sizes": hw}, r"aflw_train_keypoints\.mat: has no variable 'hw', only gt, sizes"),
        (lambda gt, hw: {"gt": gt, "hw": 0 * hw}, r"aflw_train_keypoints\.mat: hw holds 0, which is no size"),
        (lambda gt, hw: {"gt": gt + np.nan, "hw": hw}, r"aflw_train_keypoints\.mat row 1: a coordinate is not finite"),
        (
            lambda gt, hw: {"gt": gt, "hw": hw + 1},
            r"'0/image00000_39341\.jpg' .*row 1\): is 100x120 .* expected 101x121",
        ),
    ],
)
def test_bad_files_of_aflw_r_name_the_row(change, message, tree_r, tmp_path):
    content = scipy.io.loadmat(tree_r / "aflw_train_keypoints.mat")
    scipy.io.savemat(tree_r / "aflw_train_keypoints.mat", change(content["gt"], content["hw"]))
    with pytest.raises(DatasetError, match=message):
        prepare("aflw_r", tmp_path)


def test_damaged_and_missing_files_of_aflw_r(tree_r, tmp_path):
    keypoints = tree_r / "aflw_test_keypoints.mat"
    content = keypoints.read_bytes()
    keypoints.write_bytes(b"hello")
    with pytest.raises(DatasetError, match=r"aflw_test_keypoints\.mat: cannot be read as a MATLAB file"):
        prepare("aflw_r", tmp_path)
    keypoints.unlink()
    with pytest.raises(DatasetError, match=r"has no aflw_test_keypoints\.mat\. .*aflw-recrop\.tar\.gz"):
        prepare("aflw_r", tmp_path)
    keypoints.write_bytes(content)
    (tree_r / "aflw_test_images.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"aflw_test_images\.txt: is not text"):
        prepare("aflw_r", tmp_path)
