"""Folders of images with masks: classes, splits, sizes, and a mistake of each kind."""

import csv

import numpy as np
import pytest
from absl import logging
from PIL import Image

from scemae_jax.data.class_maps import CLASS_MAPS, read_classes
from scemae_jax.data.datasets.mask_folder import MaskFolder, mask_folder_config
from scemae_jax.data.images import DatasetError
from scemae_jax.data.masks import read_mask_folder

ROWS = [("0", "sky", "scene"), ("10", "person", "people"), ("12", "rider", "people"), ("13", "", "")]


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path):
    """Three images of 40x20 pixels, whose left half is sky; the right half is person, rider or ignored."""
    root = tmp_path / "faces"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    write_csv(root / "classes.csv", ("value", "name", "merge"), ROWS)
    for stem, value in {"a": 10, "b": 12, "c": 13}.items():
        Image.fromarray(np.full((20, 40, 3), value, np.uint8)).save(root / "images" / f"{stem}.jpg")
        mask = np.zeros((20, 40), np.uint8)
        mask[:, 20:] = value
        Image.fromarray(mask).save(root / "masks" / f"{stem}.png")
    return root


def prepared(root, tmp_path, classes="", **size):
    builder = MaskFolder(config=mask_folder_config(root, classes, **size), data_dir=tmp_path / "prepared")
    builder.download_and_prepare()
    return builder


def test_masks_become_classes_in_the_square_and_their_pixels_are_counted(folder, tmp_path):
    builder = prepared(folder, tmp_path)
    found = {int(np.median(e["image"][68, 100])): e for e in builder.as_data_source("train")}
    assert len(found) == 3
    for value, right in {10: 1, 12: 2, 13: 255}.items():
        mask = found[value]["parts"][..., 0]
        assert (mask[:34] == 255).all()  # above the picture
        assert (mask[34:102, :68] == 0).all()
        assert (mask[34:102, 68:] == right).all()
        assert (found[value]["image"][0, 0] == 128).all()
    metadata = builder.info.metadata
    assert (metadata["parts"], metadata["groups"]) == (["sky", "person", "rider"], ["scene", "people", "people"])
    assert metadata["pixels"]["train"] == [3 * 68 * 68, 68 * 68, 68 * 68]


def test_scenes_keep_their_shape_and_splits(folder, tmp_path):
    write_csv(folder / "split.csv", ("file", "split"), [("a", "test"), ("b.jpg", "train")])
    builder = prepared(folder, tmp_path, size=(30, 60))
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"test": 1, "train": 2}
    (example,) = builder.as_data_source("test")
    assert example["image"].shape == (30, 60, 3)
    assert (example["parts"][:, 30:] == 1).all()


def test_a_palette_and_an_image_turned_by_exif_are_read(folder, tmp_path):
    image = Image.new("RGB", (20, 40))  # stored on its side
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "images" / "a.jpg", exif=exif)
    Image.open(folder / "masks" / "a.png").convert("P").save(folder / "masks" / "a.png")
    assert len(prepared(folder, tmp_path).as_data_source("train")) == 3


def test_published_classes_are_those_of_their_papers():
    assert [len(CLASS_MAPS[name].scheme.names) for name in ("cityscapes19", "synthia16", "synthia13")] == [19, 16, 13]
    for scenes, synthetic in (("cityscapes16", "synthia16"), ("cityscapes13", "synthia13")):
        assert CLASS_MAPS[scenes].scheme == CLASS_MAPS[synthetic].scheme
    assert CLASS_MAPS["synthia16"].scheme.names[CLASS_MAPS["synthia16"].classes[3]] == "road"
    assert CLASS_MAPS["cityscapes19"].classes[33] == 18  # bicycle
    table = CLASS_MAPS["cityscapes13"].table()
    assert table[12] == 255  # wall


def change_size(root):
    Image.fromarray(np.zeros((20, 39), np.uint8)).save(root / "masks" / "a.png")


def turn_by_exif(root):
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(root / "images" / "a.jpg", exif=exif)


def unknown_value(root):
    Image.fromarray(np.full((20, 40), 7, np.uint8)).save(root / "masks" / "a.png")


def colours(root):
    Image.new("RGB", (40, 20)).save(root / "masks" / "a.png")


def jpeg(root):
    Image.new("L", (40, 20)).save(root / "masks" / "a.jpg")
    (root / "masks" / "a.png").unlink()


def jpeg_called_png(root):
    Image.new("L", (40, 20)).save(root / "masks" / "a.png", format="JPEG")


def all_ignored(root):
    Image.new("L", (40, 20), 255).save(root / "masks" / "a.png")


def two_of_a_stem(root):
    Image.new("RGB", (40, 20)).save(root / "images" / "a.png")


def no_masks_folder(root):
    (root / "images").rename(root / "pictures")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (change_size, r"a\.png: has 39x20 pixels, and its image 40x20"),
        (turn_by_exif, r"a\.png: has 40x20 pixels, and its image 20x40 when it is displayed upright"),
        (unknown_value, r"a\.png: has the values \[7\], which are no class: add them to classes\.csv"),
        (colours, r"a\.png: has the mode RGB: a mask is a PNG of 8-bit grey or with a palette"),
        (jpeg, r"its mask .*a\.png does not exist; a\.jpg is no PNG"),
        (jpeg_called_png, r"a\.png: cannot be read as PNG"),
        (all_ignored, r"a\.png: every pixel is ignored: remove it and its image"),
        (two_of_a_stem, r"a\.jpg and a\.png have one stem"),
        (no_masks_folder, r"has no folder images"),
        (lambda root: (root / "classes.csv").unlink(), r"classes\.csv does not exist: write it"),
        (lambda root: (root / "split.csv").write_text("file,split\nz,test\n"), r"split\.csv, row 2: no image .* 'z'"),
        (lambda root: (root / "split.csv").write_text("name\nz\n"), r"split\.csv has the columns name"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_and_remedy(folder, tmp_path, mistake, message):
    mistake(folder)
    with pytest.raises(DatasetError, match=message):
        prepared(folder, tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("x", "sky", "")], "row 2: the value is 'x'"),
        ([("255", "sky", "")], "row 2: the value is '255'"),
        ([("1", "sky", ""), ("1", "sea", "")], "row 3: the value 1 has a row already"),
        ([("1", "sky", "a"), ("2", "sky", "b")], "row 3: 'sky' is merged into 'a' and into 'b'"),
        ([("1", "sky", "a"), ("2", "sea", "")], "some classes are merged and sea not"),
        ([("1", "", "")], "names no class"),
    ],
)
def test_a_mistake_in_classes_csv_is_named(tmp_path, rows, message):
    write_csv(tmp_path / "classes.csv", ("value", "name", "merge"), rows)
    with pytest.raises(DatasetError, match=message):
        read_classes(tmp_path / "classes.csv")


def test_a_class_that_no_image_has_is_a_warning(folder, tmp_path, monkeypatch):
    write_csv(folder / "classes.csv", ("value", "name"), [row[:2] for row in ROWS] + [("20", "bus")])
    warned = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: warned.append(message % values))
    prepared(folder, tmp_path)
    assert any("has bus: nothing can be learnt of it" in line for line in warned)


def test_a_changed_mask_is_prepared_anew(folder):
    before = read_mask_folder(folder).fingerprint
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(folder / "masks" / "a.png")
    assert read_mask_folder(folder).fingerprint != before


def test_an_unknown_name_of_classes_is_refused(folder):
    with pytest.raises(DatasetError, match="no classes are called 'cars': choose faces, cityscapes19"):
        read_mask_folder(folder, "cars")
