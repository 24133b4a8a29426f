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
from scemae_jax.model import Head, Model
from scemae_jax.model_file import export_stablehlo, load, save_model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 136, 136, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(small_model: Model, random_params) -> Model:
    """With two detectors, and notes on where it came from."""
    complete = dataclasses.replace(small_model, provenance={"config_hash": "ab12", "images_seen": 7})
    for count, kernel_size in ((5, 3), (4, 1)):
        head = Head(
            num_landmarks=count, heatmaps=3, kernel_size=kernel_size, gain=5.0, stride=8, which="both", params={}
        )
        params = random_params(head.build(), jnp.zeros((1, 12, 12, 48 + 16)), seed=count)
        complete = complete.with_head(dataclasses.replace(head, params=params))
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
    for count in (5, 4):
        assert loaded.heads[count].sizes() == model.heads[count].sizes()
        np.testing.assert_allclose(loaded.detect(images, count), model.detect(images, count), atol=1e-4)
    assert [file.name for file in path.parent.iterdir()] == ["scemae.msgpack"]


def test_a_file_keeps_the_sizes_of_the_model(small_model, tmp_path):
    """Files of older versions have none: theirs are those of all models then."""
    larger = dataclasses.replace(small_model.architecture, frame=Frame(image_size=184, window=128))
    save_model(dataclasses.replace(small_model, architecture=larger), tmp_path / "larger.msgpack")
    assert load(tmp_path / "larger.msgpack").architecture == larger
    content = serialization.msgpack_restore((tmp_path / "larger.msgpack").read_bytes())
    fields = json.loads(content["architecture"])
    assert fields.pop("frame") == {"image_size": 184, "window": 128}
    content["architecture"] = json.dumps(fields)
    (tmp_path / "old.msgpack").write_bytes(serialization.msgpack_serialize(content))
    assert load(tmp_path / "old.msgpack").architecture.frame == Frame(image_size=136, window=96)


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
    with pytest.raises(ValueError, match="has format 99, this version of scemae_jax reads 1"):
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
    half = dataclasses.replace(model, architecture=dataclasses.replace(model.architecture, dtype="bfloat16"))
    export_stablehlo(half, tmp_path / "features.stablehlo", stride=8, which="backbone")
    exported = jax.export.deserialize((tmp_path / "features.stablehlo").read_bytes())
    np.testing.assert_allclose(exported.call(images), model.features(images, 8, "backbone"), atol=1e-5)
