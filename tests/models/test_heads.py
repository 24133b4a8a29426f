import jax
import numpy as np
import pytest
from scipy.special import softmax

from scemae_jax.models.heads import LandmarkHead, prior_work_head


def test_plain_head_is_its_formula():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 5, 6, 8))
    kernel, bias = rng.normal(size=(8, 3 * 4)), rng.normal(size=12)
    regressor, offset = rng.normal(size=(3, 8, 2)), rng.normal(size=(3, 2))

    heatmaps = (features @ kernel + bias).reshape(2, 30, 3, 4)  # landmark by landmark, its heatmaps together
    shares = softmax(0.7 * heatmaps, axis=1).reshape(2, 5, 6, 3, 4)
    x = np.einsum("bhwli,w->bli", shares, 2 * np.arange(6) / 5 - 1)
    y = np.einsum("bhwli,h->bli", shares, 2 * np.arange(5) / 4 - 1)
    points = np.stack([x, y], axis=-1).reshape(2, 3, 8)
    expected = np.stack([points[:, landmark] @ regressor[landmark] for landmark in range(3)], axis=1) + offset

    params = {"heatmaps": {"kernel": kernel[None, None], "bias": bias}, "regressor": regressor, "bias": offset}
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    head = LandmarkHead(3, heatmaps=4, kernel_size=1, gain=0.7)
    landmarks = head.apply({"params": params}, features.astype(np.float32))
    np.testing.assert_allclose(landmarks, expected, atol=1e-5)


def test_prior_work_s_head_has_a_gain_of_100_and_normal_weights_without_bias():
    features = np.random.default_rng(0).normal(size=(1, 4, 4, 256)).astype(np.float32)
    head = prior_work_head(5, 20)
    params = head.init(jax.random.key(0), features)["params"]
    assert set(params["heatmaps"]) == {"kernel"}
    kernel = np.asarray(params["heatmaps"]["kernel"])
    assert kernel.shape == (1, 1, 256, 100)
    assert kernel.mean() == pytest.approx(0, abs=0.02)
    assert kernel.std() == pytest.approx(1, abs=0.02)
    # One heatmap that is 0 but for one cell at 0.02: its share of the softmax is e^2 / (e^2 + 15).
    planted = np.zeros((1, 4, 4, 1), np.float32)
    planted[0, 0, 3] = 0.02
    one = {"heatmaps": {"kernel": np.ones((1, 1, 1, 1))}, "regressor": np.eye(2)[None], "bias": np.zeros((1, 2))}
    found = prior_work_head(1, 1).apply({"params": jax.tree.map(np.float32, one)}, planted)
    excess = (np.e**2 - 1) / (np.e**2 + 15)  # what that cell has beyond the others, whose mean is the centre
    np.testing.assert_allclose(found[0, 0], [excess, -excess], rtol=1e-3)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 7), (11, 11), (5, 1)])
def test_a_planted_feature_is_found_at_its_cell(kernel_size, row, column):
    """-1 and 1 are the centres of the outer cells, whatever the kernel; a heatmap keeps the map's size."""
    features = np.zeros((1, 12, 12, 2), np.float32)
    features[0, row, column, 1] = 1
    kernel = np.zeros((kernel_size, kernel_size, 2, 1), np.float32)
    kernel[kernel_size // 2, kernel_size // 2, 1] = 1
    params = {
        "heatmaps": {"kernel": kernel, "bias": np.zeros(1, np.float32)},
        "regressor": np.eye(2, dtype=np.float32)[None],
        "bias": np.zeros((1, 2), np.float32),
    }
    head = LandmarkHead(1, heatmaps=1, kernel_size=kernel_size, gain=50.0)
    landmarks = head.apply({"params": params}, features)
    np.testing.assert_allclose(landmarks[0, 0], [2 * column / 11 - 1, 2 * row / 11 - 1], atol=1e-5)


def test_landmarks_do_not_share_regressors(random_params):
    """Moving one landmark's weights moves that landmark alone."""
    features = np.random.default_rng(0).normal(size=(1, 6, 6, 4)).astype(np.float32)
    head = LandmarkHead(3, heatmaps=2)
    params = random_params(head, features)
    moved = {**params, "regressor": params["regressor"].at[1].add(1.0)}
    difference = head.apply({"params": moved}, features) - head.apply({"params": params}, features)
    assert (np.abs(difference).max(axis=(0, 2)) > 1e-3).tolist() == [False, True, False]
