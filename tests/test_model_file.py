"""Exported models give the features they were exported with; files that are not such models are refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import scemae_jax
from scemae_jax import model_file
from scemae_jax.faces.frame import Frame
from scemae_jax.model import Model
from scemae_jax.model_file import export_stablehlo, fingerprint, load, save_model
from scemae_jax.models.architecture import Architecture
from scemae_jax.models.heads import Head, LandmarkHead, LinearHead, Reads


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 136, 136, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(small_model: Model, random_params) -> Model:
    """With a head of each kind, and notes on where it came from."""
    complete = dataclasses.replace(small_model, provenance={"config_hash": "ab12", "images_seen": 7})
    for network in (LandmarkHead(5, 3, 3, 5.0), LinearHead(4)):
        params = random_params(network, jnp.zeros((1, 12, 12, 48 + 16)), seed=network.num_landmarks)
        head = Head(network=network, params=params, reads=Reads(8, "both", 2.0))
        complete = complete.with_head(head)
    return complete


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "new" / "scemae.msgpack"
    save_model(model, path)
    return path


def test_a_file_holds_all_of_a_model(model, path, images):
    loaded = scemae_jax.load(str(path))
    assert loaded.architecture == model.architecture
    assert loaded.provenance == model.provenance
    for which in ("backbone", "projected", "both"):
        for stride in (8, 4):
            expected = model.features(images, stride, which)
            np.testing.assert_allclose(loaded.features(images, stride, which), expected, atol=1e-5)
    for name, kind, count in (("5", "heatmaps", 5), ("4", "linear", 4)):
        assert loaded.heads[name].kind == kind
        assert dataclasses.replace(loaded.heads[name], params={}) == dataclasses.replace(model.heads[name], params={})
        np.testing.assert_allclose(loaded.detect(images, count), model.detect(images, count), atol=1e-4)
    assert [file.name for file in path.parent.iterdir()] == ["scemae.msgpack"]


def test_a_file_keeps_the_sizes_of_the_model(small_model, tmp_path):
    backbone = dataclasses.replace(small_model.architecture.backbone, frame=Frame(image_size=184, window=128))
    larger = dataclasses.replace(small_model.architecture, backbone=backbone)
    save_model(dataclasses.replace(small_model, architecture=larger), tmp_path / "larger.msgpack")
    assert load(tmp_path / "larger.msgpack").architecture == larger


def test_a_file_of_a_backbone_alone(small_model, tmp_path, images):
    alone = Model(
        architecture=Architecture(backbone=small_model.architecture.backbone),
        params={"encoder": small_model.params["encoder"]},
    )
    save_model(alone, tmp_path / "alone.msgpack")
    loaded = load(tmp_path / "alone.msgpack")
    assert loaded.architecture == alone.architecture
    found, expected = (model.features(images, which="backbone") for model in (loaded, small_model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("has_frame", [True, False])
def test_files_of_format_1_are_read(model, path, images, tmp_path, has_frame):
    """They had the fields of all parts side by side, heads by number and, at first, no frame: it was 136 and 96."""
    content = serialization.msgpack_restore(path.read_bytes())
    fields = {
        "encoder": "XXS/8", "projection": 16, "projector_hidden": True, "projector_normalise": True, "split_layer": 2,
        "attentive_fraction": 0.25, "num_clusters": 4, "density": "knn", "decoder_width": 32, "decoder_depth": 1,
        "decoder_heads": 2, "mask_ratio": 0.75, "normalise_target": True, "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "dtype": "float32", "positions": "sincos",
    }  # fmt: skip
    reads = {"stride": 8, "which": "both", "projected_weight": 2.0}
    sizes = {
        "5": {"num_landmarks": 5, "heatmaps": 3, "kernel_size": 3, "gain": 5.0, **reads},
        "4": {"num_landmarks": 4, "heatmaps": 0, "kernel_size": 1, "gain": 1.0, **reads},
    }
    content["format"] = 1
    content["architecture"] = json.dumps(fields | ({"frame": {"image_size": 136, "window": 96}} if has_frame else {}))
    content["heads"] = {
        name: {"sizes": json.dumps(sizes[name]), "params": head["params"]} for name, head in content["heads"].items()
    }
    (tmp_path / "old.msgpack").write_bytes(serialization.msgpack_serialize(content))
    old, new = load(tmp_path / "old.msgpack"), load(path)
    assert (old.architecture, old.provenance) == (new.architecture, new.provenance)
    np.testing.assert_array_equal(old.features(images, which="both"), new.features(images, which="both"))
    for head in ("5", "4"):
        np.testing.assert_array_equal(old.detect(images, head=head), new.detect(images, head=head))


def test_the_model_of_the_package_is_what_it_always_was():
    """A file of format 1; the figures are those that the code of its time gave."""
    model = load("xs8_ytf68")
    y, x = np.mgrid[:136, :136]
    image = np.stack([x + y, 2 * x % 256, x * y % 256], axis=-1).astype(np.uint8)[None]
    projected, backbone = (model.features(image, which=which)[0] for which in ("projected", "backbone"))
    np.testing.assert_allclose(projected[0, 0, :3], [-0.06166613, 0.00456944, -0.06632216], atol=1e-5)
    np.testing.assert_allclose(backbone[7, 4, -2:], [1.30307472, -0.55114824], atol=1e-4)
    np.testing.assert_allclose(model.detect(image, 5)[0, :2], [[55.51019, 49.25317], [79.65685, 52.78399]], atol=1e-2)
    assert fingerprint("xs8_ytf68") == "be6ed917b5de"


def test_float16_halves_the_file_and_hardly_changes_the_features(model, path, images, tmp_path):
    save_model(model, tmp_path / "half.msgpack", dtype="float16")
    assert (tmp_path / "half.msgpack").stat().st_size < 0.55 * path.stat().st_size
    loaded = load(tmp_path / "half.msgpack")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded.params))
    np.testing.assert_allclose(loaded.features(images), model.features(images), atol=2e-2)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float16"), (1e5, "float16")])
def test_a_weight_that_the_file_cannot_hold_is_an_error(small_model, tmp_path, value, dtype):
    leaves, tree = jax.tree.flatten(small_model.params)
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(value)
    broken = dataclasses.replace(small_model, params=tree.unflatten(leaves))
    with pytest.raises(ValueError, match=f"a weight is not finite as {dtype}"):
        save_model(broken, tmp_path / "broken.msgpack", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_other_dtypes_are_refused(small_model, tmp_path):
    with pytest.raises(ValueError, match="'int8': choose 'float32' or 'float16'"):
        save_model(small_model, tmp_path / "x.msgpack", dtype="int8")


def test_a_name_that_is_no_file_is_sought_in_the_package(model, path, images, tmp_path, monkeypatch):
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "tiny.msgpack").write_bytes(path.read_bytes())
    monkeypatch.setattr(model_file.resources, "files", lambda package: tmp_path)
    np.testing.assert_allclose(load("tiny").features(images), model.features(images), atol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"'huge', and no model of that name in the package \(tiny\)"):
        load("huge")


@pytest.mark.parametrize("content", [b"", b"not a model", serialization.msgpack_serialize({"weights": np.ones(3)})])
def test_other_files_are_refused(content, tmp_path):
    file = tmp_path / "holiday.msgpack"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"holiday\.msgpack is not a model exported by scemae_jax"):
        load(file)


def test_a_truncated_file_is_refused(path, tmp_path):
    (tmp_path / "half.msgpack").write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"half\.msgpack is not a model exported"):
        load(tmp_path / "half.msgpack")


def test_another_format_is_refused(path, tmp_path):
    content = serialization.msgpack_restore(path.read_bytes()) | {"format": 99}
    (tmp_path / "later.msgpack").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(ValueError, match="has format 99, this version of scemae_jax reads 1 to 2: update"):
        load(tmp_path / "later.msgpack")


@pytest.mark.parametrize("which", ["projected", "backbone"])
def test_stablehlo_gives_the_features_for_any_number_of_images(model, images, tmp_path, which):
    export_stablehlo(model, tmp_path / "features.stablehlo", stride=8, which=which)
    exported = jax.export.deserialize((tmp_path / "features.stablehlo").read_bytes())
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    for batch in (images[:1], images):
        np.testing.assert_allclose(exported.call(batch), model.features(batch, 8, which), atol=1e-5)


@pytest.mark.usefixtures("cudnn_calls")  # the device at hand is an H100
def test_stablehlo_that_a_gpu_wrote_runs_everywhere(model, images, tmp_path):
    backbone = dataclasses.replace(model.architecture.backbone, dtype="bfloat16")
    half = dataclasses.replace(model, architecture=dataclasses.replace(model.architecture, backbone=backbone))
    export_stablehlo(half, tmp_path / "features.stablehlo", stride=8, which="backbone")
    exported = jax.export.deserialize((tmp_path / "features.stablehlo").read_bytes())
    np.testing.assert_allclose(exported.call(images), model.features(images, 8, "backbone"), atol=1e-5)
