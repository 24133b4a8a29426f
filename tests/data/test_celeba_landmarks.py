"""The CelebA builder against small trees of the official shape, with values worked out by hand."""

import shutil
import zipfile

import miniature_trees
import numpy as np
import pytest
from PIL import Image

from scemae_jax.data.datasets import celeba_landmarks
from scemae_jax.data.images import DatasetError

# Train 1-5, validation 6-8, test 9-10; MAFL has two of train, one of validation and one of test.
PARTITION = {i: 0 if i <= 5 else 1 if i <= 8 else 2 for i in range(1, 11)}
MAFL_TRAINING, MAFL_TESTING = (2, 6), (4, 10)
EXPECTED = {"train": {1, 3, 5}, "validation": {7, 8}, "test": {9, 10}}
COLUMNS = " ".join(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)


def name(index):
    return f"{index:06d}.jpg"


def portrait(index):
    """A smooth image whose rows outside 30..208 are bright red, and whose level tells its number."""
    y, x = np.mgrid[:218, :178]
    image = np.stack([90 + 40 * np.sin(x / 25), 80 + 40 * np.cos(y / 30), np.full_like(x, 20 * index)], -1)
    image[:30] = image[208:] = (255, 0, 0)
    return np.rint(image).astype(np.uint8)


def landmarks(index):
    points = np.array([[69, 109], [106, 113], [77, 142], [73, 152], [108, 154]])
    return points + np.array([index, -index])


@pytest.fixture
def tree(tmp_path):
    """A tree as in the instructions, with images 1 to 10; image i shows person 100 + i // 2."""
    root = tmp_path / "manual" / "celeba"
    for folder in ("Img/img_align_celeba", "Anno", "Eval", "MAFL"):
        (root / folder).mkdir(parents=True)
    for i in PARTITION:
        image = Image.fromarray(portrait(i))
        image.save(root / "Img/img_align_celeba" / name(i), quality=98, subsampling=0)
    points = [f"{name(i)}  " + " ".join(f"{v:3d}" for v in landmarks(i).ravel()) for i in PARTITION]
    write(root, "Anno/list_landmarks_align_celeba.txt", ["10", COLUMNS, *points])
    write(root, "Anno/identity_CelebA.txt", [f"{name(i)} {100 + i // 2}" for i in PARTITION])
    write(root, "Eval/list_eval_partition.txt", [f"{name(i)} {part}" for i, part in PARTITION.items()])
    write(root, "MAFL/training.txt", map(name, MAFL_TRAINING))
    write(root, "MAFL/testing.txt", map(name, MAFL_TESTING))
    return root


def write(root, path, lines):
    (root / path).write_text("\n".join(lines) + "\n")


def edit(root, path, old, new):
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new, 1))


def prepare(tree, tmp_path):
    return miniature_trees.prepare("celeba_landmarks", tree.parent, tmp_path / "data")


def index_of(example):
    """Which image this is, by its blue level."""
    return round(float(example["image"][..., 2].mean()) / 20)


def test_images_landmarks_subjects_and_splits(tree, tmp_path):
    examples = prepare(tree, tmp_path)
    assert {split: {index_of(e) for e in found} for split, found in examples.items()} == EXPECTED
    for example in (e for found in examples.values() for e in found):
        index = index_of(example)
        assert example["subject"] == 100 + index // 2
        np.testing.assert_allclose(example["landmarks"], (landmarks(index) - [0, 30]) * 136 / 178, rtol=1e-6, atol=0)
        error = example["image"] - miniature_trees.resize(portrait(index)[30:208], 136, 136)
        assert np.abs(error).max() < 5  # two JPEG encodings; the red rows would be off by more than 100
        assert np.abs(error.mean((0, 1))).max() < 0.5
    # One by hand, with prior work's formula: image 1 has its left eye at (70, 108): (70, 78) * 136 / 178.
    first = next(e for e in examples["train"] if index_of(e) == 1)
    np.testing.assert_allclose(first["landmarks"][0], [53.483146, 59.595506], rtol=1e-6)


def test_without_identities_every_image_is_a_person(tree, tmp_path):
    (tree / "Anno/identity_CelebA.txt").unlink()
    examples = prepare(tree, tmp_path)
    assert {e["subject"] for found in examples.values() for e in found} == {0, 2, 4, 6, 7, 8, 9}
    assert all(e["subject"] == index_of(e) - 1 for found in examples.values() for e in found)


def test_images_are_read_from_the_zip(tree, tmp_path):
    folder = tree / "Img/img_align_celeba"
    with zipfile.ZipFile(tree / "Img/img_align_celeba.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(folder)
    examples = prepare(tree, tmp_path)
    assert {split: {index_of(e) for e in found} for split, found in examples.items()} == EXPECTED


def test_damaged_zip_names_the_image(tree, tmp_path):
    folder = tree / "Img/img_align_celeba"
    archive = tree / "Img/img_align_celeba.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for path in folder.iterdir():
            members.write(path, f"img_align_celeba/{path.name}")
    content = (folder / name(3)).read_bytes()
    archive.write_bytes(archive.read_bytes().replace(content, content[:-1] + b"?"))
    shutil.rmtree(folder)
    with pytest.raises(DatasetError, match=r"img_align_celeba\.zip': '000003\.jpg' is damaged"):
        prepare(tree, tmp_path)


LANDMARKS, PARTS = "Anno/list_landmarks_align_celeba.txt", "Eval/list_eval_partition.txt"


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        (LANDMARKS, "10\n", "11\n", r"list_landmarks_align_celeba\.txt: 10 rows where row 1 announces 11"),
        (LANDMARKS, "10\n", "ten\n", r"row 1: expected the number of images"),
        (LANDMARKS, " 70 108", " 70", r"row 3: 10 words; expected a file and 5 pairs"),
        (LANDMARKS, " 70 108", " 70 eye", r"row 3 \('000001\.jpg'\): .*'eye'"),
        (LANDMARKS, " 70 108", " 70 nan", r"row 3 \('000001\.jpg'\): a coordinate is not finite"),
        (LANDMARKS, " 70 108", " 70 999", r"'000001\.jpg' \(Anno/.* row 3\): landmark 0 is at \(70, 999\)"),
        (LANDMARKS, "000002.jpg", "000001.jpg", r"row 4: '000001\.jpg' is listed twice"),
        (PARTS, "000002.jpg 0\n", "", r"list different images: '000002\.jpg'"),
        (PARTS, "000002.jpg 0", "000002.jpg 7", r"'000002\.jpg' is in part '7'; expected 0, 1 or 2"),
        (PARTS, "000002.jpg 0", "000002.jpg", r"list_eval_partition\.txt row 2: 1 words"),
        ("Anno/identity_CelebA.txt", "000003.jpg 101", "000003.jpg bob", r"'000003\.jpg' has identity 'bob'"),
        (
            "MAFL/testing.txt",
            "000010.jpg",
            "000011.jpg",
            r"MAFL/testing\.txt row 2: '000011\.jpg' is not an image",
        ),
    ],
)
def test_bad_files_name_the_row(path, old, new, message, tree, tmp_path):
    edit(tree, path, old, new)
    with pytest.raises(DatasetError, match=message):
        prepare(tree, tmp_path)


@pytest.mark.parametrize("changed", [{}, {"train": 6}, {"MAFL/training.txt": 3}])
def test_the_counts_of_all_lists_are_checked_together(changed, tree, monkeypatch):
    """So that a list of MAFL's that was cut short is noticed in the full CelebA."""
    counts = {"train": 5, "validation": 3, "test": 2, "MAFL/training.txt": 2, "MAFL/testing.txt": 2}
    monkeypatch.setattr(celeba_landmarks, "OFFICIAL_COUNTS", counts | changed)
    if not changed:
        found = celeba_landmarks.read_splits(tree)
        assert {split: len(faces) for split, faces in found.items()} == {"train": 3, "validation": 2, "test": 2}
        return
    with pytest.raises(DatasetError, match=r"CelebA's lists: found .'train': 5, .* officially"):
        celeba_landmarks.read_splits(tree)


def test_an_image_in_both_of_mafls_lists_is_an_error(tree):
    edit(tree, "MAFL/testing.txt", "000010.jpg", "000006.jpg")
    with pytest.raises(DatasetError, match=r"'000006\.jpg' is in MAFL/training\.txt and in MAFL/testing\.txt"):
        celeba_landmarks.read_splits(tree)
