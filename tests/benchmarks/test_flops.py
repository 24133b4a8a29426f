"""The analytic counts against a count by hand, and against what XLA counts in the compiled programs."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops
from scemae_jax.models import vit


def test_a_block_by_hand():
    t, d = 7, 48
    layers = 2 * t * d * (3 * d) + 2 * t * d * d + 2 * (2 * t * d * 4 * d)
    products = 2 * (2 * t * t * d)
    assert flops.block(t, d) == layers + products == 24 * t * d**2 + 4 * t**2 * d


def test_steps_by_hand(small_architecture):
    """XXS/8 (width 48, depth 4) with a decoder of width 32 and depth 1; 144 patches of 192 values."""
    visible = 36
    encoder = 2 * visible * 192 * 48 + 4 * flops.block(37, 48)
    decoder = 2 * 37 * 48 * 32 + flops.block(145, 32) + 2 * 144 * 32 * 192
    assert flops.pretrain_step(small_architecture) == 3 * (encoder + decoder)
    assert flops.pretrain_attention(small_architecture) == 3 * (4 * 4 * 37**2 * 48 + 4 * 145**2 * 32)

    kept = 36 + 4  # a quarter is attentive; the split is after layer 2
    frozen = 2 * 144 * 192 * 48 + 2 * flops.block(145, 48) + 2 * flops.block(1 + kept, 48)
    clustering = 2 * 108 * 108 * 48
    projector = 2 * kept * 48 * 48 + 2 * kept * 48 * 16
    assert flops.refine_step(small_architecture) == frozen + clustering + 3 * projector
    without = dataclasses.replace(small_architecture, num_clusters=0)
    fewer = 2 * (flops.block(41, 48) - flops.block(37, 48)) + 3 * projector * 4 // 40
    assert flops.refine_step(without) == flops.refine_step(small_architecture) - clustering - fewer

    whole = 2 * 144 * 192 * 48 + 4 * flops.block(145, 48)
    linear, hidden = 2 * 144 * (4 * 48) * 16, 2 * 144 * (4 * 48) ** 2
    assert flops.refine_hypercolumns(small_architecture, hidden=False) == whole + 3 * linear
    assert flops.refine_hypercolumns(small_architecture, hidden=True) == whole + 3 * (linear + hidden)
    assert flops.features(small_architecture, 8, projected=False) == whole
    assert flops.features(small_architecture, 4, projected=True) == 4 * (whole + projector * 144 // 40)


def counted(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.fixture(scope="module")
def wide(small_architecture):
    """Wide enough that matrix products are nearly all there is."""
    return dataclasses.replace(small_architecture, encoder="B/16", decoder_width=768, decoder_depth=1, decoder_heads=4)


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def test_a_block_as_xla_counts():
    block, tokens = vit.Block(4), jax.ShapeDtypeStruct((2, 145, 768), jnp.float32)

    def forward(params, tokens):
        return block.apply({"params": params}, tokens)[0]

    def trained(params, tokens):
        return jax.grad(lambda p, t: (forward(p, t) ** 2).sum(), argnums=(0, 1))(params, tokens)

    params = shapes(block, tokens)
    assert counted(forward, params, tokens) == pytest.approx(2 * flops.block(145, 768), rel=0.03)
    assert counted(trained, params, tokens) == pytest.approx(2 * 3 * flops.block(145, 768), rel=0.03)


def test_a_step_of_stage_1_as_xla_counts(wide):
    images, noise = jnp.zeros((2, 96, 96, 3)), jnp.zeros((2, 36))
    network = wide.build_mae()

    def loss(params, images, noise):
        return network.apply({"params": params}, images, noise).loss

    found = counted(jax.grad(loss), shapes(network, images, noise), images, noise)
    assert found == pytest.approx(2 * flops.pretrain_step(wide), rel=0.05)


def test_features_as_xla_counts(wide):
    images, network = jnp.zeros((1, 96, 96, 3)), wide.build_carb()
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), images, method="features"))["params"]

    def features(params, images):
        return network.apply({"params": params}, images, method="features")[1]

    assert counted(features, params, images) == pytest.approx(flops.features(wide, 16, projected=True), rel=0.03)
