"""Folders of unlabelled images, and published scenes with masks, from the trees that their publishers pack."""

import miniature_scenes as scenes
import numpy as np
import pytest
from PIL import Image

from scemae_jax.data.class_maps import CLASS_MAPS
from scemae_jax.data.datasets.image_folder import ImageFolder, image_folder_config
from scemae_jax.data.datasets.mask_folder import MaskFolder, mask_folder_config
from scemae_jax.data.images import DatasetError
from scemae_jax.data.masks import layout_of, read_mask, read_mask_folder


def masks_of(root, classes, tmp_path, split="train"):
    builder = MaskFolder(config=mask_folder_config(root, classes, scenes.SIZE), data_dir=tmp_path / "prepared")
    builder.download_and_prepare()
    names = np.array([*builder.info.metadata["parts"], *["?"] * 240])
    return builder, [names[np.minimum(e["parts"][..., 0], 250)] for e in builder.as_data_source(split)]


@pytest.mark.parametrize("classes", ["cityscapes19", "synthia16"])
def test_gta5_is_read_as_it_is_packed(tmp_path, classes):
    builder, masks = masks_of(scenes.gta5(tmp_path / "GTA5"), classes, tmp_path)
    assert len(masks) == 3
    assert tuple(builder.info.metadata["parts"]) == CLASS_MAPS[classes].scheme.names
    for mask in masks:
        assert mask[0, ::24].tolist() == scenes.NAMES


@pytest.mark.parametrize(("classes", "last"), [("synthia16", "wall"), ("cityscapes13", "?")])
def test_synthia_s_16_bits_are_read(tmp_path, classes, last):
    _, masks = masks_of(scenes.synthia(tmp_path / "RAND_CITYSCAPES"), classes, tmp_path)
    assert len(masks) == 4
    for mask in masks:
        assert mask[47, [5, 25, 45, 65, 90]].tolist() == [*scenes.NAMES, last]


@pytest.mark.parametrize(("classes", "last"), [("cityscapes19", "terrain"), ("synthia16", "?")])
def test_cityscapes_is_read_by_splits_and_test_left_out(tmp_path, classes, last):
    root = scenes.cityscapes(tmp_path / "cityscapes")
    builder, masks = masks_of(root, classes, tmp_path, "val")
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 4, "val": 2}
    assert masks[0][0, [5, 25, 45, 65, 90]].tolist() == [*scenes.NAMES, last]


def test_classes_that_synthia_lacks_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no classes are called 'synthia19': choose"):
        read_mask_folder(scenes.synthia(tmp_path / "synthia"), "cityscapes19")


def test_a_mask_in_rgb_is_refused_where_the_layout_has_none(tmp_path):
    root = scenes.synthia(tmp_path / "synthia")
    with pytest.raises(DatasetError, match="has the mode RGB"):
        read_mask(root / "GT" / "LABELS" / "0000000.png", CLASS_MAPS["synthia16"], (96, 48))


def images_of(root, tmp_path, size=(48, 96)):
    builder = ImageFolder(config=image_folder_config(root, size), data_dir=tmp_path / "prepared")
    builder.download_and_prepare()
    return [example["image"] for example in builder.as_data_source("unlabeled")]


def test_images_of_any_size_are_fitted_into_the_rectangle(tmp_path):
    root = tmp_path / "target"
    for name, size in {"wide.jpg": (48, 192), "deep/tall.png": (96, 24), "deep/same.webp": (48, 96)}.items():
        scenes.save(root / name, np.full((*size, 3), 250, np.uint8))
    found = images_of(root, tmp_path)
    bright = sorted(tuple(int(n) for n in ((image > 200).any(axis=(1, 2)).sum(), (image > 200).any(axis=(0, 2)).sum()))
                    for image in found)  # fmt: skip
    assert bright == [(24, 96), (48, 12), (48, 96)]
    (wide,) = (image for image in found if (image[0] < 200).all() and (image[24] > 200).all())
    assert (np.abs(wide[:12].astype(int) - 128) < 6).all()


def test_of_a_labelled_folder_the_images_alone_count(tmp_path):
    assert len(images_of(scenes.own(tmp_path / "mine"), tmp_path)) == 4
    assert len(images_of(scenes.gta5(tmp_path / "GTA5"), tmp_path)) == 3
    root = scenes.cityscapes(tmp_path / "cityscapes")
    assert layout_of(root).nested
    with pytest.raises(DatasetError, match=r"holds masks beside images, .* name .*leftImg8bit"):
        image_folder_config(root)
    assert len(images_of(root / "leftImg8bit" / "train", tmp_path)) == 4


def test_a_folder_without_images_and_a_broken_image_are_named(tmp_path):
    with pytest.raises(DatasetError, match="nothing is no folder: name one of images"):
        image_folder_config(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty holds no image"):
        image_folder_config(tmp_path / "empty")
    scenes.save(tmp_path / "broken" / "a.jpg", scenes.noise(0))
    (tmp_path / "broken" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"b\.jpg: cannot be read .* replace or remove it"):
        images_of(tmp_path / "broken", tmp_path)


def test_a_changed_image_is_prepared_anew(tmp_path):
    scenes.save(tmp_path / "a" / "1.png", scenes.noise(0))
    before = image_folder_config(tmp_path / "a").name
    Image.new("RGB", (90, 40)).save(tmp_path / "a" / "1.png")
    assert image_folder_config(tmp_path / "a").name != before
