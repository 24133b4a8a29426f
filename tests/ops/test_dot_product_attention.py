from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from scemae_jax.ops.attention import attention, attention_padded_to_even, implementation_for


def projections(t, s, heads, head_dim, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, n, heads, head_dim)).astype(dtype) for n in (t, s, s)]


def pytorch(inputs):
    """PyTorch's attention, its gradients, and the cotangent that they are for."""
    leaves = [torch.from_numpy(x).requires_grad_() for x in inputs]
    attended = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in leaves)).transpose(1, 2)
    cotangent = np.random.default_rng(1).normal(size=attended.shape).astype(np.float32)
    attended.backward(torch.from_numpy(cotangent))
    return attended.detach().numpy(), [leaf.grad.numpy() for leaf in leaves], cotangent


@pytest.mark.parametrize(("t", "s", "heads", "head_dim"), [(37, 37, 3, 64), (145, 145, 2, 24), (1, 7, 1, 8)])
def test_values_and_gradients_equal_pytorch(t, s, heads, head_dim):
    inputs = projections(t, s, heads, head_dim)
    expected, gradients, cotangent = pytorch(inputs)
    ours, pullback = jax.vjp(attention, *inputs)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for gradient, truth in zip(pullback(jnp.asarray(cotangent)), gradients, strict=True):
        np.testing.assert_allclose(gradient, truth, atol=1e-5)


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


def gradient(**choice):
    return jax.jit(jax.grad(lambda *inputs: attention(*inputs, **choice).astype(jnp.float32).sum(), (0, 1, 2)))


BOTH_WAYS = ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]


@pytest.mark.parametrize("tokens", [36, 37])
def test_a_gpu_trains_with_cudnn_whatever_the_number_of_tokens(cudnn_calls, tokens):
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in projections(tokens, tokens, 2, 8)]
    assert cudnn_calls(gradient(), *inputs) == BOTH_WAYS


def test_the_choice_follows_the_device_unless_told(cudnn_calls):
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in projections(5, 5, 2, 8)]
    assert cudnn_calls(gradient(implementation="xla"), *inputs) == []
    assert cudnn_calls(gradient(), *(x.astype(jnp.float32) for x in inputs)) == []
    for cpu in ("cpu", jax.local_devices(backend="cpu")[0]):
        with jax.default_device(cpu):
            assert cudnn_calls(gradient(), *inputs) == []
            assert cudnn_calls(gradient(implementation="cudnn"), *inputs) == BOTH_WAYS


@pytest.mark.parametrize(("t", "s"), [(37, 37), (36, 36), (1, 7), (7, 4)])
def test_the_added_token_changes_neither_values_nor_gradients(t, s):
    """What cuDNN is given and what is taken from it, computed by XLA: JAX has one contract for both."""
    inputs = projections(t, s, 2, 8)
    expected, gradients, cotangent = pytorch(inputs)
    ours, pullback = jax.vjp(lambda *inputs: attention_padded_to_even(*inputs, implementation="xla"), *inputs)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for gradient, truth in zip(pullback(jnp.asarray(cotangent)), gradients, strict=True):
        np.testing.assert_allclose(gradient, truth, atol=1e-5)


@pytest.mark.parametrize(("t", "s"), [(37, 37), (36, 36), (1, 7)])
def test_jax_is_given_even_numbers(t, s, monkeypatch):
    seen = []
    real = jax.nn.dot_product_attention

    def spy(query, key, value, **rest):
        seen.append((query.shape[1], key.shape[1], value.shape[1], rest["query_seq_lengths"] is not None))
        return real(query, key, value, **rest)

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    attention_padded_to_even(*projections(t, s, 2, 8), implementation="xla")
    ((*numbers, masked),) = seen
    assert all(number % 2 == 0 for number in numbers)
    assert masked == (t % 2 == 1 or s % 2 == 1)
