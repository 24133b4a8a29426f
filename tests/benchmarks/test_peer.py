"""The comparison is fair: the peer has the same network, and does the same with it."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from benchmarks import flops, peer
from benchmarks.settings import Settings
from benchmarks.steps import normalised_views, random_weights
from scemae_jax.convert import to_torch
from scemae_jax.model import Model
from scemae_jax.training import optimizer


@pytest.fixture(scope="module")
def settings():
    return Settings.smoke()


@pytest.fixture(scope="module")
def model(settings):
    return Model(architecture=settings.architecture, params=random_weights(settings.architecture))


def load(network, model):
    weights = {name: torch.from_numpy(value.copy()) for name, value in to_torch(model, "huggingface").items()}
    network.load_state_dict(weights)
    return network


def test_the_peer_has_as_many_parameters_and_decays_the_same(settings, model):
    network = peer.masked_autoencoder(settings.architecture)
    ours = {name: model.params[name] for name in ("encoder", "decoder")}
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == sum(p.size for p in jax.tree.leaves(ours))
    mask = optimizer.decays(ours)
    decayed = sum(p.size for p, decays in zip(jax.tree.leaves(ours), jax.tree.leaves(mask), strict=True) if decays)
    assert sum(p.numel() for name, p in trained.items() if peer._decays(name)) == decayed


def test_the_peer_has_the_same_loss(settings, model):
    network = load(peer.masked_autoencoder(settings.architecture), model)
    views = normalised_views(settings, 3)
    noise = np.random.default_rng(0).random((3, 144)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(views.transpose(0, 3, 1, 2).copy()), noise=torch.from_numpy(noise)).loss
    params = {name: model.params[name] for name in ("encoder", "decoder")}
    ours = settings.architecture.build_mae().apply({"params": params}, views, noise).loss
    np.testing.assert_allclose(ours, expected.item(), rtol=1e-4)


@pytest.mark.parametrize("stride", [8, 4])
def test_the_peer_has_the_same_features(settings, model, monkeypatch, stride):
    build, seen = peer.masked_autoencoder, []
    monkeypatch.setattr(peer, "masked_autoencoder", lambda *args, **sizes: load(build(*args, **sizes), model))
    monkeypatch.setattr(peer, "_contender", lambda name, images, call, *_: seen.append(call()))
    peer.features(settings, stride)
    ours = model.features(settings.images(settings.feature_images), stride, "backbone")
    np.testing.assert_allclose(seen[0].numpy(), ours, atol=2e-4)


def test_a_step_of_the_peer_runs(settings):
    contender = peer.pretrain_step(dataclasses.replace(settings, dtype="bfloat16"), compiled=False)
    contender.run(1)
    assert (contender.flops, contender.images) == (flops.pretrain_step(settings.architecture), 4)
