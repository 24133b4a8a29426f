"""The comparison is fair: the peer has the same network, and does the same with it."""

import dataclasses

import jax
import numpy as np
import torch

from benchmarks import peer
from benchmarks.suites import SMOKE, Settings, normalised_views
from scemae_jax.convert import to_torch
from scemae_jax.model import Model
from scemae_jax.ops.density_peaks import density_peaks
from scemae_jax.systems.sce_mae.pretrain import initial_params
from scemae_jax.training import optimizer

SETTINGS = Settings(**SMOKE)


def test_it_has_the_same_loss_and_decays_the_same_weights():
    architecture, network = SETTINGS.architecture, peer.masked_autoencoder(SETTINGS.architecture)
    params = initial_params(architecture, 0)
    weights = to_torch(Model(architecture=architecture, params=params), "huggingface")
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    views = normalised_views(SETTINGS, 3)
    noise = np.random.default_rng(0).random((3, 144)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(views.transpose(0, 3, 1, 2).copy()), noise=torch.from_numpy(noise)).loss
    ours = jax.jit(lambda: architecture.build_mae().apply({"params": params}, views, noise).loss)()
    np.testing.assert_allclose(ours, expected.item(), rtol=1e-4)

    trained = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == sum(p.size for p in jax.tree.leaves(params))
    mask = jax.tree.leaves(optimizer.decays(params))
    decayed = sum(p.size for p, decays in zip(jax.tree.leaves(params), mask, strict=True) if decays)
    assert sum(size for name, size in trained.items() if peer.decays(name)) == decayed


def test_a_step_runs_in_bfloat16():
    contender = peer.pretrain_step(dataclasses.replace(SETTINGS, dtype="bfloat16"), compiled=False)
    contender.run(1)
    assert contender.images == 4


def test_it_finds_the_same_centres_and_clusters():
    tokens = np.random.default_rng(0).normal(size=(8, 130, 192)).astype(np.float32)
    ours = jax.vmap(lambda t: density_peaks(t, 4))(tokens)
    centers, assignment = peer.density_peaks(torch.from_numpy(tokens), 4)
    np.testing.assert_array_equal(ours.centers, centers.numpy())
    np.testing.assert_array_equal(ours.assignment, assignment.numpy())
