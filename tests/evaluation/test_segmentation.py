"""Confusion and intersection over union against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from scemae_jax.evaluation import segmentation

K = 5


def masks(seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 3, 255], (6, 20, 20), p=[0.4, 0.3, 0.1, 0.1, 0.1]).astype(np.uint8)
    noise = rng.integers(0, K, truth.shape)
    return np.where((rng.random(truth.shape) < 0.3) | (truth == 255), noise, truth).astype(np.uint8), truth


def test_they_are_those_of_scikit_learn_summed_over_the_set():
    predicted, truth = masks()
    counts = sum(segmentation.confusion(p, t, K) for p, t in zip(predicted, truth, strict=True))
    known = truth != 255
    np.testing.assert_array_equal(counts, confusion_matrix(truth[known], predicted[known], labels=range(K)))
    found = segmentation.intersection_over_union(counts)
    expected = 100 * jaccard_score(truth[known], predicted[known], labels=range(4), average=None)
    np.testing.assert_allclose(found[:4], expected)
    assert np.isnan(found[4])  # predicted, and nowhere true
    assert np.isnan(segmentation.inflation(counts)[4])


def test_groups_are_measured_as_if_masks_had_them():
    predicted, truth = masks(1)
    predicted[predicted == 3] = 0
    groups = np.array([0, 1, 1, -1, 0])
    counts = segmentation.merge(segmentation.confusion(predicted, truth, K), groups)
    table = np.full(256, 255)
    table[:K] = np.where(groups < 0, 255, groups)
    np.testing.assert_array_equal(counts, segmentation.confusion(table[predicted], table[truth], 2))


def test_a_prediction_that_does_not_count_is_refused():
    predicted, truth = masks(2)
    with pytest.raises(ValueError, match=r"classes \[3\] do not count and were predicted"):
        segmentation.merge(segmentation.confusion(predicted, truth, K), [0, 1, 1, -1, 0])
    with pytest.raises(ValueError, match="of class 9"):
        segmentation.confusion(np.full_like(predicted, 9), truth, K)
    with pytest.raises(ValueError, match="make them agree"):
        segmentation.confusion(predicted[:, :3], truth, K)


def test_inflation_is_predicted_over_true_area():
    counts = np.array([[8, 2], [0, 10]])
    np.testing.assert_allclose(segmentation.inflation(counts), [0.8, 1.2])
