"""Scaled dot-product attention, in the form that is fast on the backend at hand."""

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

    cuDNN takes any number of tokens as long as there is no bias, and there is none here.
    """
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    fits = head_dim <= CUDNN_HEAD_DIM and head_dim % 8 == 0
    capability = re.fullmatch(r"(\d+)\.\d+", str(getattr(device, "compute_capability", "")))  # AMD's have letters
    ampere = device.platform == "gpu" and capability is not None and int(capability[1]) >= 8
    return "cudnn" if ampere and half and fits else "xla"


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
      key: of the `s` tokens that are attended to.
      value: of the same tokens.
      implementation: `"xla"` or `"cudnn"`; None for `implementation_for` the default device.
    """
    head_dim = query.shape[-1]
    if implementation is None:
        implementation = implementation_for(jax.local_devices()[0], query.dtype, head_dim)
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    # Heads before tokens: with batch dimensions that do not lead, XLA's CPU matmuls copy each operand both ways.
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query / np.sqrt(head_dim), key, value))
    logits = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("bhts,bhsd->bhtd", weights, value).transpose(0, 2, 1, 3)
