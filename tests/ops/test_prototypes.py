"""Prototypes and their contrastive loss, against float64 NumPy and planted clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scemae_jax.ops import prototypes

K, C = 4, 6


def drawn(seed=0, *, batch=2, side=5, classes=K):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(batch, side, side, C)).astype(np.float32)
    labels = rng.integers(0, classes + 1, (batch, side, side))
    return features, np.where(labels == classes, 255, labels).astype(np.uint8)


def unit(x):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def expected_loss(features, labels, vectors, temperature):
    """Mean by pixels, and by classes, pixel by pixel in float64."""
    by_class = {}
    for f, y in zip(unit(features).reshape(-1, C), labels.reshape(-1), strict=True):
        if y < K and vectors[y].any():
            logits = np.array([f @ v / temperature for v in vectors.astype(np.float64) if v.any()])
            own = f @ vectors[y].astype(np.float64) / temperature
            by_class.setdefault(y, []).append(np.log(np.exp(logits - own).sum()))
    every = [value for values in by_class.values() for value in values]
    return np.mean(every) if every else 0.0, np.mean([np.mean(v) for v in by_class.values()]) if every else 0.0


@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 100.0]), st.booleans())
def test_the_loss_is_that_of_numpy(seed, temperature, one_unknown):
    features, labels = drawn(seed)
    vectors = np.random.default_rng(seed + 1).normal(size=(K, C)).astype(np.float32)
    vectors = unit(vectors).astype(np.float32)
    vectors[0] *= not one_unknown
    for balanced, expected in zip((False, True), expected_loss(features, labels, vectors, temperature), strict=True):
        found = prototypes.contrastive_loss(features, labels, vectors, temperature=temperature, class_balanced=balanced)
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_loss_sees_directions_alone_and_has_finite_gradients():
    features, labels = drawn()
    vectors = unit(np.random.default_rng(1).normal(size=(K, C))).astype(np.float32)
    loss = jax.value_and_grad(lambda f, y: prototypes.contrastive_loss(f, y, vectors, temperature=0.1))
    lengths = np.random.default_rng(2).uniform(0.1, 10, features.shape[:-1])[..., None].astype(np.float32)
    assert float(loss(lengths * features, labels)[0]) == pytest.approx(float(loss(features, labels)[0]), rel=1e-5)
    features[0] = 0
    for y in (labels, np.full_like(labels, 255)):
        value, gradient = loss(features, y)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
    assert float(value) == 0  # all ignored


def test_sums_and_updates_are_those_of_numpy():
    features, labels = drawn(3)
    labels[labels == 2] = 255  # an absent class
    seen = prototypes.pixel_sums(features, labels, K)
    f, y = unit(features).reshape(-1, C), labels.reshape(-1)
    for k in range(K):
        np.testing.assert_allclose(seen.sums[k], f[y == k].sum(axis=0), atol=1e-5)
        assert seen.counts[k] == (y == k).sum()
    vectors = unit(np.random.default_rng(1).normal(size=(K, C))).astype(np.float32)
    vectors[3] = 0  # not seen before: takes what it sees now
    plain = np.asarray(prototypes.update(vectors, seen, momentum=0.1, normalise=False))
    length_1 = np.asarray(prototypes.update(vectors, seen, momentum=0.9, normalise=True))
    for k in (0, 1):
        mean = f[y == k].mean(axis=0)
        np.testing.assert_allclose(plain[k], 0.1 * vectors[k] + 0.9 * mean, atol=1e-6)
        np.testing.assert_allclose(length_1[k], unit(0.9 * vectors[k] + 0.1 * unit(mean)), atol=1e-6)
    np.testing.assert_array_equal(plain[2], vectors[2])
    np.testing.assert_array_equal(length_1[2], vectors[2])
    np.testing.assert_allclose(plain[3], f[y == 3].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(length_1[3], unit(f[y == 3].mean(axis=0)), atol=1e-6)


def test_one_pixel_is_its_class_s_mean_and_nothing_seen_changes_nothing():
    features, labels = drawn()
    labels[:] = 255
    vectors = np.eye(K, C, dtype=np.float32)
    unchanged = prototypes.update(vectors, prototypes.pixel_sums(features, labels, K), momentum=0.1, normalise=False)
    np.testing.assert_array_equal(unchanged, vectors)
    labels[1, 2, 3] = 1
    one = prototypes.update(vectors, prototypes.pixel_sums(features, labels, K), momentum=0.0, normalise=False)
    np.testing.assert_allclose(one[1], unit(features[1, 2, 3]), atol=1e-6)


def test_the_start_is_the_mean_over_images_that_have_the_class():
    features, labels = drawn(4, batch=3)
    labels[1][labels[1] == 0] = 255
    found = prototypes.image_sums(features, labels, K)
    assert found.counts[0] == 2
    f = unit(features)
    expected = np.mean([f[b][labels[b] == 0].mean(axis=0) for b in (0, 2)], axis=0)
    np.testing.assert_allclose(found.means()[0], expected, atol=1e-6)


def test_sums_of_two_halves_are_those_of_the_whole():
    features, labels = drawn(5, batch=4)
    whole = prototypes.pixel_sums(features, labels, K)
    halves = [prototypes.pixel_sums(features[part], labels[part], K) for part in (slice(2), slice(2, 4))]
    np.testing.assert_allclose(whole.sums, halves[0].sums + halves[1].sums, atol=1e-5)
    np.testing.assert_array_equal(whole.counts, halves[0].counts + halves[1].counts)


def test_sums_of_parts_that_were_averaged_have_the_same_means():
    """As the loop averages the outputs of a batch in parts: a class with one pixel in one of four parts, say."""
    features, labels = drawn(6, batch=4)
    labels[labels == 0] = 255
    labels[2, 0, 0] = 0
    parts = [prototypes.pixel_sums(features[row : row + 1], labels[row : row + 1], K) for row in range(4)]
    averaged = jax.tree.map(lambda *values: sum(values) / 4, *parts)
    whole = prototypes.pixel_sums(features, labels, K)
    assert averaged.counts[0] == 0.25
    np.testing.assert_allclose(averaged.means(), whole.means(), atol=1e-6)
    np.testing.assert_allclose(averaged.means()[0], unit(features[2, 0, 0]), atol=1e-6)


def accuracy_after_training(temperature):
    """Planted clusters, seen through a linear map that is trained: source labelled, target shifted and unlabelled.

    Half of the channels tell the class; in the others there is noise, and a shift between the domains. Pseudo-labels
    are those of the nearest prototype; the accuracy is the target's, before and after.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, (2, 1, 400))
    centres = np.concatenate([1.5 * np.eye(K, C // 2) - 0.5, np.zeros((K, C // 2))], axis=1)
    spread = np.repeat([0.5, 3.0], C // 2)
    source, target = (centres[y] + rng.normal(size=(1, 400, C)) * spread for y in labels)
    target += np.repeat([0.0, 2.0], C // 2)
    source, target = source.astype(np.float32), target.astype(np.float32)
    true = labels[1]
    params = jnp.eye(C)
    optimizer = optax.sgd(0.1)
    state = optimizer.init(params)
    vectors = prototypes.update(
        jnp.zeros((K, C)), prototypes.pixel_sums(source, labels[0], K), momentum=0.0, normalise=True
    )
    first = (prototypes.nearest_prototype(target, vectors) == true).mean()

    @jax.jit
    def step(params, state, vectors):
        seen = prototypes.pixel_sums(source @ params, labels[0], K)
        vectors = prototypes.update(vectors, seen, momentum=0.9, normalise=True)
        pseudo = prototypes.nearest_prototype(target @ params, vectors)

        def loss(params):
            on_source = prototypes.contrastive_loss(source @ params, labels[0], vectors, temperature=temperature)
            return on_source + prototypes.contrastive_loss(target @ params, pseudo, vectors, temperature=temperature)

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state, vectors

    for _ in range(150):
        params, state, vectors = step(params, state, vectors)
    return float(first), float((prototypes.nearest_prototype(target @ params, vectors) == true).mean())


def test_contrast_at_a_low_temperature_sorts_shifted_clusters_and_at_100_does_not():
    first, sharp = accuracy_after_training(0.1)
    _, flat = accuracy_after_training(100.0)
    assert sharp > first + 0.03
    assert flat < first + 0.01


def test_collapsed_prototypes_are_seen():
    vectors = np.eye(K, C, dtype=np.float32)
    vectors[3] = 0
    assert float(prototypes.largest_cosine(vectors)) == 0
    vectors[1] = [0.8, 0.6, 0, 0, 0, 0]
    assert float(prototypes.largest_cosine(vectors)) == pytest.approx(0.8)
