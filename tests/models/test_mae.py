import dataclasses

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from scemae_jax.models import mae, vit


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    image: int = 96


SHALLOW_T = Sizes(width=192, depth=2, heads=3, decoder_width=64, decoder_depth=2, decoder_heads=4, image=48)
XS = Sizes(width=96, depth=6, heads=3, decoder_width=128, decoder_depth=4, decoder_heads=4)


def position_code(width, side):
    """Hugging Face's code in the order of the published weights: the half for x first, zeros for CLS."""
    code = build_2d_sinusoidal_position_embedding(side, side, width, cls_token=True)
    return torch.cat([code[:, width // 2 :], code[:, : width // 2]], dim=1)


def reference(sizes, normalise):
    """Hugging Face's MAE with random weights, biases and scales included, so that none can be left out unseen."""
    network = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=sizes.image,
            patch_size=8,
            hidden_size=sizes.width,
            num_hidden_layers=sizes.depth,
            num_attention_heads=sizes.heads,
            intermediate_size=4 * sizes.width,
            decoder_hidden_size=sizes.decoder_width,
            decoder_num_hidden_layers=sizes.decoder_depth,
            decoder_num_attention_heads=sizes.decoder_heads,
            decoder_intermediate_size=4 * sizes.decoder_width,
            layer_norm_eps=1e-6,
            norm_pix_loss=normalise,
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            spread = 0.1 if weight.ndim < 2 else 1 / np.sqrt(weight[0].numel())
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(offset + spread * torch.randn(weight.shape, generator=generator))
        side = sizes.image // 8
        network.vit.embeddings.position_embeddings.copy_(position_code(sizes.width, side))
        network.decoder.decoder_pos_embed.copy_(position_code(sizes.decoder_width, side))
    return network


def ours(network):
    """The parameters of our `MaskedAutoencoder` that equal those of Hugging Face's."""
    weights = {name: weight.numpy() for name, weight in network.state_dict().items()}

    def linear(*names):
        return {
            "kernel": np.concatenate([weights[f"{name}.weight"] for name in names]).T,
            "bias": np.concatenate([weights[f"{name}.bias"] for name in names]),
        }

    def norm(name):
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def block(name):
        return {
            "norm_attention": norm(f"{name}.layernorm_before"),
            "attention": {
                "qkv": linear(*(f"{name}.attention.{part}_proj" for part in "qkv")),
                "out": linear(f"{name}.attention.o_proj"),
            },
            "norm_mlp": norm(f"{name}.layernorm_after"),
            "mlp_in": linear(f"{name}.mlp.fc1"),
            "mlp_out": linear(f"{name}.mlp.fc2"),
        }

    convolution = weights["vit.embeddings.patch_embeddings.projection.weight"]  # [d, channel, row, column]
    encoder = {
        "patch_projection": {
            "kernel": convolution.transpose(2, 3, 1, 0).reshape(-1, len(convolution)),
            "bias": weights["vit.embeddings.patch_embeddings.projection.bias"],
        },
        "cls_token": weights["vit.embeddings.cls_token"],
        "norm": norm("vit.layernorm"),
        **{f"blocks_{i}": block(f"vit.layers.{i}") for i in range(len(network.vit.layers))},
    }
    decoder = {
        "embed": linear("decoder.decoder_embed"),
        "mask_token": weights["decoder.mask_token"],
        "norm": norm("decoder.decoder_norm"),
        "pixels": linear("decoder.decoder_pred"),
        **{f"blocks_{i}": block(f"decoder.decoder_layers.{i}") for i in range(len(network.decoder.decoder_layers))},
    }
    return {"encoder": encoder, "decoder": decoder}


def build(sizes, normalise=True):
    encoder = vit.ViT(sizes.width, sizes.depth, sizes.heads, 8)
    return mae.MaskedAutoencoder(
        encoder, sizes.decoder_width, sizes.decoder_depth, sizes.decoder_heads, normalise_target=normalise
    )


@pytest.mark.parametrize(("sizes", "normalise"), [(SHALLOW_T, True), (SHALLOW_T, False), (XS, True)])
def test_equals_hugging_face(sizes, normalise):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, sizes.image, sizes.image, 3)).astype(np.float32)
    noise = rng.random((2, (sizes.image // 8) ** 2)).astype(np.float32)
    network = reference(sizes, normalise)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2)), noise=torch.from_numpy(noise))
    output = jax.jit(build(sizes, normalise).apply)({"params": ours(network)}, images, noise)
    np.testing.assert_array_equal(output.mask, expected.mask.numpy())
    np.testing.assert_allclose(output.reconstruction, expected.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(output.loss, expected.loss.item(), atol=1e-4)


def test_parameters_are_those_of_hugging_face():
    """The mapping above leaves no parameter of ours out, nor invents one."""
    images, noise = np.zeros((1, 48, 48, 3), np.float32), np.zeros((1, 36), np.float32)
    shapes = jax.eval_shape(build(SHALLOW_T).init, jax.random.key(0), images, noise)["params"]
    mapped = ours(reference(SHALLOW_T, normalise=True))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, mapped)


@pytest.mark.parametrize(("width", "side"), [(48, 12), (512, 12), (192, 6)])
def test_position_code_equals_hugging_face(width, side):
    code = vit.sincos_position_code(width, side, side)
    np.testing.assert_allclose(code, position_code(width, side)[1:].numpy(), atol=1e-6)


def test_position_code_of_a_wide_grid():
    """Rows and columns told apart: on a 2x5 grid, patch 7 lies at x = 2, y = 1."""
    code = vit.sincos_position_code(8, 2, 5)[7]
    angles = np.array([1.0, 0.01])
    expected = [*np.sin(2 * angles), *np.cos(2 * angles), *np.sin(angles), *np.cos(angles)]
    np.testing.assert_allclose(code, expected, atol=1e-6)


noises = st.sampled_from([(1, 2), (2, 9), (2, 16)]).flatmap(
    # few values, so that ties are common
    lambda shape: arrays.arrays(np.float32, shape, elements=st.sampled_from(np.linspace(0, 1, 12, dtype=np.float32)))
)


@given(noises, st.floats(0.05, 0.95))
def test_masking(noise, ratio):
    keep, restore, mask = (np.asarray(part) for part in mae.mask_by_noise(noise, ratio))
    b, n = noise.shape
    num_kept = int(n * (1 - ratio))
    assert keep.shape == (b, num_kept)
    for row in range(b):
        hidden = np.flatnonzero(mask[row])
        assert set(keep[row]) | set(hidden) == set(range(n))
        assert len(hidden) == n - num_kept
        np.testing.assert_array_equal(keep[row], np.argsort(noise[row], kind="stable")[:num_kept])
        np.testing.assert_array_equal(restore[row][keep[row]], np.arange(num_kept))
        np.testing.assert_array_equal(np.sort(restore[row]), np.arange(n))


def test_kept_tokens_of_the_paper():
    masking = mae.mask_by_noise(np.random.default_rng(0).random((2, 144)), 0.75)
    assert masking.keep.shape == (2, 36)
    np.testing.assert_array_equal(masking.mask.sum(axis=1), 108)


def test_target_statistics():
    patches = np.random.default_rng(0).normal(3, 2, (2, 4, 192)).astype(np.float32)
    patches[0, 0] = 0.5  # a flat patch: the epsilon alone
    mean, deviation = mae.target_statistics(patches)
    exact = patches.astype(np.float64)
    expected = np.sqrt(((exact - exact.mean(-1, keepdims=True)) ** 2).sum(-1, keepdims=True) / 191 + 1e-6)
    np.testing.assert_allclose(mean, exact.mean(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(deviation, expected, rtol=1e-5)


@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 8]), st.integers(1, 3))
def test_patches_are_cut_by_rows_and_put_back(b, rows, columns, patch_size, channels):
    shape = (b, rows * patch_size, columns * patch_size, channels)
    images = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    patches = np.asarray(vit.patchify(images, patch_size))
    for row in range(rows):
        for column in range(columns):
            y, x = row * patch_size, column * patch_size
            expected = images[:, y : y + patch_size, x : x + patch_size].reshape(b, -1)
            np.testing.assert_array_equal(patches[:, row * columns + column], expected)
    np.testing.assert_array_equal(vit.unpatchify(patches, patch_size, rows), images)


def test_errors():
    network, images = build(SHALLOW_T), np.zeros((2, 48, 48, 3), np.float32)
    with pytest.raises(ValueError, match=r"noise of shape \(2, 35\) given for patches of shape \(2, 36\)"):
        jax.eval_shape(network.init, jax.random.key(0), images, np.zeros((2, 35), np.float32))
    with pytest.raises(ValueError, match=r"mask ratio of 0\.99 of 36 patches"):
        jax.eval_shape(network.clone(mask_ratio=0.99).init, jax.random.key(0), images, np.zeros((2, 36), np.float32))
    with pytest.raises(ValueError, match=r"mask ratio of 0\.0"):
        jax.eval_shape(network.clone(mask_ratio=0.0).init, jax.random.key(0), images, np.zeros((2, 36), np.float32))
    with pytest.raises(ValueError, match="50x48 pixels does not divide into patches of 8x8"):
        vit.patchify(np.zeros((1, 50, 48, 3)), 8)
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        vit.sincos_position_code(6, 2, 2)
