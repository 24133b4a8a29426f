"""Checkpoints of the MAE release, of timm and of Hugging Face become models and come back.

That the networks then compute the same is held against Hugging Face's in models/test_mae.py, at the published sizes.
"""

import argparse
import dataclasses
import fractions
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flax import traverse_util
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

from scemae_jax.convert import __main__ as program
from scemae_jax.convert import from_torch, read_checkpoint, to_torch, write_checkpoint
from scemae_jax.convert.weights import resample_patches, resample_positions
from scemae_jax.model import Model
from scemae_jax.model_file import load, save_model
from scemae_jax.models import vit
from scemae_jax.models.heads import Head, LandmarkHead, Reads
from scemae_jax.systems.sce_mae import settings, stages

SMALL = {
    "image_size": 96,
    "patch_size": 16,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "layer_norm_eps": 1e-6,
}
DECODER = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 1,
    "decoder_intermediate_size": 128,
}


def randomised(network, seed=0):
    """All weights drawn anew, but for the tables of fixed position codes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                weight.copy_(offset + 0.1 * torch.randn(weight.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def hugging_face():
    network = randomised(ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **DECODER)))
    with torch.no_grad():
        network.vit.embeddings.position_embeddings.copy_(torch.from_numpy(vit.position_table(48, 6, 6)))
        network.decoder.decoder_pos_embed.copy_(torch.from_numpy(vit.position_table(32, 6, 6)))
    return network


@pytest.fixture(scope="module")
def state(hugging_face):
    return {name: weight.numpy() for name, weight in hugging_face.state_dict().items()}


def published(state):
    """Hugging Face's weights under the names of the MAE release, written out once more: a truth for the converter."""
    names = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "vit.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "vit.layernorm.weight": "norm.weight",
        "vit.layernorm.bias": "norm.bias",
        "decoder.mask_token": "mask_token",
    }
    for name in ("pos_embed", *(f"{m}.{leaf}" for m in ("embed", "norm", "pred") for leaf in ("weight", "bias"))):
        names[f"decoder.decoder_{name}"] = f"decoder_{name}"
    released = {theirs: state[ours] for ours, theirs in names.items() if ours in state}
    for there, here in (("vit.layers", "blocks"), ("decoder.decoder_layers", "decoder_blocks")):
        for i in range(sum(name.startswith(there) and name.endswith("mlp.fc1.weight") for name in state)):
            for leaf in ("weight", "bias"):
                for old, new in (
                    ("layernorm_before", "norm1"), ("attention.o_proj", "attn.proj"),
                    ("layernorm_after", "norm2"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
                ):  # fmt: skip
                    released[f"{here}.{i}.{new}.{leaf}"] = state[f"{there}.{i}.{old}.{leaf}"]
                qkv = [state[f"{there}.{i}.attention.{part}_proj.{leaf}"] for part in "qkv"]
                released[f"{here}.{i}.attn.qkv.{leaf}"] = np.concatenate(qkv)
    return released


def older(state):
    """The names that the published files of Hugging Face have."""
    renamed = {}
    for name, value in state.items():
        name = name.replace("vit.layers.", "vit.encoder.layer.").replace("mlp.fc1", "intermediate.dense")
        name = name.replace("mlp.fc2", "output.dense").replace("attention.o_proj", "attention.output.dense")
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
            name = name.replace(f"attention.{letter}_proj", f"attention.attention.{word}")
        renamed[name] = value
    return renamed


def encoder_only(state):
    return {name: value for name, value in state.items() if not name.startswith(("decoder", "mask_token"))}


def bare(state):
    return {name.removeprefix("vit."): value for name, value in encoder_only(state).items()}


def assert_same(a, b):
    """Trees of arrays, bit for bit."""
    a, b = (traverse_util.flatten_dict(tree, sep=".") for tree in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)


@pytest.mark.parametrize(
    ("renamed", "dialect"),
    [(published, "mae"), (older, "huggingface"), (lambda s: encoder_only(published(s)), "timm"),
     (encoder_only, "huggingface"), (bare, "huggingface"), (lambda s: bare(older(s)), "huggingface")],
)  # fmt: skip
def test_names_of_all_dialects_give_the_same_model(state, renamed, dialect):
    expected = from_torch(state).model.params
    converted = from_torch(renamed(state))
    assert converted.dialect == dialect
    whole = renamed in (published, older)
    assert_same(converted.model.params, expected if whole else {"encoder": expected["encoder"]})
    assert (converted.taken.keys(), converted.left) == (renamed(state).keys(), {})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_the_library_writes_today(hugging_face, state, tmp_path, suffix):
    """Which have names of their own."""
    for network, whole in ((hugging_face, True), (hugging_face.vit, False)):
        if suffix == ".safetensors":
            network.save_pretrained(tmp_path)
            path = tmp_path / "model.safetensors"
        else:
            torch.save(network.state_dict(), path := tmp_path / "pytorch_model.pth")
        converted = from_torch(read_checkpoint(path))
        expected = from_torch(state if whole else encoder_only(state))
        assert_same(converted.model.params, expected.model.params)


def test_what_was_taken_and_left(state):
    converted = from_torch(published(state) | {"head.weight": np.zeros((10, 48)), "head.bias": np.zeros(10)})
    assert converted.left.keys() == {"head.weight", "head.bias"}
    assert converted.taken["blocks.3.attn.qkv.weight"] == "encoder.blocks_3.attention.qkv.kernel"
    assert converted.taken["pos_embed"] == "the fixed sin-cos code, computed anew for 6x6 patches"
    backbone, decoder = converted.model.architecture.backbone, converted.model.architecture.decoder
    assert (backbone.encoder, backbone.positions) == ("XXS/16", "sincos")
    assert (decoder.width, decoder.depth, decoder.heads) == (32, 2, 1)
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def model(small_architecture, random_params) -> Model:
    """Encoder and decoder."""
    decoder = dataclasses.replace(small_architecture.decoder, heads=1, depth=2)
    architecture = dataclasses.replace(small_architecture, decoder=decoder)
    images, noise = np.zeros((1, 96, 96, 3), np.float32), np.zeros((1, 144), np.float32)
    return Model(architecture=architecture, params=random_params(architecture.build_mae(), images, noise))


@pytest.fixture(scope="module")
def learned(model, random_params) -> Model:
    backbone = dataclasses.replace(model.architecture.backbone, positions="learned")
    architecture = dataclasses.replace(model.architecture, backbone=backbone)
    encoder = random_params(architecture.backbone.build(), np.zeros((1, 96, 96, 3), np.float32))
    return Model(architecture=architecture, params={**model.params, "encoder": encoder})


@pytest.mark.parametrize("dialect", ["mae", "timm", "huggingface"])
@pytest.mark.parametrize("which", ["model", "learned"])
def test_there_and_back_bit_for_bit(request, dialect, which):
    source = request.getfixturevalue(which)
    converted = from_torch(to_torch(source, dialect))
    assert converted.dialect == dialect
    parts = ("encoder",) if dialect == "timm" else ("encoder", "decoder")
    assert_same(converted.model.params, {part: source.params[part] for part in parts})
    there, here = converted.model.architecture.backbone, source.architecture.backbone
    assert (there.encoder, there.positions) == (here.encoder, here.positions)


def test_the_networks_of_the_library_load_what_is_written(model):
    network = ViTMAEForPreTraining(ViTMAEConfig(**SMALL | {"patch_size": 8}, **DECODER))
    written = {name: torch.tensor(value) for name, value in to_torch(model, "huggingface").items()}
    network.load_state_dict(written, strict=True)


def test_position_tables_are_written_for_the_images_asked_for(model):
    state = to_torch(model, "mae", image_size=224)
    assert state["pos_embed"].shape == (1, 1 + 28 * 28, 48)
    patch = vit.sincos_position_code(48, 28, 28)[28 * 3 + 2]
    np.testing.assert_array_equal(state["pos_embed"][0, 1 + 28 * 3 + 2], patch)
    assert state["decoder_pos_embed"].shape == (1, 1 + 28 * 28, 32)
    assert_same(from_torch(state).model.params, model.params)


def test_a_vit_with_a_learned_table():
    """The same features of raw images, so with ImageNet's normalisation, and with a position code for CLS.

    The network is Hugging Face's ViT, as it is and under timm's names.
    """
    tiny = SMALL | {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    network = randomised(ViTForImageClassification(ViTConfig(**tiny)))
    state = {name: weight.numpy() for name, weight in network.state_dict().items()}
    in_timm = published(state) | {"head.weight": np.zeros((2, 192)), "head.bias": np.zeros(2)}
    images = np.random.default_rng(0).integers(0, 256, (2, 136, 136, 3)).astype(np.uint8)
    window = (images[:, 20:116, 20:116] / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        tokens = network.vit(torch.from_numpy(window.transpose(0, 3, 1, 2)).float()).last_hidden_state
    expected = tokens[:, 1:].numpy().reshape(2, 6, 6, 192)
    for renamed in (state, in_timm):
        converted = from_torch(renamed, encoder="T/16")
        assert converted.model.architecture.backbone.positions == "learned"
        assert len(converted.left) == 2
        features = converted.model.features(images, stride=16, which="backbone")
        np.testing.assert_allclose(features, expected, atol=1e-4)


def keys_cubic(size_in, size_out):
    """Weights of Keys' cubic convolution (a = -1/2), widened where it shrinks, in float64."""

    def kernel(x):
        x = np.abs(x)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    centres = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    weights = kernel((centres[:, None] - np.arange(size_in)) / max(1, size_in / size_out))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("side", [6, 12, 14])
def test_learned_tables_are_resampled_bicubically(side):
    table = np.random.default_rng(0).normal(size=(1, 1 + 14 * 14, 8)).astype(np.float32)
    resampled = resample_positions(table, side)
    weights = keys_cubic(14, side)
    expected = np.einsum("yi,xj,ijd->yxd", weights, weights, table[0, 1:].reshape(14, 14, 8).astype(np.float64))
    np.testing.assert_array_equal(resampled[:, 0], table[:, 0])
    np.testing.assert_allclose(resampled[0, 1:].reshape(side, side, 8), expected, atol=1e-5)


def with_table(state, table):
    return state | {"vit.embeddings.position_embeddings": table}


def test_what_counts_as_the_sincos_code(state):
    """Of the checkpoint's own grid, whatever ours."""
    name, table = "vit.embeddings.position_embeddings", vit.position_table(48, 14, 14)
    swapped = np.concatenate([table[..., 24:], table[..., :24]], axis=-1)  # y before x: another code
    for changed, options, positions in (
        (table, {}, "sincos"), (table + 5e-5, {}, "sincos"), (table + 5e-4, {}, "learned"), (swapped, {}, "learned"),
        (table, {"positions": "resample"}, "learned"),
    ):  # fmt: skip
        converted = from_torch(state | {name: changed}, **options)
        assert converted.model.architecture.backbone.positions == positions
        code = converted.model.params["encoder"].get("position_code")
        assert (code is None) == (positions == "sincos")
        if code is not None:
            np.testing.assert_array_equal(code, resample_positions(changed, 6), strict=True)
            assert converted.taken[name] == "a learned table, resampled bicubically for 6x6 patches"


def test_a_decoder_with_another_position_code_is_left_out_and_listed(state):
    table = state["decoder.decoder_pos_embed"][..., ::-1]
    converted = from_torch(state | {"decoder.decoder_pos_embed": table})
    assert converted.model.params.keys() == {"encoder"}
    assert converted.left.keys() == {name for name in state if name.startswith("decoder.")}
    assert "its position table is not the sin-cos code" in converted.left["decoder.mask_token"]


def resize(patches, size):
    """Bilinear, by PyTorch."""
    resized = torch.nn.functional.interpolate(torch.from_numpy(patches), size=(size, size), mode="bilinear")
    return resized.numpy()


@pytest.mark.parametrize(("old", "new"), [(8, 16), (8, 12), (16, 24)])
def test_inner_products_with_larger_patches_are_those_before(old, new):
    """FlexiViT, section 3.4: <w', resize(x)> = <w, x>."""
    rng = np.random.default_rng(0)
    kernel, patches = rng.normal(size=(5, 3, old, old)), rng.normal(size=(7, 3, old, old))
    resampled = resample_patches(kernel.astype(np.float32), new)
    expected = np.einsum("dcyx,bcyx->bd", kernel, patches)
    np.testing.assert_allclose(np.einsum("dcyx,bcyx->bd", resampled, resize(patches, new)), expected, atol=1e-4)


def test_smaller_patches_have_the_nearest_weights():
    """Least squares over patches of white noise, of the whole matrix that resizes them."""
    kernel = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    matrix = resize(np.eye(256).reshape(256, 1, 16, 16), 8).reshape(256, 64)  # [old pixel, new pixel]
    expected = np.linalg.lstsq(matrix, kernel.reshape(6, 256).T, rcond=None)[0].T.reshape(2, 3, 8, 8)
    np.testing.assert_allclose(resample_patches(kernel.astype(np.float32), 8), expected, atol=1e-5)


def test_another_patch_size(state):
    converted = from_torch(state, encoder="XXS/8", patch_size=8)
    assert converted.model.architecture.backbone.encoder == "XXS/8"
    kernel = np.asarray(converted.model.params["encoder"]["patch_projection"]["kernel"])
    convolution = resample_patches(state["vit.embeddings.patch_embeddings.projection.weight"], 8)
    np.testing.assert_array_equal(kernel.reshape(8, 8, 3, 48)[1, 2, 0], convolution[:, 0, 1, 2])
    same = converted.model.params["encoder"]["blocks_3"]
    assert_same(same, from_torch(state).model.params["encoder"]["blocks_3"])
    assert "decoder" not in converted.model.params
    assert converted.left.keys() == {name for name in state if name.startswith("decoder.")}
    assert "its pixel layer is for patches of 16 pixels, not 8" in converted.left["decoder.mask_token"]
    note = converted.taken["vit.embeddings.patch_embeddings.projection.weight"]
    assert note.endswith("resampled from patches of 16 pixels to 8")


@pytest.fixture
def experiment(tmp_path, monkeypatch, random_params):
    """`experiment(model, field=value)`: one that starts from the model, with fields of `config.model`."""

    def drawn(architecture, _):
        """Random, without the time it takes to compile."""
        patches = (96 // architecture.backbone.variant.patch_size) ** 2
        images, noise = np.zeros((1, 96, 96, 3), np.float32), np.zeros((1, patches), np.float32)
        return random_params(architecture.build_mae(), images, noise)

    monkeypatch.setattr(stages.pretrain, "initial_params", drawn)

    def start(model, **fields):
        save_model(model, tmp_path / "init.msgpack")
        config = settings.default()
        sizes = {"encoder": "XXS/16", "decoder_width": 32, "decoder_depth": 2, "decoder_heads": 1}
        config.model.update(sizes | fields)
        config.init = str(tmp_path / "init.msgpack")
        return stages.SYSTEM.open(config, tmp_path / "run")

    return start


def test_stage_1_starts_from_a_converted_model(experiment, state):
    model = from_torch(state).model
    assert_same(experiment(model).initial_params(), model.params)
    finer = from_torch(state, patch_size=8, positions="resample").model
    params = experiment(finer, encoder="XXS/8", positions="learned", decoder_depth=1).initial_params()
    assert "decoder" not in finer.params  # a random one
    assert_same(params["encoder"], finer.params["encoder"])
    assert params["decoder"]["pixels"]["kernel"].shape == (32, 192)


def test_stage_1_refuses_other_position_codes(experiment, state):
    model = from_torch(state).model
    with pytest.raises(
        ValueError, match=r"init\.msgpack has positions 'sincos', config\.model\.positions is 'learned'"
    ):
        experiment(model, positions="learned").initial  # noqa: B018
    other = from_torch(state, positions="resample").model
    with pytest.raises(ValueError, match=r"has positions 'learned', .* is 'sincos': make them agree"):
        experiment(other).initial  # noqa: B018


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: without(s, "norm.bias", "blocks.2.mlp.fc1.bias"), {},
         r"it lacks blocks\.2\.mlp\.fc1\.bias, norm\.bias: take the weights of a plain"),
        (lambda s: without(s, "mask_token"), {}, "lacks mask_token"),
        (lambda s: without(s, "decoder_embed.weight"), {}, r"lacks decoder_embed\.weight: take"),
        (lambda s: without(s, "decoder_pos_embed"), {}, "lacks decoder_pos_embed"),
        (lambda s: s | {"blocks.0.ls1.gamma": np.zeros(48)}, {},
         r"it has blocks\.0\.ls1\.gamma, which an encoder 'XXS/16' of ours does not have"),
        (lambda s: s | {"dist_token": np.zeros((1, 1, 48))}, {}, "does not fit: it has dist_token, which"),
        (lambda s: s | {"blocks.1.mlp.fc1.weight": np.zeros((96, 48))}, {},
         r"blocks\.1\.mlp\.fc1\.weight has shape \[96, 48\], and an encoder 'XXS/16' needs \[192, 48\]"),
        (lambda s: without(s, "patch_embed.proj.weight"), {}, "and the checkpoint has neither, but .* and .. more"),
        (lambda s: {}, {}, "has neither, but nothing"),
        (lambda s: s | {"patch_embed.proj.weight": np.zeros((48, 1, 16, 16))}, {}, r"\[48, 1, 16, 16\]: \[width, 3,"),
        (lambda s: s | {"blocks.4.norm1.bias": np.zeros(48)}, {},
         r"width 48 and depth 5; those known, .*XXS \(48, 4\)"),
        (lambda s: s | {"pos_embed": np.zeros((1, 36, 48))}, {},
         r"pos_embed has shape \[1, 36, 48\], .* \[1, 26, 48\]"),
        (lambda s: s | {"pos_embed": np.zeros(1)}, {}, r"pos_embed has shape \[1\]"),
        (lambda s: s, {"encoder": "S/8"}, "encoder 'S/8' was asked for, and this is 'XXS/16': ask for that"),
        (lambda s: s, {"encoder": "XXS/16", "patch_size": 8}, "and this is 'XXS/8'"),
        (lambda s: s, {"patch_size": 14}, "96x96 window does not divide into patches of 14: give patch_size"),
        (lambda s: s, {"patch_size": 0}, "unknown encoder 'XXS/0'"),
        (lambda s: s, {"decoder_heads": -1}, "decoder_heads is -1"),
        (lambda s: s, {"decoder_heads": 5}, "decoder_heads is 5, .* its decoder has width 32: give a divisor"),
        (lambda s: s | {"decoder_embed.weight": np.zeros((48, 48))}, {}, "decoder_heads is None, .* has width 48"),
    ],
)  # fmt: skip
def test_checkpoints_that_do_not_fit(state, change, options, message):
    with pytest.raises(ValueError, match=message):
        from_torch(change(published(state)), **options)


def test_missing_tensors_are_named_as_the_library_names_them(state):
    with pytest.raises(ValueError, match=r"one of huggingface, .* lacks vit\.layers\.1\.attention\.k_proj\.bias"):
        from_torch(without(state, "vit.layers.1.attention.k_proj.bias"))


def test_models_that_cannot_be_written(model, learned, tmp_path):
    with pytest.raises(ValueError, match="dialect is 'keras': choose one of mae, timm, huggingface"):
        to_torch(model, "keras")
    with pytest.raises(ValueError, match="image_size is 100: choose a multiple of the patch size 8"):
        to_torch(model, "mae", image_size=100)
    with pytest.raises(ValueError, match="image_size is 224, and the model's learned position table is for 96"):
        to_torch(learned, "mae", image_size=224)
    with pytest.raises(ValueError, match=r"weights\.bin': let its name end in \.safetensors or \.pth"):
        write_checkpoint({}, tmp_path / "weights.bin", "mae")


def test_half_precision_and_training_checkpoints(state, tmp_path):
    """float16 and bfloat16 fit into float32; MAE's training script saves its arguments beside the weights."""
    tensors = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in published(state).items()}
    tensors["norm.bias"] = torch.from_numpy(state["vit.layernorm.bias"]).to(torch.float16)
    save_tensors(tensors, tmp_path / "small.safetensors")
    torch.save({"model": tensors, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "small.pth")
    torch.save({"state_dict": tensors}, tmp_path / "other.pt")
    for file in ("small.safetensors", "small.pth", "other.pt"):
        assert_same(read_checkpoint(tmp_path / file), {name: value.float().numpy() for name, value in tensors.items()})


def test_files_that_are_no_checkpoints(tmp_path):
    path, eighth = tmp_path / "weights.pth", tmp_path / "eighth.safetensors"
    for content, message in (
        ({"model": fractions.Fraction(1, 2)}, "is not a checkpoint of weights alone .*network.state_dict"),
        ([1, 2], r"holds \[1, 2\], and tensors by name are needed"),
        ({"epoch": 3, "w": torch.zeros(3)}, r"holds \{'epoch'\}, and tensors by name"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            read_checkpoint(path)
    for content in (b"", b"hello", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint of weights alone"):
            read_checkpoint(path)
        path.with_suffix(".safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="is not a safetensors file"):
            read_checkpoint(path.with_suffix(".safetensors"))
    save_tensors({"norm.bias": torch.zeros(3), "norm.weight": torch.zeros(3, dtype=torch.float8_e4m3fn)}, eighth)
    with pytest.raises(ValueError, match=r"of float32, float16 or bfloat16: norm\.weight is not"):
        read_checkpoint(eighth)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file 'nowhere\.pth'"):
        read_checkpoint("nowhere.pth")


def test_without_pytorch(state, tmp_path, monkeypatch):
    torch.save(published(state), tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"a\.pth needs PyTorch: pip install torch, or use a \.safetensors file"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(ImportError, match="needs PyTorch"):
        write_checkpoint(state, tmp_path / "b.pth", "mae")
    write_checkpoint(state, tmp_path / "b.safetensors", "mae")
    assert_same(read_checkpoint(tmp_path / "b.safetensors"), state)


@pytest.fixture
def command(monkeypatch, capsys):
    """`command(flag=value)`: what the command prints, and its exit status, without another process."""

    def call(**given):
        names = ("checkpoint", "model", "output", "encoder", "patch_size", "decoder_heads", "to", "image_size")
        values = dict.fromkeys(names) | {"positions": "auto"} | given
        for name, value in values.items():
            flag = SimpleNamespace(name=name, value=value, present=name in given)
            monkeypatch.setattr(program, name.upper(), flag)
        status = 0
        try:
            program.main()
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize(("dialect", "suffix"), [("mae", ".safetensors"), ("mae", ".pth"), ("timm", ".safetensors"),
                                                 ("huggingface", ".pth")])  # fmt: skip
def test_the_command_there_and_back(command, learned, random_params, tmp_path, dialect, suffix):
    carb = random_params(learned.architecture.build_carb(), np.zeros((1, 96, 96, 3)), method="features")
    head = Head(network=LandmarkHead(5, 2, 1, 2.0), params={}, reads=Reads(8, "both"))
    whole = dataclasses.replace(learned, params={**learned.params, "projector": carb["projector"]}).with_head(head)
    save_model(whole, tmp_path / "ours.msgpack")
    there, back = str(tmp_path / f"theirs{suffix}"), str(tmp_path / "back.msgpack")

    status, out, _ = command(model=str(tmp_path / "ours.msgpack"), to=dialect, output=there)
    assert status == 0
    left = "decoder, projector" if dialect == "timm" else "projector"
    assert f"left out, as {dialect} has no place for it: {left}, head 5\n" in out

    status, out, _ = command(checkpoint=there, output=back)
    assert status == 0
    assert "--config.model.encoder=XXS/8 --config.model.positions=learned" in out
    assert "missing: decoder\n" in out if dialect == "timm" else "missing: nothing\n" in out
    result = load(back)
    assert_same(result.params, {part: learned.params[part] for part in result.params})
    assert result.params.keys() == ({"encoder"} if dialect == "timm" else {"encoder", "decoder"})
    assert result.provenance["checkpoint"] == f"theirs{suffix}"
    assert {file.name for file in tmp_path.iterdir()} == {"ours.msgpack", f"theirs{suffix}", "back.msgpack"}


def test_blocks_share_a_line_of_the_list(command, state, tmp_path):
    save_file(published(state) | {"head.bias": np.zeros(10, np.float32)}, tmp_path / "a.safetensors")
    _, out, _ = command(checkpoint=str(tmp_path / "a.safetensors"), output=str(tmp_path / "b.msgpack"))
    assert "\n  blocks.*.attn.qkv.weight  4 x [144, 48]  encoder.blocks_*.attention.qkv.kernel\n" in out
    assert "\nleft: 1 tensors, 10 numbers\n  head.bias  [10]  of a classifier, which is not needed\n" in out
    assert len(out.splitlines()) < 50


CHECKPOINT = {"checkpoint": "a.safetensors", "output": "out.msgpack"}
MODEL = {"model": "xs8_ytf68", "to": "mae", "output": "out.safetensors"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output": "out"}, "give --checkpoint FILE"),
        (CHECKPOINT | {"model": "b"}, "give --checkpoint FILE"),
        (CHECKPOINT | {"to": "mae"}, "give --checkpoint FILE"),
        ({"model": "xs8_ytf68", "output": "out"}, "give --checkpoint FILE"),
        (CHECKPOINT | {"checkpoint": "b.pth"}, "no checkpoint file 'b.pth'"),
        (MODEL | {"model": "nobody"}, "no model file 'nobody'"),
        (MODEL | {"encoder": "XS/8", "decoder_heads": 2}, "--encoder, --decoder_heads: of no effect without --checkp"),
        (MODEL | {"positions": "auto"}, "--positions: of no effect without --checkpoint, leave out"),
        (CHECKPOINT | {"image_size": 224}, "--image_size: of no effect without --model, leave out"),
        (CHECKPOINT | {"output": "out"}, "output is 'out', and a model file is to be written: let its name end in"),
        (MODEL | {"output": "out.msgpack"}, "output is 'out.msgpack': let its name end in .safetensors or .pth"),
    ],
)
def test_mistakes_on_the_command_line(command, state, tmp_path, monkeypatch, flags, message):
    """Each alone in a command that would work otherwise, and of which nothing is left."""
    monkeypatch.chdir(tmp_path)
    save_file(state, "a.safetensors")
    status, _, err = command(**flags)
    assert status == 1
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
