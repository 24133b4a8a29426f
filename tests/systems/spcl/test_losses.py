"""Cross-entropies against PyTorch."""

import jax
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy

from scemae_jax.systems.spcl import losses

K = 4


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 6, K)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 255], (2, 5, 6)).astype(np.uint8)
    return logits, labels


def as_torch(logits):
    return torch.tensor(np.moveaxis(logits, -1, 1))


@pytest.mark.parametrize("weights", [None, np.array([0.5, 1.0, 3.0, 0.0], np.float32)])
def test_with_hard_labels(drawn, weights):
    logits, labels = drawn
    expected = torch_cross_entropy(
        as_torch(logits), torch.tensor(labels).long(), None if weights is None else torch.tensor(weights),
        ignore_index=255,
    )  # fmt: skip
    assert float(losses.cross_entropy(logits, labels, weights)) == pytest.approx(float(expected), rel=1e-5)
    assert float(losses.cross_entropy(logits, np.full_like(labels, 255), weights)) == 0


def test_with_soft_labels(drawn):
    logits, _ = drawn
    targets = np.random.default_rng(1).dirichlet(np.ones(K), logits.shape[:-1]).astype(np.float32)
    expected = torch_cross_entropy(as_torch(logits), as_torch(targets))
    assert float(losses.soft_cross_entropy(logits, targets)) == pytest.approx(float(expected), rel=1e-5)
    some = targets.copy()
    some[0] = 0  # nothing is known of the first image
    expected = torch_cross_entropy(as_torch(logits[1:]), as_torch(targets[1:]))
    assert float(losses.soft_cross_entropy(logits, some)) == pytest.approx(float(expected), rel=1e-5)
    to_targets = jax.grad(losses.soft_cross_entropy, argnums=1)(logits, targets)
    assert not np.asarray(to_targets).any()


def test_weights_are_one_on_the_average_over_pixels_and_zero_for_an_absent_class():
    pixels = np.array([900, 0, 100])
    weights = losses.class_weights(pixels)
    assert weights[1] == 0
    assert (weights * pixels).sum() / 1000 == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(3)


def test_labels_as_distributions_that_count_by_their_weights_are_weighted_labels(drawn):
    logits, labels = drawn
    weights = np.array([0.5, 1.0, 3.0, 0.0], np.float32)
    known = np.asarray(jax.nn.one_hot(labels, K)) * weights
    expected = losses.cross_entropy(logits, labels, weights)
    assert float(losses.soft_cross_entropy(logits, known)) == pytest.approx(float(expected), rel=1e-5)
