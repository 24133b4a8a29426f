"""Scaled dot-product attention, in the form that is fast on the current backend."""

from __future__ import annotations

import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Implementation = Literal["xla", "cudnn"]

CUDNN_HEAD_DIM = 128
"""Widest head that cuDNN's flash attention takes on every GPU that has it; it must be a multiple of 8 as well."""


def implementation_for(device: Any, dtype: DTypeLike, head_dim: int) -> Implementation:
    """`"cudnn"` (flash attention) on NVIDIA GPUs from Ampere on, in half precision with heads that fit; else `"xla"`.

    Any number of tokens will do: `attention_padded_to_even` makes it even, as cuDNN needs it to train.
    """
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    fits = head_dim <= CUDNN_HEAD_DIM and head_dim % 8 == 0
    # The versions of AMD's devices contain letters, which do not match.
    capability = re.fullmatch(r"(\d+)\.\d+", str(getattr(device, "compute_capability", "")))
    ampere = device.platform == "gpu" and capability is not None and int(capability[1]) >= 8
    return "cudnn" if ampere and half and fits else "xla"


def default_device() -> Any:
    """The device that a program is traced for: `jax.default_device`, or the first of this process.

    `jax.default_device` may be a GPU that is only described (`jax.experimental.topologies`).
    """
    chosen: Any = getattr(jax.config, "jax_default_device")  # noqa: B009 (made when jax is imported: no type has it)
    if chosen is None or isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen


def attention(
    query: Float[Array, "b t h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "b t h d"]:
    """softmax(query key^T / sqrt(d)) value, for each head; logits and softmax are in float32.

    Args:
      query: of each of `t` tokens and `h` heads.
      key: of each of the `s` tokens that are attended to.
      value: of the same tokens.
      implementation: `"xla"` or `"cudnn"`; None for `implementation_for` the default device.
    """
    head_dim = query.shape[-1]
    if implementation is None:
        implementation = implementation_for(default_device(), query.dtype, head_dim)
    if implementation == "cudnn":
        return attention_padded_to_even(query, key, value, implementation="cudnn")
    # Heads before tokens: XLA's CPU matmuls copy both operands unless batch dimensions lead.
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query / np.sqrt(head_dim), key, value))
    logits = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("bhts,bhsd->bhtd", weights, value).transpose(0, 2, 1, 3)


def attention_padded_to_even(
    query: Float[Array, "b t h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
    *,
    implementation: Implementation,
) -> Float[Array, "b t h d"]:
    """`jax.nn.dot_product_attention` for any number of tokens: a masked token is added to an odd number.

    JAX refuses cuDNN's backward pass for odd numbers of tokens (0.10 to 0.12), and ours are odd: CLS and a square of
    patches. The added token costs one more copy, of the result: XLA copies queries, keys and values anyway.
    `implementation` is JAX's; with `"xla"` this runs on any device.
    """
    batch, t, s = query.shape[0], query.shape[1], key.shape[1]
    real_queries = real_keys = None
    if t % 2 or s % 2:
        real_queries, real_keys = (jnp.full(batch, number, jnp.int32) for number in (t, s))
        query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    attended = jax.nn.dot_product_attention(
        query, key, value, query_seq_lengths=real_queries, key_value_seq_lengths=real_keys,
        implementation=implementation,
    )  # fmt: skip
    return attended[:, :t]
