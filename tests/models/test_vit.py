import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from scemae_jax.models import vit

ENCODER = vit.ViT(width=48, depth=4, num_heads=2, patch_size=8)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 32, 40, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def encoder(images, random_params):
    return ENCODER.bind({"params": random_params(ENCODER, images)})


def norm(tokens, params):
    centred = tokens - tokens.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


@pytest.mark.parametrize(("name", "millions"), [("T/8", 5.4), ("S/8", 21.4), ("B/8", 85.3)])
def test_parameter_counts_are_the_published_ones(name, millions):
    """The paper counts the position code (145 tokens) too, though it is fixed."""
    sizes = vit.variant(name)
    network = vit.ViT(sizes.width, sizes.depth, sizes.num_heads, sizes.patch_size)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 96, 96, 3)))
    count = sum(weight.size for weight in jax.tree.leaves(params)) + 145 * sizes.width
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "published"), [("B/16", 86_567_656), ("L/16", 304_326_632)])
def test_parameter_counts_are_those_of_torchvision(name, published):
    """vit_b_16 and vit_l_16 of its table, which have a position table for 224x224 and a classifier of 1000 classes."""
    v = vit.variant(name)
    network = vit.ViT(v.width, v.depth, v.num_heads, v.patch_size, positions="learned", grid=(14, 14))
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    count = sum(weight.size for weight in jax.tree.leaves(params))
    assert count + 1000 * v.width + 1000 == published


def test_initial_weights():
    network = ENCODER.clone(depth=1)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    kernel = np.asarray(params["patch_projection"]["kernel"])  # seen as a linear layer: 192 in, 48 out
    bound = np.sqrt(6 / (192 + 48))
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert not params["blocks_0"]["attention"]["qkv"]["bias"].any()
    assert 0.01 < params["cls_token"].std() < 0.03


def test_variants():
    assert vit.variant("S/16") == vit.Variant(width=384, depth=12, num_heads=6, patch_size=16, projection=128)
    for name in ("M/8", "S", "S/", "S/0", "S/x", "s/8"):
        with pytest.raises(ValueError, match=f"unknown encoder '{name}'"):
            vit.variant(name)


def test_names_of_sizes():
    for size in ("XXS", "XS", "T", "S", "B", "L"):
        v = vit.variant(f"{size}/16")
        assert vit.variant_name(v.width, v.depth, 16) == f"{size}/16"
    with pytest.raises(ValueError, match=r"width 768 and depth 11; those known, as .*B \(768, 12\), L \(1024, 24\)"):
        vit.variant_name(768, 11, 16)


def test_cls_logits(encoder, images):
    """softmax's argument of the CLS query, head by head, from the weights alone."""
    _, seen = encoder(images, intermediates=True)
    block = jax.tree.map(lambda x: np.asarray(x, np.float64), encoder.variables["params"]["blocks_2"])
    tokens = norm(np.asarray(seen["layer_2"], np.float64), block["norm_attention"])
    qkv = tokens @ block["attention"]["qkv"]["kernel"] + block["attention"]["qkv"]["bias"]
    for head in range(2):
        query = qkv[:, 0, 24 * head : 24 * (head + 1)]
        keys = qkv[:, :, 48 + 24 * head : 48 + 24 * (head + 1)]
        expected = np.einsum("bd,btd->bt", query, keys) / np.sqrt(24)
        np.testing.assert_allclose(seen["cls_logits_3"][:, head], expected, atol=1e-4)


def test_embedding(encoder, images):
    """Patches row by row through the projection, their codes added; CLS first, without a code."""
    params = encoder.variables["params"]
    embedded = encoder.embed(images)
    np.testing.assert_array_equal(embedded[:, 0], np.repeat(params["cls_token"][:, 0], 2, axis=0))
    patch = images[:, 8:16, 24:32].reshape(2, -1)  # row 1, column 3 of a grid of 4x5
    expected = patch @ params["patch_projection"]["kernel"] + params["patch_projection"]["bias"]
    code = vit.sincos_position_code(48, 4, 5)[8]
    np.testing.assert_allclose(embedded[:, 1 + 8], expected + code, atol=1e-5)


LEARNED = ENCODER.clone(positions="learned", grid=(4, 5))


def test_a_learned_table_starts_as_the_fixed_code(encoder, images):
    params = LEARNED.init(jax.random.key(0), images)["params"]
    assert params["position_code"].shape == (1, 1 + 20, 48)
    assert not params["position_code"][:, 0].any()
    np.testing.assert_array_equal(params["position_code"][0, 1:], vit.sincos_position_code(48, 4, 5))
    without = {name: value for name, value in params.items() if name != "position_code"}
    np.testing.assert_array_equal(LEARNED.apply({"params": params}, images), ENCODER.apply({"params": without}, images))


def test_a_learned_table_is_added_to_patches_and_cls(images, random_params):
    params = random_params(LEARNED, images)
    bound, table = LEARNED.bind({"params": params}), np.asarray(params["position_code"][0])
    embedded = bound.embed(images)
    expected_cls = np.asarray(params["cls_token"][0, 0], np.float64) + table[0]
    np.testing.assert_allclose(embedded[:, 0], np.stack([expected_cls] * 2), atol=1e-6)
    patch = images[:, 8:16, 24:32].reshape(2, -1)  # row 1, column 3 of a grid of 4x5
    expected = patch @ params["patch_projection"]["kernel"] + params["patch_projection"]["bias"]
    np.testing.assert_allclose(embedded[:, 1 + 8], expected + table[1 + 8], atol=1e-5)
    keep = np.array([[7, 0, 19], [3, 3, 11]])
    kept = bound.embed(images, keep)
    np.testing.assert_array_equal(kept[:, 0], embedded[:, 0])
    np.testing.assert_allclose(kept[:, 1:], np.take_along_axis(embedded[:, 1:], keep[..., None], 1), atol=1e-6)


def test_a_learned_table_of_another_grid(images, random_params):
    params = random_params(LEARNED, images)
    with pytest.raises(ValueError, match=r"images of 2x5 patches .* position table is for 4x5"):
        LEARNED.apply({"params": params}, images[:, :16])
    with pytest.raises(ValueError, match=r"images of 5x4 patches .* position table is for 4x5"):
        LEARNED.apply({"params": params}, images.transpose(0, 2, 1, 3))


def test_keeping_all_in_another_order_changes_nothing(encoder, images):
    order = np.stack([np.random.default_rng(row).permutation(20) for row in range(2)])
    tokens, shuffled = encoder(images), encoder(images, order)
    np.testing.assert_allclose(shuffled[:, 1:], np.take_along_axis(tokens[:, 1:], order[..., None], 1), atol=1e-5)
    np.testing.assert_allclose(shuffled[:, 0], tokens[:, 0], atol=1e-5)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_layers_compose(encoder, images, split):
    tokens, seen = encoder(images, intermediates=True)
    first, cls_logits = encoder.layers(encoder.embed(images), 1, split)
    np.testing.assert_array_equal(first, seen[f"layer_{split}"])
    np.testing.assert_array_equal(cls_logits, seen[f"cls_logits_{split}"])
    last, _ = encoder.layers(first, split + 1, 4)
    np.testing.assert_array_equal(encoder.normalise(last), tokens)


def test_intermediates(encoder, images):
    tokens, seen = encoder(images, intermediates=True)
    assert seen.keys() == {"embedded"} | {f"{what}_{n}" for n in range(1, 5) for what in ("layer", "cls_logits")}
    expected = norm(np.asarray(seen["layer_4"], np.float64), encoder.variables["params"]["norm"])
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    np.testing.assert_array_equal(encoder(images), tokens)


def test_bfloat16_keeps_parameters_in_float32(encoder, images):
    network = ENCODER.clone(dtype=jnp.bfloat16)
    params = jax.eval_shape(network.init, jax.random.key(0), images)
    assert {weight.dtype for weight in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    tokens = network.apply(encoder.variables, images)
    assert tokens.dtype == jnp.bfloat16
    np.testing.assert_allclose(tokens.astype(np.float32), encoder(images), atol=0.15)


def test_errors(encoder, images):
    tokens = encoder.embed(images)
    for first, last in ((0, 2), (3, 2), (4, 5)):
        with pytest.raises(ValueError, match=f"layers {first} to {last} asked of an encoder that has layers 1 to 4"):
            encoder.layers(tokens, first, last)
    with pytest.raises(ValueError, match="width of 48 does not divide into 5 heads"):
        jax.eval_shape(ENCODER.clone(num_heads=5).init, jax.random.key(0), images)


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-6), (jnp.bfloat16, 2e-2)])
def test_gelu_equals_pytorch_with_its_derivative(dtype, atol):
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    leaf = torch.from_numpy(x).double().requires_grad_()
    expected = torch.nn.functional.gelu(leaf)
    expected.sum().backward()
    value, slope = jax.jvp(vit.gelu, (jnp.asarray(x, dtype),), (jnp.ones(x.shape, dtype),))
    assert value.dtype == dtype
    np.testing.assert_allclose(value.astype(np.float32), expected.detach().numpy(), atol=atol)
    np.testing.assert_allclose(slope.astype(np.float32), leaf.grad.numpy(), atol=atol)
