import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import approx_fprime

from scemae_jax.ops.lcr import lcr_loss, lcr_loss_across

STATIC = ("temperature", "repellence", "locality")
loss = jax.jit(lcr_loss, static_argnames=STATIC)
across = jax.jit(lcr_loss_across, static_argnames=STATIC)

TERMS = {"temperature": 0.2, "repellence": (5.0, 4.0, 2.0)}


def tokens(seed, count=9, width=6):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    positions = rng.permutation(144)[:count]
    positions = np.stack([positions % 12, positions // 12], axis=1).astype(np.float64)
    return features, positions, rng.random(count) < 0.6


def formula(i_tokens, j_tokens, temperature, repellence, locality=True):
    """method.md step 6 in float64 loops: i over one set of tokens, j over another or the same."""
    total = 0.0
    for feature_i, position_i, attentive_i in zip(*i_tokens, strict=True):
        scores = np.array([feature_i @ f for f in j_tokens[0]]) / temperature
        p = np.exp(scores - scores.max())
        p /= p.sum()
        for p_ij, position_j, attentive_j in zip(p, j_tokens[1], j_tokens[2], strict=True):
            distance = np.hypot(*(position_i - position_j))
            f_loc = np.log(distance + 1) if locality else float(distance > 0)
            strength = {2: repellence[0], 1: repellence[1], 0: repellence[2]}[int(attentive_i) + int(attentive_j)]
            total += f_loc * strength * p_ij
    return total / len(i_tokens[0])


def as_float32(values):
    return tuple(np.asarray(v, np.float32) if v.dtype == np.float64 else v for v in values)


@pytest.mark.parametrize("locality", [True, False])
def test_equals_the_formula(locality):
    for seed in range(5):
        a, b = tokens(seed), tokens(seed + 50, count=7)
        within = loss(*as_float32(a), **TERMS, locality=locality)
        np.testing.assert_allclose(within, formula(a, a, **TERMS, locality=locality), rtol=1e-5)
        between = across(*as_float32(a), *as_float32(b), **TERMS, locality=locality)
        expected = (formula(a, b, **TERMS, locality=locality) + formula(b, a, **TERMS, locality=locality)) / 2
        np.testing.assert_allclose(between, expected, rtol=1e-5)


def test_gradients_equal_finite_differences():
    (features, positions, attentive), b = tokens(0, count=5, width=3), tokens(1, count=4, width=3)
    with jax.enable_x64(True):
        for function, numpy_function in (
            (
                lambda f: loss(f, positions, attentive, **TERMS),
                lambda f: formula((f, positions, attentive), (f, positions, attentive), **TERMS),
            ),
            (
                lambda f: across(f, positions, attentive, *b, **TERMS),
                lambda f: (
                    (formula((f, positions, attentive), b, **TERMS) + formula(b, (f, positions, attentive), **TERMS))
                    / 2
                ),
            ),
        ):
            gradient = jax.grad(function)(jnp.asarray(features))
            expected = approx_fprime(features.ravel(), lambda x, f=numpy_function: f(x.reshape(5, 3)), 1e-7)
            assert np.abs(expected).max() > 0.01
            np.testing.assert_allclose(gradient.ravel(), expected, atol=1e-5)


def test_invalid_tokens_are_as_if_dropped_whatever_they_hold():
    (features, positions, attentive), b = tokens(2), as_float32(tokens(3))
    features, positions = np.float32(features), np.float32(positions)
    valid = np.arange(9) % 3 > 0
    kept = (features[valid], positions[valid], attentive[valid])
    junk = np.where(valid[:, None], features, np.nan), np.where(valid[:, None], positions, np.inf), attentive

    def masked(f):
        return loss(f, *junk[1:], **TERMS, valid=valid)

    np.testing.assert_allclose(masked(junk[0]), loss(*kept, **TERMS), rtol=1e-5)
    gradient = jax.grad(masked)(junk[0])
    expected = jax.grad(lambda f: loss(f, *kept[1:], **TERMS))(kept[0])
    np.testing.assert_allclose(gradient[valid], expected, atol=1e-6)
    assert (gradient[~valid] == 0).all()

    np.testing.assert_allclose(across(*junk, *b, **TERMS, valid_a=valid), across(*kept, *b, **TERMS), rtol=1e-5)
    np.testing.assert_allclose(across(*b, *junk, **TERMS, valid_b=valid), across(*b, *kept, **TERMS), rtol=1e-5)
    assert masked(junk[0]).dtype == jnp.float32
    assert loss(*junk, **TERMS, valid=np.zeros(9, bool)) == 0
    assert across(*b, *junk, **TERMS, valid_b=np.zeros(9, bool)) == 0


def test_gradient_of_positions_is_finite_where_tokens_coincide():
    features, positions, attentive = as_float32(tokens(5))
    positions[1] = positions[0]
    gradient = jax.grad(loss, argnums=1)(features, positions, attentive, **TERMS)
    assert np.isfinite(gradient).all()


def test_alike_and_far_apart_costs_most():
    ends, kind = jnp.array([[0.0, 0.0], [11.0, 11.0]]), jnp.array([True, True])
    alike, unlike = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.eye(2)
    terms = {"temperature": 0.05, "repellence": (5.0, 5.0, 2.0)}
    # Both softmaxes are even: half of 5 * log(distance + 1).
    np.testing.assert_allclose(loss(alike, ends, kind, **terms), 2.5 * np.log(11 * 2**0.5 + 1), rtol=1e-6)
    assert loss(unlike, ends, kind, **terms) < 1e-6


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature is 0"):
        lcr_loss(*as_float32(tokens(0)), temperature=0.0, repellence=(5, 5, 2))
