"""Ridge regression along the directions of unlabelled features, against scikit-learn and a planted answer."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from scemae_jax.ops.ridge import ridge


def draw(n, d, m, seed=0):
    """Features with a few strong directions, targets of two numbers, unlabelled features of the same kind."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.geomspace(3, 0.1, d)[:, None]
    features, unlabelled = (rng.normal(size=(k, d)) @ mixing + rng.normal(size=d) for k in (n, m))
    return features.astype(np.float32), rng.normal(size=(n, 2)).astype(np.float32), unlabelled.astype(np.float32)


@pytest.mark.parametrize(("n", "d", "m"), [(5, 40, 12), (30, 8, 50), (1, 10, 20)])
@pytest.mark.parametrize(("exponent", "strength"), [(0.0, 0.01), (0.25, 0.1), (0.5, 0.002)])
def test_equals_scikit_learn_on_scaled_components(n, d, m, exponent, strength):
    features, targets, unlabelled = draw(n, d, m)
    components = PCA(svd_solver="full").fit(unlabelled.astype(np.float64))
    variances = components.explained_variance_ * (m - 1) / m
    kept = variances > 1e-6 * variances[0]
    scale = variances[kept] ** exponent
    penalty = n * strength * (variances[kept] * scale**2).sum()  # scikit-learn sums over the samples
    expected = Ridge(alpha=penalty).fit(components.transform(features)[:, kept] * scale, targets)
    others = draw(7, d, m, seed=1)[0]
    found = ridge(features, targets, unlabelled, exponent=exponent, strength=strength)
    np.testing.assert_allclose(
        others @ np.asarray(found.kernel) + np.asarray(found.bias),
        expected.predict(components.transform(others)[:, kept] * scale),
        rtol=2e-3, atol=2e-3,
    )  # fmt: skip


def test_an_exponent_prefers_the_strong_direction():
    """Two directions explain the one difference alike; the exponent gives it to the one that varies more."""
    unlabelled = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
    features, targets = np.array([[1.0, 1], [-1, -1]], np.float32), np.array([[1.0], [-1]], np.float32)
    shares = []
    for exponent in (0.0, 0.5):
        kernel = np.asarray(ridge(features, targets, unlabelled, exponent=exponent, strength=1e-3).kernel)[:, 0]
        shares.append(kernel[0] / kernel[1])
    # Minimum-norm solutions: equal weights, or weights in the ratio of the variances (v^(2 * 0.5), 9 : 1).
    np.testing.assert_allclose(shares, [1, 9], rtol=0.02)


def test_a_direction_that_never_varied_is_left_out():
    unlabelled = jnp.asarray([[1.0, 0, 5], [-1, 0, 5], [0, 1, 5]])
    features = jnp.asarray([[0.0, 0, 5], [0, 0, 9]])
    found = ridge(features, jnp.asarray([[0.0], [1.0]]), unlabelled, exponent=0.25, strength=0.1)
    np.testing.assert_allclose(found.kernel[2], 0, atol=1e-5)
    np.testing.assert_allclose(features @ found.kernel + found.bias, 0.5, atol=1e-4)
