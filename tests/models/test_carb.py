import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from scemae_jax.models import carb, vit

N = 144
ENCODER = vit.ViT(width=48, depth=3, num_heads=2, patch_size=8)
NETWORK = carb.CARB(ENCODER, carb.Projector(16), split_layer=2, attentive_fraction=0.25, num_clusters=4, density="knn")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(images, random_params):
    return {"params": random_params(NETWORK, images, method="features")}  # of all layers, those after the split too


@pytest.fixture(scope="module")
def full(variables, images):
    """The encoder on all tokens, with what it saw on the way."""
    encode = jax.jit(lambda params: ENCODER.apply({"params": params}, images, intermediates=True))
    tokens, seen = encode(variables["params"]["encoder"])
    return np.asarray(tokens), jax.tree.map(np.asarray, seen)


def select(variables, images, **changes):
    network = NETWORK.clone(**changes)
    return jax.tree.map(np.asarray, jax.jit(lambda v: network.apply(v, images, method="select"))(variables))


@pytest.fixture(scope="module")
def selected(variables, images):
    return select(variables, images)


def test_every_token_its_own_centre_is_the_full_encoder(variables, images, full):
    everything = select(variables, images, num_clusters=N - 36)
    np.testing.assert_array_equal(np.sort(everything.patches, axis=1), np.tile(np.arange(N), (2, 1)))
    np.testing.assert_allclose(carb.approximate(everything), full[0][:, 1:], atol=1e-5)


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 36), (0.1, 14)])
def test_split(fraction, count):
    logits = np.random.default_rng(0).normal(size=(2, 3, 1 + N)).astype(np.float32)
    split = carb.split_by_attention(logits, fraction)
    similarity = softmax(logits[:, :, 1:].astype(np.float64), axis=-1).mean(axis=1)
    order = np.argsort(-similarity, axis=1)
    np.testing.assert_allclose(split.similarity, similarity, atol=1e-6)
    np.testing.assert_array_equal(split.attentive, order[:, :count])
    np.testing.assert_array_equal(split.inattentive, order[:, count:])


def test_attentive_tokens_are_those_of_the_split_layer(selected, full):
    similarity = softmax(full[1]["cls_logits_2"][:, :, 1:].astype(np.float64), axis=-1).mean(axis=1)
    np.testing.assert_allclose(selected.similarity, similarity, atol=1e-6)
    np.testing.assert_array_equal(selected.patches[:, :36], np.argsort(-similarity, axis=1)[:, :36])
    np.testing.assert_array_equal(selected.attentive, np.tile(np.arange(40) < 36, (2, 1)))


def test_each_patch_is_stood_for_by_itself_or_the_nearest_centre(selected, full):
    for row in range(2):
        tokens = full[1]["layer_2"][row, 1:].astype(np.float64)
        attentive, centres = selected.patches[row, :36], selected.patches[row, 36:]
        assert len(set(centres) - set(attentive)) == 4
        np.testing.assert_array_equal(selected.source[row][attentive], np.arange(36))
        for patch in set(range(N)) - set(attentive):
            distances = np.linalg.norm(tokens[centres] - tokens[patch], axis=1)
            assert selected.source[row][patch] == 36 + distances.argmin()


def test_later_layers_see_the_selected_tokens_only(selected, variables, full):
    """The last layers in NumPy's hands: selected rows of the map after layer 2, and nothing else, go in."""
    encoder = ENCODER.bind({"params": variables["params"]["encoder"]})
    after_split = full[1]["layer_2"]
    chosen = np.stack([after_split[row, [0, *(1 + selected.patches[row])]] for row in range(2)])
    tokens, _ = encoder.layers(chosen, 3, 3)
    np.testing.assert_allclose(selected.features, encoder.normalise(tokens)[:, 1:], atol=1e-5)


def test_approximation_repeats_the_centres(selected):
    approximated = np.asarray(carb.approximate(selected))
    for row in range(2):
        for patch in (0, 17, 143):
            np.testing.assert_array_equal(approximated[row, patch], selected.features[row, selected.source[row, patch]])


def test_without_clusters_the_inattentive_are_dropped(variables, images, selected):
    dropped = select(variables, images, num_clusters=0)
    np.testing.assert_array_equal(dropped.patches, selected.patches[:, :36])
    assert dropped.attentive.all()
    for row in range(2):
        others = np.setdiff1d(np.arange(N), dropped.patches[row])
        assert set(dropped.source[row][others]) == {0}
        np.testing.assert_array_equal(dropped.source[row][dropped.patches[row]], np.arange(36))
        assert dropped.patches[row, 0] == dropped.similarity[row].argmax()


def test_only_the_projector_learns(variables, images):
    def loss(params):
        projected, _ = NETWORK.apply({"params": params}, images)
        return (projected * jnp.arange(16)).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    assert not any(gradient.any() for gradient in jax.tree.leaves(gradients["encoder"]))
    assert all(gradient.any() for gradient in jax.tree.leaves(gradients["projector"]))


def test_inference_looks_at_every_patch(variables, images, full):
    backbone, projected = jax.jit(lambda v: NETWORK.apply(v, images, method="features"))(variables)
    np.testing.assert_allclose(backbone, full[0][:, 1:], atol=1e-5)
    expected = NETWORK.projector.apply({"params": variables["params"]["projector"]}, full[0][:, 1:])
    np.testing.assert_allclose(projected, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=-1), 1, atol=1e-5)


def test_linear_projector():
    tokens = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    params = {"out": {"kernel": np.arange(21, dtype=np.float32).reshape(7, 3), "bias": np.ones(3, np.float32)}}
    expected = tokens @ params["out"]["kernel"] + 1
    plain = carb.Projector(3, hidden=False, normalise=False).apply({"params": params}, tokens)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    unit = carb.Projector(3, hidden=False).apply({"params": params}, tokens)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-4)


def test_linear_projector_starts_from_the_tokens_own_likeness():
    tokens = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    projector = carb.Projector(7, hidden=False)
    projected = projector.apply(projector.init(jax.random.key(0), tokens), tokens)
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    np.testing.assert_allclose(projected @ projected.T, unit @ unit.T, atol=1e-5)


def test_a_zero_feature_has_a_finite_gradient():
    def loss(kernel):
        params = {"out": {"kernel": kernel, "bias": jnp.zeros(3)}}
        return carb.Projector(3, hidden=False).apply({"params": params}, jnp.ones((2, 7))).sum()

    assert np.isfinite(jax.grad(loss)(jnp.zeros((7, 3)))).all()


def test_positions():
    positions = carb.patch_positions(12, 12)
    np.testing.assert_array_equal(positions[[0, 11, 13, 143]], [[0, 0], [11, 0], [1, 1], [11, 11]])
    np.testing.assert_array_equal(carb.patch_positions(2, 3)[:, 0], [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_layer": 0}, "split_layer is 0: choose one from 1 to 2"),
        ({"split_layer": 3}, "split_layer is 3: choose one from 1 to 2"),
        ({"attentive_fraction": 0.001}, r"attentive_fraction 0\.001 makes 0 of 144"),
        ({"attentive_fraction": 1.0}, r"attentive_fraction 1\.0 makes 144 of 144"),
        ({"num_clusters": 109}, "makes 36 of 144 tokens attentive, and num_clusters is 109"),
        ({"density": "peaks"}, "density is 'peaks'"),
    ],
)
def test_errors(variables, images, changes, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: NETWORK.clone(**changes).apply(variables, images))
