from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from scemae_jax.ops import attention as module
from scemae_jax.ops.attention import attention, implementation_for


def projections(t, s, heads, head_dim, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, n, heads, head_dim)).astype(dtype) for n in (t, s, s)]


@pytest.mark.parametrize(("t", "s", "heads", "head_dim"), [(37, 37, 3, 64), (145, 145, 2, 24), (1, 7, 1, 8)])
def test_values_and_gradients_equal_pytorch(t, s, heads, head_dim):
    inputs = projections(t, s, heads, head_dim)
    leaves = [torch.from_numpy(x).requires_grad_() for x in inputs]
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in leaves)).transpose(1, 2)
    cotangent = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    expected.backward(torch.from_numpy(cotangent))

    ours, pullback = jax.vjp(attention, *inputs)
    np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-5)
    for gradient, leaf in zip(pullback(jnp.asarray(cotangent)), leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-5)


def test_half_precision_keeps_its_type_and_is_near_float32():
    inputs = projections(37, 37, 3, 64)
    half = attention(*(jnp.asarray(x, jnp.bfloat16) for x in inputs))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), attention(*inputs), atol=0.02)


def gpu(capability):
    return SimpleNamespace(platform="gpu", compute_capability=capability)


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "expected"),
    [
        (gpu("9.0"), jnp.bfloat16, 64, "cudnn"),
        (gpu("8.0"), np.float16, 128, "cudnn"),
        (gpu("10.0"), jnp.bfloat16, 64, "cudnn"),
        (gpu("9.0"), np.float32, 64, "xla"),
        (gpu("9.0"), jnp.bfloat16, 136, "xla"),
        (gpu("9.0"), jnp.bfloat16, 20, "xla"),
        (gpu("7.5"), np.float16, 64, "xla"),
        (gpu("gfx90a"), jnp.bfloat16, 64, "xla"),
        (SimpleNamespace(platform="tpu"), jnp.bfloat16, 64, "xla"),
        (SimpleNamespace(platform="cpu"), jnp.bfloat16, 64, "xla"),
    ],
)
def test_cudnn_is_chosen_where_it_can_run(device, dtype, head_dim, expected):
    assert implementation_for(device, dtype, head_dim) == expected


def test_choice_follows_the_device_unless_told(monkeypatch):
    asked = []
    monkeypatch.setattr(module.jax, "local_devices", lambda: [gpu("9.0")])
    monkeypatch.setattr(
        module.jax.nn, "dot_product_attention", lambda q, k, v, implementation: asked.append(implementation) or q
    )
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in projections(5, 5, 2, 8)]
    attention(*inputs)
    attention(*inputs, implementation="xla")
    attention(*(x.astype(jnp.float32) for x in inputs))
    attention(*(x.astype(jnp.float32) for x in inputs), implementation="cudnn")
    assert asked == ["cudnn", "cudnn"]
