import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import alternatives
from scemae_jax.models import carb
from scemae_jax.ops.lcr import lcr_loss

TERMS = {"temperature": 0.1, "repellence": (5.0, 5.0, 2.0)}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)


def lcr_of_all(features, attentive):
    """Every patch of every image, one image at a time."""
    positions = carb.patch_positions(12, 12)
    return np.mean([lcr_loss(f, positions, a, **TERMS) for f, a in zip(features, attentive, strict=True)])


def attentive_of(architecture, logits):
    similarity = np.asarray(jax.nn.softmax(logits[:, :, 1:]).mean(axis=1))
    return similarity >= np.sort(similarity, axis=1)[:, [-carb.num_attentive(architecture.attentive_fraction, 144)]]


def test_all_tokens_and_hypercolumns(small_model, random_params, images):
    architecture, params = small_model.architecture, small_model.params
    tokens, seen = architecture.build_encoder().apply({"params": params["encoder"]}, images, intermediates=True)
    attentive = attentive_of(architecture, seen[f"cls_logits_{architecture.split_layer}"])
    projector = architecture.build_carb().projector
    expected = lcr_of_all(projector.apply({"params": params["projector"]}, tokens[:, 1:]), attentive)
    found = alternatives.all_tokens_loss(params["projector"], params["encoder"], images, architecture, **TERMS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    columns = np.concatenate([seen[f"layer_{i}"][:, 1:] for i in range(1, 5)], axis=-1)
    linear = random_params(alternatives.hypercolumn_projector(architecture, hidden=False), columns)
    projected = columns @ linear["out"]["kernel"] + linear["out"]["bias"]
    projected /= np.linalg.norm(projected, axis=-1, keepdims=True)
    found = alternatives.hypercolumn_loss(linear, params["encoder"], images, architecture, **TERMS)
    np.testing.assert_allclose(found, lcr_of_all(projected, attentive), rtol=1e-4)

    projector = alternatives.hypercolumn_projector(architecture, hidden=True)
    deep = random_params(projector, columns)
    found = alternatives.hypercolumn_loss(deep, params["encoder"], images, architecture, **TERMS)
    np.testing.assert_allclose(found, lcr_of_all(projector.apply({"params": deep}, columns), attentive), rtol=1e-4)


def test_nearly_all_tokens_selected_is_near_all_tokens(small_model, images):
    """With one patch inattentive, standing for itself, the loss of stage 2 is that without a split."""
    architecture = dataclasses.replace(small_model.architecture, attentive_fraction=143 / 144, num_clusters=1)
    arguments = small_model.params["projector"], small_model.params["encoder"], images, architecture
    selected = alternatives.selected_tokens_loss(*arguments, **TERMS)
    np.testing.assert_allclose(selected, alternatives.all_tokens_loss(*arguments, **TERMS), rtol=1e-4)


@pytest.mark.parametrize("loss", [alternatives.selected_tokens_loss, alternatives.all_tokens_loss])
def test_only_the_projector_learns(small_model, images, loss):
    def of(params):
        return loss(params["projector"], params["encoder"], jnp.asarray(images), small_model.architecture, **TERMS)

    gradients = jax.grad(of)(dict(small_model.params))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["encoder"]))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients["projector"]))
