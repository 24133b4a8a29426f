"""The locality-constrained repellence (LCR) loss of SCE-MAE (CVPR 2024, section 3.3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Repellence = tuple[float, float, float]


def lcr_loss(
    features: Float[Array, "t d"],
    positions: Float[Array, "t 2"],
    attentive: Bool[Array, " t"],
    *,
    temperature: float,
    repellence: Repellence,
    valid: Bool[Array, " t"] | None = None,
    locality: bool = True,
) -> Float[Array, ""]:
    """Pushes apart the features of tokens of one image that are similar but far from each other.

        p(j|i) = softmax_j( <f_i, f_j> / temperature )       over all tokens j, i included
        L      = mean_i sum_j log(|pos_i - pos_j| + 1) * lambda_ij * p(j|i)

    Beware: features that encode nothing but their position make it small.

    Args:
      features: projected features of the attentive tokens and the cluster centres of one image.
      positions: their places, in units of the patch grid.
      attentive: which of them are attentive; the others are cluster centres of the inattentive ones.
      temperature: of the softmax.
      repellence: lambda for pairs of two attentive tokens, of one of each kind, of two inattentive ones; the
        paper has (5, 5, 2).
      valid: which tokens take part; all by default. The others add nothing to softmax or mean.
      locality: False sets the factor log(|pos_i - pos_j| + 1) to 1 for tokens at different places, as an
        ablation; it stays 0 at the same place, thus for i = j.

    Returns:
      The loss; 0 where no token is valid.

    Raises:
      ValueError: the temperature is not positive.
    """
    side = _side(features, positions, attentive, valid)
    return _repellence(side, side, temperature, repellence, locality)


def lcr_loss_across(
    features_a: Float[Array, "a d"],
    positions_a: Float[Array, "a 2"],
    attentive_a: Bool[Array, " a"],
    features_b: Float[Array, "b d"],
    positions_b: Float[Array, "b 2"],
    attentive_b: Bool[Array, " b"],
    *,
    temperature: float,
    repellence: Repellence,
    valid_a: Bool[Array, " a"] | None = None,
    valid_b: Bool[Array, " b"] | None = None,
    locality: bool = True,
) -> Float[Array, ""]:
    """`lcr_loss` between the tokens of two crops of one image: i in one, j in the other, averaged over both
    directions.

    Not in the paper. A token's position code is that of its own crop, so that features which encode position alone do
    not make this loss small. Positions of both crops are in the frame of the image: grid units, any real number.

    Other arguments, result and errors as in `lcr_loss`.
    """
    a = _side(features_a, positions_a, attentive_a, valid_a)
    b = _side(features_b, positions_b, attentive_b, valid_b)
    a_to_b = _repellence(a, b, temperature, repellence, locality)
    b_to_a = _repellence(b, a, temperature, repellence, locality)
    return (a_to_b + b_to_a) / 2


Side = tuple[Float[Array, "t d"], Float[Array, "t 2"], Bool[Array, " t"], Bool[Array, " t"]]


def _side(features: Array, positions: Array, attentive: Array, valid: Array | None) -> Side:
    """One set of tokens: features, positions, attentive, valid. Invalid tokens are set to zero, against NaN."""
    valid = jnp.ones(len(features), bool) if valid is None else valid
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    features = jnp.where(valid[:, None], features, 0)
    positions = jnp.where(valid[:, None], positions, 0).astype(features.dtype)
    return features, positions, attentive, valid


def _repellence(i: Side, j: Side, temperature: float, repellence: Repellence, locality: bool) -> Float[Array, ""]:
    """mean_i sum_j of the LCR loss, for i in one set of tokens and j in another or the same."""
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be positive, try 0.1")
    features_i, positions_i, attentive_i, valid_i = i
    features_j, positions_j, attentive_j, valid_j = j

    logits = jnp.matmul(features_i, features_j.T, precision=jax.lax.Precision.HIGHEST) / temperature
    logits = jnp.where(valid_j, logits, jnp.finfo(logits.dtype).min)
    p = jnp.where(valid_j, jax.nn.softmax(logits, axis=1), 0)

    squared = jnp.sum((positions_i[:, None] - positions_j) ** 2, axis=-1)
    apart = squared > 0
    if locality:  # the inner `where` keeps the gradient of the root at 0 finite
        f_loc = jnp.log1p(jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0))
    else:
        f_loc = apart.astype(squared.dtype)

    both, one, neither = repellence
    attentive_i = attentive_i[:, None]
    strength = jnp.where(attentive_i & attentive_j, both, jnp.where(attentive_i | attentive_j, one, neither))
    per_token = jnp.sum(f_loc * strength * p, axis=1)
    return jnp.sum(per_token, where=valid_i) / jnp.maximum(jnp.sum(valid_i), 1)
