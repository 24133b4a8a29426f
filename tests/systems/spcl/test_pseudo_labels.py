"""Thresholds and pseudo-labels against NumPy, ClassMix by planted pixels."""

import jax
import numpy as np
import pytest

from scemae_jax.systems.spcl import pseudo_labels

K = 3


def probabilities(seed=0, shape=(4, 9, 9)):
    logits = np.random.default_rng(seed).normal(scale=2, size=(*shape, K))
    e = np.exp(logits)
    return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


def test_thresholds_are_the_medians_of_numpy_over_all_batches():
    p = probabilities()
    histograms = sum(np.asarray(pseudo_labels.confidence_histograms(part)) for part in (p[:1], p[1:]))
    found = pseudo_labels.class_thresholds(histograms)
    confidence, label = p.max(axis=-1).astype(np.float64), p.argmax(axis=-1)
    expected = [min(np.median(confidence[label == k]), 0.9) for k in range(K)]
    # An even number of pixels has two in the middle, and NumPy's median is between them.
    np.testing.assert_allclose(found, expected, atol=5e-3)
    np.testing.assert_allclose(pseudo_labels.class_thresholds(histograms, most=0.5), np.minimum(expected, 0.5))
    assert histograms.sum() == label.size


def test_an_absent_class_has_the_highest_threshold():
    p = np.zeros((1, 2, 2, K), np.float32)
    p[..., 0] = 0.99
    p[..., 1] = 0.01
    found = pseudo_labels.class_thresholds(np.asarray(pseudo_labels.confidence_histograms(p)))
    np.testing.assert_allclose(found, [0.9, 0.9, 0.9])


def test_pixels_below_their_class_s_threshold_are_ignored():
    p = probabilities(1)
    thresholds = np.array([0.5, 0.9, 0.4])
    found = np.asarray(pseudo_labels.pseudo_labels(p, thresholds))
    label = p.argmax(axis=-1)
    kept = p.max(axis=-1) >= thresholds[label]
    np.testing.assert_array_equal(found, np.where(kept, label, 255))
    assert 0 < kept.mean() < 1


@pytest.mark.parametrize(("classes", "pasted"), [((0,), 1), ((0, 2), 1), ((0, 1, 2), 2)])
def test_class_mix_pastes_all_pixels_of_half_of_the_classes(classes, pasted):
    rng = np.random.default_rng(0)
    labels = rng.choice([*classes, 255], (20, 8, 8)).astype(np.uint8)
    chosen = np.asarray(pseudo_labels.class_mix(jax.random.key(0), labels, K))
    sets = set()
    for mask, y in zip(chosen, labels, strict=True):
        here = {int(k) for k in y[mask]}
        assert len(here) == pasted
        np.testing.assert_array_equal(mask, np.isin(y, list(here)))
        sets.add(tuple(sorted(here)))
    assert 255 not in {k for s in sets for k in s}
    assert len(sets) == {1: 1, 2: 2, 3: 3}[len(classes)]  # each image draws its own
