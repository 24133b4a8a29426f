import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scemae_jax.ops.density_peaks import density_peaks, density_peaks_of_images

FORMS = ("log", "scaled", "knn")
LOWEST = float(np.finfo(np.float32).min)

peaks_of = jax.jit(density_peaks, static_argnums=1, static_argnames=("density", "neighbours"))


def brute_force(tokens, valid, form, neighbours=5):
    """Log density, delta and score by the definition, one token at a time, in float64."""
    tokens = np.asarray(tokens, np.float64)
    n, width = tokens.shape
    density, delta, score = np.full(n, -np.inf), np.zeros(n), np.full(n, -np.inf)
    members = [i for i in range(n) if valid[i]]
    for i in members:
        squares = [((tokens[i] - tokens[j]) ** 2).sum() for j in members]
        if form == "log":
            density[i] = -sum(squares)
        elif form == "scaled":
            density[i] = -sum(squares) / (width * len(members))
        else:
            others = sorted(s for j, s in zip(members, squares, strict=True) if j != i)[:neighbours]
            density[i] = -sum(others) / (width * max(len(others), 1))
    peaks = 0
    for i in members:
        denser = [j for j in members if density[j] > density[i] or (density[j] == density[i] and j < i)]
        peaks += not denser
        distances = [np.sqrt(((tokens[i] - tokens[j]) ** 2).sum()) for j in denser or members]
        delta[i] = min(distances) if denser else max(distances)
        score[i] = density[i] + np.log(delta[i]) if delta[i] > 0 else LOWEST
    assert peaks == 1
    return density, delta, score


def check(result, tokens, valid, form, k, neighbours=5):
    density, delta, score = brute_force(tokens, valid, form, neighbours)
    np.testing.assert_allclose(result.density, density, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.delta, delta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.score, score, rtol=1e-5, atol=1e-5)

    found = min(k, sum(valid))
    centers = np.asarray(result.centers)
    assert len(set(centers[:found])) == found
    assert (centers[found:] == centers[0]).all()
    # Where scores of different tokens agree to rounding, either may be the centre: their scores still agree.
    np.testing.assert_allclose(score[centers[:found]], np.sort(score)[::-1][:found], rtol=1e-5, atol=1e-5)

    for i, token in enumerate(np.asarray(tokens, np.float64)):
        distances = [((token - tokens[c]) ** 2).sum() for c in centers]
        own = list(centers).index(i) if i in centers else int(np.argmin(distances))
        assert result.assignment[i] == own


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(
    half=hnp.arrays(np.int8, (6, 4), elements=st.integers(-2, 2)),
    valid=hnp.arrays(bool, 6).filter(np.any),
    order=st.permutations(range(12)),
)
def test_ties_duplicates_and_masks_equal_brute_force(form, half, valid, order):
    # Every token comes with its mirror image: the mean is exactly 0, so float32 sees every tie that there is.
    tokens = np.concatenate([half, -half]).astype(np.float32)[list(order)]
    valid = np.tile(valid, 2)[list(order)]
    result = peaks_of(tokens, 3, valid=valid, density=form)
    check(result, tokens, valid, form, k=3)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10, deadline=None, derandomize=True)  # random draws could tie within rounding
@given(seed=st.integers(0, 10**6))
def test_real_tokens_far_from_the_origin_and_their_permutations(form, seed):
    rng = np.random.default_rng(seed)
    tokens = (rng.normal(size=(30, 16)) * rng.uniform(0.3, 2, size=(30, 1)) + 1000).astype(np.float32)
    valid = rng.random(30) < 0.8
    result = peaks_of(tokens, 3, valid=valid, density=form)
    check(result, tokens, valid, form, k=3)

    order = rng.permutation(30)
    permuted = peaks_of(tokens[order], 3, valid=valid[order], density=form)
    np.testing.assert_array_equal(order[permuted.centers], result.centers)
    np.testing.assert_array_equal(permuted.assignment, np.asarray(result.assignment)[order])


def test_equal_densities_are_ordered_by_index():
    square = jnp.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    result = peaks_of(square, 2, density="log")
    np.testing.assert_array_equal(result.density, [-16.0] * 4)
    np.testing.assert_allclose(result.delta, [8**0.5, 2, 2, 2], rtol=1e-6)  # only token 0 has no denser one
    np.testing.assert_array_equal(result.centers, [0, 1])
    np.testing.assert_array_equal(result.assignment, [0, 1, 1, 0])


@pytest.mark.parametrize("form", FORMS)
def test_duplicates_become_centres_last_and_belong_to_themselves(form):
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(3, 192)).astype(np.float32)
    tokens = distinct[[0, 0, 1, 0, 2, 1, 0, 2, 0, 0]]
    three = peaks_of(tokens, 3, density=form)
    assert len({tuple(t) for t in tokens[three.centers]}) == 3
    np.testing.assert_array_equal(tokens[three.centers][three.assignment], tokens)

    all_of_them = peaks_of(tokens, 10, density=form)
    assert sorted(np.asarray(all_of_them.centers)) == list(range(10))
    np.testing.assert_array_equal(np.asarray(all_of_them.centers)[all_of_them.assignment], range(10))


@pytest.mark.parametrize("neighbours", [1, 3, 30])
def test_any_number_of_neighbours(neighbours):
    """Among tokens of which many are equally far; 30 are more than there are."""
    rng = np.random.default_rng(7)
    half = rng.integers(-2, 3, size=(10, 3))
    tokens, valid = np.concatenate([half, -half]).astype(np.float32), np.tile(rng.random(10) < 0.8, 2)
    result = peaks_of(tokens, 3, valid=valid, density="knn", neighbours=neighbours)
    check(result, tokens, valid, "knn", k=3, neighbours=neighbours)


@pytest.mark.parametrize("width", [192, 12 * 384])
def test_copies_that_differ_by_rounding_are_duplicates(width):
    rng = np.random.default_rng(5)
    distinct = rng.normal(size=(4, width))
    tokens = np.repeat(distinct, 30, axis=0) * (1 + 1e-7 * rng.normal(size=(120, width)))
    result = peaks_of(tokens.astype(np.float32), 4)
    assert {int(c) // 30 for c in result.centers} == {0, 1, 2, 3}
    assert np.count_nonzero(result.delta) == 4


def test_what_invalid_tokens_hold_changes_nothing():
    rng = np.random.default_rng(1)
    tokens, valid = rng.normal(size=(20, 8)).astype(np.float32), np.arange(20) % 3 > 0
    for form in FORMS:
        kept = peaks_of(tokens[valid], 3, density=form)
        for junk in (1e18, np.nan):
            result = peaks_of(np.where(valid[:, None], tokens, junk), 3, valid=valid, density=form)
            np.testing.assert_array_equal(result.centers, np.flatnonzero(valid)[kept.centers])
            np.testing.assert_array_equal(result.assignment[valid], kept.assignment)
            np.testing.assert_allclose(result.score[valid], kept.score, rtol=1e-5, atol=1e-5)
            assert ((result.assignment >= 0) & (result.assignment < 3)).all()


@pytest.mark.parametrize("form", FORMS)
def test_width_192_where_the_plain_density_underflows(form):
    tokens = np.random.default_rng(2).normal(size=(130, 192)).astype(np.float32)
    density, _, score = brute_force(tokens, np.ones(130, bool), form)
    if form == "log":
        assert (np.exp(density.astype(np.float32)) == 0).all()
    result = peaks_of(tokens, 4, density=form)
    np.testing.assert_array_equal(result.centers, np.argsort(-score)[:4])


def test_only_the_local_density_finds_planted_clusters():
    rng = np.random.default_rng(3)
    cluster = rng.permutation(np.repeat([0, 1, 2, 3], [48, 40, 26, 16]))
    tokens = (2 * rng.normal(size=(4, 192))[cluster] + rng.normal(size=(130, 192))).astype(np.float32)
    result = peaks_of(tokens, 4)
    assert set(cluster[result.centers]) == {0, 1, 2, 3}
    np.testing.assert_array_equal(cluster[result.centers][result.assignment], cluster)
    assert len(set(cluster[peaks_of(tokens, 4, density="log").centers])) < 4  # as its docstring says


def test_one_token():
    for form in FORMS:
        result = peaks_of(jnp.ones((1, 3)), 1, density=form)
        assert (result.centers[0], result.assignment[0]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 6}, "num_clusters is 6 with 5 tokens"),
        ({"num_clusters": 0}, "num_clusters is 0"),
        ({"num_clusters": 2, "density": "raw"}, "density is 'raw': choose one of log, scaled, knn"),
        ({"num_clusters": 2, "neighbours": 0}, "neighbours is 0"),
        ({"num_clusters": 2, "tile": 0}, "tile is 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        density_peaks(jnp.zeros((5, 2)), **arguments)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tile", [1, 7, 64])
def test_tiles_change_nothing(form, tile):
    rng = np.random.default_rng(6)
    tokens, valid = rng.normal(size=(3, 30, 16)).astype(np.float32), rng.random((3, 30)) < 0.8
    tokens[:, 20:25] = tokens[:, :5]  # duplicates
    whole, tiled = (
        jax.vmap(lambda t, v, tile=tile: density_peaks(t, 4, valid=v, density=form, tile=tile))(tokens, valid)
        for tile in (30, tile)
    )
    np.testing.assert_array_equal(tiled.centers, whole.centers)
    np.testing.assert_array_equal(tiled.assignment, whole.assignment)
    np.testing.assert_allclose(tiled.score, whole.score, rtol=1e-5, atol=1e-6)


def test_memory_grows_with_the_tokens_and_not_with_their_square():
    def temporary(n, tile):
        batch = jax.ShapeDtypeStruct((4, n, 16), jnp.float32)
        compiled = jax.jit(jax.vmap(lambda t: density_peaks(t, 4, tile=tile))).lower(batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(2048, 2048) > 4 * 2048**2 * 4  # the measure sees a whole matrix of distances
    assert temporary(2048, None) < 4 * 2048**2
    assert temporary(4096, None) < 2.5 * temporary(2048, None)


@pytest.mark.parametrize("density", FORMS)
@pytest.mark.parametrize("images", [1, 21])
def test_images_together_are_the_images_one_by_one(density, images):
    tokens = np.random.default_rng(0).normal(size=(images, 30, 12)).astype(np.float32)
    together = jax.jit(lambda t: density_peaks_of_images(t, 4, density=density))(tokens)
    for number in range(images):
        alone = peaks_of(tokens[number], 4, density=density)
        np.testing.assert_array_equal(together.centers[number], alone.centers)
        np.testing.assert_array_equal(together.assignment[number], alone.assignment)
        np.testing.assert_allclose(together.score[number], alone.score, rtol=1e-5, atol=1e-6)
