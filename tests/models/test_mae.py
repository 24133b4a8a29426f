import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
from flax import traverse_util
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.initialization import no_init_weights
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from scemae_jax.convert import from_torch, to_torch
from scemae_jax.models import mae, vit


def position_code(width, side):
    """Hugging Face's code in the order of the published weights: the half for x first, zeros for CLS."""
    code = build_2d_sinusoidal_position_embedding(side, side, width, cls_token=True)
    return torch.cat([code[:, width // 2 :], code[:, : width // 2]], dim=1)


def reference(encoder, image, decoder, normalise=True):
    """Hugging Face's MAE with random weights, biases and scales included, so that none can be left out unseen."""
    v, (decoder_width, decoder_depth, decoder_heads) = vit.variant(encoder), decoder
    with no_init_weights():
        network = ViTMAEForPreTraining(
            ViTMAEConfig(
                image_size=image,
                patch_size=v.patch_size,
                hidden_size=v.width,
                num_hidden_layers=v.depth,
                num_attention_heads=v.num_heads,
                intermediate_size=4 * v.width,
                decoder_hidden_size=decoder_width,
                decoder_num_hidden_layers=decoder_depth,
                decoder_num_attention_heads=decoder_heads,
                decoder_intermediate_size=4 * decoder_width,
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
        side = image // v.patch_size
        network.vit.embeddings.position_embeddings.copy_(position_code(v.width, side))
        network.decoder.decoder_pos_embed.copy_(position_code(decoder_width, side))
    return network


SMALL = ("XXS/8", 48, (64, 2, 4))
PAPER = ("T/8", 96, (512, 8, 16))
IMAGENET = ("B/16", 224, (512, 8, 16))


@functools.cache
def pair(encoder, image, decoder, normalise=True):
    """Hugging Face's network, and ours with the same weights."""
    network = reference(encoder, image, decoder, normalise)
    model = from_torch(network.state_dict(), encoder=encoder, decoder_heads=decoder[2]).model
    changed = dataclasses.replace(model.architecture.decoder, normalise_target=normalise)
    return network, dataclasses.replace(model, architecture=dataclasses.replace(model.architecture, decoder=changed))


def batch(encoder, image, size):
    rng, patches = np.random.default_rng(1), (image // vit.variant(encoder).patch_size) ** 2
    return rng.normal(size=(size, image, image, 3)).astype(np.float32), rng.random((size, patches)).astype(np.float32)


def torch_inputs(images, noise):
    return {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2)), "noise": torch.from_numpy(noise)}


LARGE = pytest.mark.slow


@pytest.mark.parametrize(
    ("sizes", "normalise", "size"),
    [
        (SMALL, True, 2),
        (SMALL, False, 2),
        pytest.param(PAPER, True, 2, marks=LARGE),
        pytest.param(IMAGENET, True, 1, marks=LARGE),
    ],
)
def test_equals_hugging_face(sizes, normalise, size):
    network, model = pair(*sizes, normalise)
    images, noise = batch(*sizes[:2], size)
    with torch.no_grad():
        expected = network(**torch_inputs(images, noise))
        encoded = network.vit(**torch_inputs(images, noise)).last_hidden_state

    @jax.jit
    def ours(params, images, noise):
        keep = mae.mask_by_noise(noise, 0.75).keep
        tokens = model.architecture.backbone.build().apply({"params": params["encoder"]}, images, keep)
        return tokens, model.architecture.build_mae().apply({"params": params}, images, noise)

    tokens, output = ours(model.params, images, noise)
    np.testing.assert_array_equal(output.mask, expected.mask.numpy())
    np.testing.assert_allclose(tokens, encoded.numpy(), atol=1e-4)
    np.testing.assert_allclose(output.reconstruction, expected.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(output.loss, expected.loss.item(), atol=1e-4)


@pytest.mark.parametrize("sizes", [SMALL, pytest.param(PAPER, marks=LARGE)])
def test_gradients_equal_hugging_face(sizes):
    """Of the loss, by all parameters; those of PyTorch are brought to our names and layout as weights are."""
    network, model = pair(*sizes)
    images, noise = batch(*sizes[:2], 2)
    network.zero_grad()
    network(**torch_inputs(images, noise)).loss.backward()
    gradients = {name: w.detach() if w.grad is None else w.grad for name, w in network.named_parameters()}
    fixed = {name for name, weight in network.named_parameters() if weight.grad is None}
    assert fixed == {"vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"}
    expected = traverse_util.flatten_dict(from_torch(gradients).model.params, sep=".")

    def loss(params):
        return model.architecture.build_mae().apply({"params": params}, images, noise).loss

    ours = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(model.params), sep=".")
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        error = np.linalg.norm(np.ravel(ours[name] - gradient)) / np.linalg.norm(np.ravel(gradient))
        assert error < 1e-3, f"{name}: {error}"


@pytest.mark.parametrize("sizes", [SMALL, *(pytest.param(sizes, marks=LARGE) for sizes in (PAPER, IMAGENET))])
def test_weights_come_back_bit_for_bit(sizes):
    network, model = pair(*sizes)
    back, there = to_torch(model, "huggingface", image_size=sizes[1]), network.state_dict()
    assert back.keys() == there.keys()
    for name, weight in there.items():
        if name in ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"):  # computed anew
            np.testing.assert_allclose(back[name], weight.numpy(), atol=1e-6)
        else:
            np.testing.assert_array_equal(back[name], weight.numpy())


def test_parameters_are_those_of_hugging_face():
    """The conversion leaves no parameter of ours out, nor invents one."""
    _, model = pair(*SMALL)
    images, noise = np.zeros((1, 48, 48, 3), np.float32), np.zeros((1, 36), np.float32)
    shapes = jax.eval_shape(model.architecture.build_mae().init, jax.random.key(0), images, noise)["params"]
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, model.params)


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


@pytest.mark.slow
def test_layers_run_in_a_loop_or_again_are_the_same(random_params):
    """Loss and gradients, from the same weights by the same names."""
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
    noise = np.random.default_rng(1).uniform(size=(2, 16))

    def network(layer_loop):
        encoder = vit.ViT(width=24, depth=3, num_heads=2, patch_size=8, layer_loop=layer_loop)
        return mae.MaskedAutoencoder(encoder, decoder_width=16, decoder_depth=2, decoder_heads=2)

    params = random_params(network(vit.LayerLoop()), images, noise)

    @functools.partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def loss(params, layer_loop):
        return network(layer_loop).apply({"params": params}, images, noise).loss

    expected = loss(params, vit.LayerLoop())
    for scan, remat in ((1, 0), (0, 1), (1, 1)):
        layer_loop = vit.LayerLoop(scan=bool(scan), remat=bool(remat))
        shapes = jax.eval_shape(network(layer_loop).init, jax.random.key(0), images, noise)["params"]
        assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)
        there = loss(params, layer_loop)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), there, expected)


@pytest.mark.slow
def test_layers_computed_again_keep_less(random_params):
    """Of the memory that the backward pass needs."""
    images, noise = np.zeros((16, 64, 64, 3), np.float32), np.random.default_rng(1).uniform(size=(16, 64))

    def memory(remat):
        encoder = vit.ViT(
            width=24, depth=12, num_heads=2, patch_size=8, layer_loop=vit.LayerLoop(scan=True, remat=remat)
        )
        network = mae.MaskedAutoencoder(encoder, decoder_width=16, decoder_depth=8, decoder_heads=2, mask_ratio=0.25)
        params = random_params(network, images, noise)
        gradient = jax.jit(jax.grad(lambda p: network.apply({"params": p}, images, noise).loss))
        return gradient.lower(params).compile().memory_analysis().temp_size_in_bytes

    assert memory(remat=True) < 0.75 * memory(remat=False)


def test_errors():
    network = mae.MaskedAutoencoder(vit.ViT(48, 1, 2, 8), 32, 1, 2)
    images = np.zeros((2, 48, 48, 3), np.float32)
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
