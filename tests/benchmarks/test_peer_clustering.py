import jax
import numpy as np
import pytest
import torch

from benchmarks import peer_clustering
from scemae_jax.ops.density_peaks import density_peaks


@pytest.mark.parametrize("density", ["scaled", "knn"])
@pytest.mark.parametrize("width", [192, 384])
def test_finds_the_same_centres_and_clusters_as_ours(density, width):
    tokens = np.random.default_rng(0).normal(size=(8, 130, width)).astype(np.float32)
    tokens[:, 100:110] = tokens[:, :10]  # duplicates
    ours = jax.vmap(lambda t: density_peaks(t, 4, density=density))(tokens)
    centers, assignment = peer_clustering.density_peaks(torch.from_numpy(tokens), 4, density=density)
    np.testing.assert_array_equal(ours.centers, centers.numpy())
    np.testing.assert_array_equal(ours.assignment, assignment.numpy())
