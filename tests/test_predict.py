"""`scemae predict`: masks of image files, from the command line to the pixels."""

import csv
import dataclasses
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scemae_jax.data.class_maps import read_classes
from scemae_jax.data.images import DatasetError
from scemae_jax.faces.parts import DRAWN
from scemae_jax.model_file import save_model
from scemae_jax.models.parsing import PartParser
from scemae_jax.predict import Outputs, find_images, predict
from scemae_jax.synthetic_faces import draw_face


@pytest.fixture(scope="module")
def model(small_model, random_params):
    parser = PartParser(parts=DRAWN, width=16, params={})
    network = parser.network(small_model.architecture.backbone)
    params = random_params(network.module, jnp.zeros((1, 96, 96, 3)))
    return dataclasses.replace(small_model, parser=dataclasses.replace(parser, params=params))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Drawn faces: upright, stored lying on its side (EXIF), in a sub-folder, two of one stem, and a broken file."""
    root = tmp_path_factory.mktemp("predict") / "faces"
    (root / "more").mkdir(parents=True)
    drawn = [Image.fromarray(draw_face(seed=0, subject=number, frame=0).image) for number in range(4)]
    drawn[0].save(root / "anna.png")
    upright, exif = drawn[1].crop((0, 0, 100, 136)), Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "more" / "anna.jpg", exif=exif, quality=95)
    drawn[2].resize((300, 200)).save(root / "twin.jpg")
    drawn[3].save(root / "twin.webp")
    (root / "broken.jpg").write_bytes(b"not a picture")
    return root


@pytest.fixture(scope="module")
def finished(model, faces):
    """The command on that folder: its folder of masks, that of overlays, and how it ended."""
    out = faces.parent
    save_model(model, out / "parts.msgpack")
    command = [sys.executable, "-m", "scemae_jax", "predict", "--model", out / "parts.msgpack", faces]
    command += ["--parts", out / "masks", "--overlay", out / "overlays"]
    return out / "masks", out / "overlays", subprocess.run(command, capture_output=True, text=True)


def test_each_image_has_a_mask_in_its_own_size(finished, faces, model):
    masks, overlays, ended = finished
    assert ended.returncode == 3, ended.stderr
    assert "the whole of each image is taken as the face" in ended.stdout
    names = {"anna": "anna.png", "more/anna": "more/anna.jpg", "twin.jpg": "twin.jpg", "twin.webp": "twin.webp"}
    assert {path.relative_to(masks).as_posix() for path in masks.rglob("*.*")} == {
        "classes.csv", *(f"{name}.png" for name in names),
    }  # fmt: skip
    for name, file in names.items():
        stored = Image.open(faces / file)
        upright = np.asarray(stored.convert("RGB").transpose(Image.Transpose.ROTATE_270) if "more" in file else stored)
        mask = Image.open(masks / f"{name}.png")
        assert mask.mode == "P"
        assert np.asarray(mask).shape == upright.shape[:2]
        if file != "twin.jpg":  # neither is scaled on its way to the square
            assert (np.asarray(mask) == model.parse(upright[None])[0]).mean() > 0.999
        blended = Image.fromarray((upright // 2 + np.asarray(mask.convert("RGB")) // 2).astype(np.uint8))
        coarse = [
            image.resize((17, 17), Image.Resampling.BOX) for image in (Image.open(overlays / f"{name}.jpg"), blended)
        ]
        found, expected = (np.asarray(image, float) for image in coarse)
        assert np.abs(found - expected).mean() < 3  # JPEG


def test_values_are_named_and_coloured_as_in_the_masks(finished):
    masks, _, _ = finished
    assert read_classes(masks / "classes.csv").scheme.names == DRAWN.names
    with (masks / "classes.csv").open() as file:
        colours = [row["colour"] for row in csv.DictReader(file)]
    assert len(set(colours)) == len(DRAWN.names)
    palette = Image.open(masks / "anna.png").getpalette()
    assert [f"#{bytes(palette[3 * value : 3 * value + 3]).hex()}" for value in range(11)] == colours


def test_what_could_not_be_read_is_listed(finished):
    masks, _, ended = finished
    with (masks.parent / "masks.skipped.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["file"].endswith("broken.jpg")
    assert "cannot be read as JPEG, PNG or WebP" in row["reason"]
    assert "1 files were skipped" in ended.stderr


def test_nothing_is_overwritten_unasked(finished, faces, model):
    outputs = Outputs(finished[0], None)
    with pytest.raises(ValueError, match=r"anna\.png exists, 4 such files in all: name another folder, or --overwrite"):
        predict(model, [str(faces)], outputs, overwrite=False)
    before = (finished[0] / "anna.png").read_bytes()
    (finished[0] / "anna.png").write_bytes(b"")
    count, skipped = predict(model, [str(faces / "anna.png")], outputs, overwrite=True)
    assert (count, skipped) == (1, {})
    assert (finished[0] / "anna.png").read_bytes() == before


def test_masks_do_not_become_images(faces, model):
    with pytest.raises(ValueError, match=r"is inside .*faces, and masks would become images"):
        predict(model, [str(faces)], Outputs(faces / "masks", None), overwrite=True)


def test_inputs_are_never_replaced(faces, model):
    image = str(faces / "anna.png")
    with pytest.raises(ValueError, match=r"anna\.png is an image to be read, and would be replaced"):
        predict(model, [image], Outputs(faces, None), overwrite=True)


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Eve.png").touch()
    with pytest.raises(DatasetError, match=r"would both become 'Eve\.png': give a folder that holds both"):
        find_images([str(tmp_path / "a"), str(tmp_path / "b" / "Eve.png")])
    assert set(find_images([str(tmp_path), str(tmp_path / "a")])) == {"a/Eve", "b/Eve"}
    for wrong, message in (("c", "does not exist"), ("x.txt", "is no image that is read here")):
        (tmp_path / "x.txt").touch()
        with pytest.raises(DatasetError, match=message):
            find_images([str(tmp_path / wrong)])
