"""Clustering by fast search and find of density peaks (Rodriguez & Laio, Science 2014).

SCE-MAE (CVPR 2024, section 3.2) replaces the inattentive tokens of an image by the centres found here. A centre is a
token with a high density that is far from every denser token.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Density = Literal["log", "scaled", "knn"]
DENSITY: Density = "knn"
"""The default form of the density, here and in the config."""

Rows = Int[Array, " r"] | slice
"""Some of the tokens."""

UNTILED = 1024
"""The most tokens whose distances are computed at once; more would fill the memory."""
TILE = 128
IMAGES_IN_CACHE = 8
"""Images that are clustered at a time on a CPU: the distances of 8 x 130 tokens take half a megabyte."""


class DensityPeaks(NamedTuple):
    """Clusters of the `n` tokens of one image.

    Attributes:
      centers: indices of the `k` tokens of the highest score, best first.
      assignment: for each token, which of the `k` centres it belongs to (an index into `centers`).
      density: log rho, the natural logarithm of the density: rho itself underflows. -inf for invalid tokens.
      delta: distance to the nearest token of higher density; for the densest token, its distance to the
        farthest one. 0 for invalid tokens.
      score: log rho + log delta. A duplicate of a denser token (delta = 0) has the lowest finite float, so that it
        comes after every other valid token; invalid ones come last, with -inf.
    """

    centers: Int[Array, " k"]
    assignment: Int[Array, " n"]
    density: Float[Array, " n"]
    delta: Float[Array, " n"]
    score: Float[Array, " n"]


def density_peaks(
    tokens: Float[Array, "n d"],
    num_clusters: int,
    *,
    valid: Bool[Array, " n"] | None = None,
    density: Density = DENSITY,
    neighbours: int = 5,
    tile: int | None = None,
) -> DensityPeaks:
    """Finds `num_clusters` density peaks among the tokens of one image; `jax.vmap` it over images.

    The forms of the density, with sums and means over valid tokens j:

    * `"log"`: log rho_i = -sum_j ||t_i - t_j||^2, as SCE-MAE prints it (with the sign a density must have).
      At ViT widths the sum is so large that delta does not matter. It falls with the distance to the mean token, so
      that the centres are the tokens nearest to the mean.
    * `"scaled"`: log rho_i = -mean_j ||t_i - t_j||^2 / d. Highest at the mean token too, but delta matters.
    * `"knn"`: log rho_i = -mean ||t_i - t_j||^2 / d over the `neighbours` nearest other tokens (DPC-kNN,
      Du et al. 2016). The only local form, hence the only one that sees several clusters as several peaks. The
      default.

    Of tokens with equal density the one with the lower index counts as denser, so that exactly one valid token has no
    denser one. Every token belongs to its nearest centre, and a centre to itself.

    Args:
      tokens: one image's tokens.
      num_clusters: `k`, how many centres to find.
      valid: which tokens take part; all by default. The others never become centres and never change the result for
        the rest, but are assigned to their nearest centre. If fewer than `k` tokens are valid, the best centre fills
        the remaining places, and the remaining clusters are empty. Without a valid token the result has no meaning
        (but indices stay in range).
      density: the form of the density, see above.
      neighbours: how many neighbours `"knn"` looks at, or all if there are fewer.
      tile: how many tokens have their distances to all others in memory at a time; distances are then computed twice.
        None: all tokens up to 1024, otherwise 128. The result is the same.

    Raises:
      ValueError: `num_clusters` is not within 1..n, `neighbours` or `tile` is below 1, or `density` is unknown.
    """
    n, width = tokens.shape
    if not 1 <= num_clusters <= n:
        raise ValueError(f"num_clusters is {num_clusters} with {n} tokens: choose a number from 1 to {n}")
    if density not in get_args(Density):
        raise ValueError(f"density is {density!r}: choose one of {', '.join(get_args(Density))}")
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}: choose 1 or more")
    if tile is not None and tile < 1:
        raise ValueError(f"tile is {tile}: choose 1 or more tokens")

    valid = jnp.ones(n, bool) if valid is None else valid
    tokens, norms = _centred(tokens, valid)
    index = jnp.arange(n)

    def log_density_of(rows: Rows) -> Float[Array, " r"]:
        squared = _squared_distances(tokens, norms, rows)
        if density == "knn":
            others = jnp.where(valid & (index != index[rows, None]), squared, jnp.inf)
            return -_mean_of_lowest(others, neighbours) / width
        total = -jnp.sum(squared, axis=1, where=valid)
        return total / (width * jnp.maximum(jnp.sum(valid), 1)) if density == "scaled" else total

    log_density = jnp.where(valid, _in_tiles(log_density_of, n, tile), -jnp.inf)

    def delta_of(rows: Rows) -> Float[Array, " r"]:
        squared, own = _squared_distances(tokens, norms, rows), log_density[rows, None]
        denser = (log_density > own) | ((log_density == own) & (index < index[rows, None]))
        to_denser = jnp.min(squared, axis=1, where=denser, initial=jnp.inf)
        to_farthest = jnp.max(squared, axis=1, where=valid, initial=0.0)
        return jnp.sqrt(jnp.where(denser.any(axis=1), to_denser, to_farthest))

    delta = jnp.where(valid, _in_tiles(delta_of, n, tile), 0.0)

    score = jnp.where(delta > 0, log_density + jnp.log(delta), jnp.finfo(delta.dtype).min)
    score = jnp.where(valid, score, -jnp.inf)
    _, centers = jax.lax.top_k(score, num_clusters)  # stable: among equals the lower index
    centers = jnp.where(valid[centers], centers, centers[0])

    to_centers = _squared_distances(tokens, norms, centers)  # [k, n]
    to_centers = jnp.where(centers[:, None] == index, -1.0, to_centers)
    assignment = jnp.argmin(to_centers, axis=0).astype(jnp.int32)
    return DensityPeaks(centers, assignment, log_density, delta, score)


def density_peaks_of_images(
    tokens: Float[Array, "b n d"], num_clusters: int, *, density: Density = DENSITY, neighbours: int = 5
) -> DensityPeaks:
    """`density_peaks` of the tokens of each image, all valid; every field has the images' axis first.

    On a CPU a few images are clustered at a time, so that their distances stay in its cache.
    """

    def one(tokens: Float[Array, "n d"]) -> DensityPeaks:
        return density_peaks(tokens, num_clusters, density=density, neighbours=neighbours)

    return jax.lax.platform_dependent(
        tokens, cpu=lambda tokens: jax.lax.map(one, tokens, batch_size=IMAGES_IN_CACHE), default=jax.vmap(one)
    )


def _in_tiles(form: Callable[[Rows], Array], n: int, tile: int | None) -> Float[Array, " n"]:
    """`form` of every token, one tile at a time; the last tile may repeat the last token."""
    if tile is None:
        tile = n if n <= UNTILED else TILE
    if tile >= n:
        return form(slice(None))  # no indices: they would copy the tokens
    count = -(-n // tile)
    tiles = jnp.minimum(jnp.arange(count * tile), n - 1).reshape(count, tile)
    return jax.lax.map(form, tiles).reshape(-1)[:n]


def _centred(tokens: Float[Array, "n d"], valid: Bool[Array, " n"]) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Tokens minus their mean, in float32 or better, and their squared norms."""
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    mean = jnp.sum(tokens, axis=0, where=valid[:, None]) / jnp.maximum(jnp.sum(valid), 1)
    tokens = tokens - mean
    return tokens, jnp.sum(tokens**2, axis=1)


def _squared_distances(tokens: Float[Array, "n d"], norms: Float[Array, " n"], rows: Rows) -> Float[Array, "r n"]:
    """Squared Euclidean distances of some tokens to all of them, by one matrix product.

    `|a|^2 + |b|^2 - 2ab` loses precision if tokens lie close together but far from the origin, so they are centred
    first. What is below the rounding error becomes 0, so that duplicates have the distance 0.
    """
    product = jnp.matmul(tokens[rows], tokens.T, precision=jax.lax.Precision.HIGHEST)
    sums = norms[rows, None] + norms
    squared = sums - 2 * product
    return jnp.where(squared > 16 * jnp.finfo(squared.dtype).eps * sums, squared, 0.0)


def _mean_of_lowest(values: Float[Array, "r n"], count: int) -> Float[Array, " r"]:
    """Mean of the `count` lowest finite numbers of each row, or of as many as there are.

    It takes one minimum after the other, with its duplicates; for a few minima that costs less than a sort.
    """
    values = jax.lax.optimization_barrier(values)  # not computed again in each pass
    lowest, total, found = -jnp.inf, *jnp.zeros((2, len(values)), values.dtype)
    for _ in range(min(count, values.shape[1])):
        lowest = jnp.min(values, axis=1, keepdims=True, where=values > lowest, initial=jnp.inf)
        of_them = jnp.minimum(jnp.sum(values == lowest, axis=1), count - found)
        of_them = jnp.where(jnp.isfinite(lowest[:, 0]), of_them, 0)
        total, found = total + jnp.where(of_them > 0, lowest[:, 0], 0) * of_them, found + of_them
    return total / jnp.maximum(found, 1)
