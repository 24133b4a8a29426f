"""Landmark matching: one landmark of a face is sought in another view of it, and in another person's face.

The protocol of DVE (Thewlis et al. 2019), in its unit: pixels of a 70x70 image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num
from tqdm import tqdm

from scemae_jax.data.sources import Faces
from scemae_jax.model import IMAGE_SIZE, WINDOW
from scemae_jax.ops.tps import ThinPlateWarp

UNIT = "pixels of a 70x70 image"
SCALE = 70 / WINDOW
FAR = 8.0
"""A query is far if its true match is more than this many units away from it in the frame."""
PATCH = 15
"""Side of the raw RGB patches of the baseline, in pixels."""
PAIRS_AT_ONCE = 8

FeatureFn = Callable[[Float[Array, "b 136 136 3"]], Float[Array, "b g g c"]]


class Views(NamedTuple):
    """Two views of each image: warped once, and warped again."""

    once: Float[Array, "b 136 136 3"]
    twice: Float[Array, "b 136 136 3"]
    landmarks_once: Float[Array, "b l 2"]
    landmarks_twice: Float[Array, "b l 2"]


@jax.jit
def warped_views(keys: Key[Array, "b"], images: Float[Array, "b 136 136 3"], landmarks: Float[Array, "b l 2"]) -> Views:
    """Thin-plate-spline views of images in [0, 1]; landmarks in pixels."""

    def views(key: Array, image: Array, points: Array) -> Views:
        first, second = (ThinPlateWarp.sample(k) for k in jax.random.split(key))
        once, points_once = first.image(image), first.landmarks(points, IMAGE_SIZE, IMAGE_SIZE)
        twice, points_twice = second.image(once), second.landmarks(points_once, IMAGE_SIZE, IMAGE_SIZE)
        return Views(once, twice, points_once, points_twice)

    return jax.lax.map(lambda arguments: views(*arguments), (keys, images, landmarks))


def upsampled(features: Float[Array, "*b g g c"]) -> Float[Array, "*b 96 96 c"]:
    """A feature for each pixel of the window, bilinearly between those of the map, and of unit length."""
    features = jax.image.resize(features, (*features.shape[:-3], WINDOW, WINDOW, features.shape[-1]), "linear")
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def features_at(features: Float[Array, "g g c"], points: Num[Array | np.ndarray, "l 2"]) -> Float[Array, "l c"]:
    """The upsampled map at points (x, y) of the window, which are rounded, and clipped to it."""
    x, y = jnp.clip(jnp.round(points), 0, WINDOW - 1).astype(jnp.int32).T
    return upsampled(features)[y, x]


def predict_matches(
    reference: Float[Array, "g g c"], other: Float[Array, "h h c"], queries: Float[Array, "l 2"]
) -> Float[Array, "l 2"]:
    """For each query (x, y) of the window, the pixel of the other map with the highest cosine similarity.

    Maps are upsampled bilinearly to the window; queries are rounded, and clipped to it.
    """
    similarity = features_at(reference, queries) @ upsampled(other).reshape(WINDOW * WINDOW, -1).T
    best = jnp.argmax(similarity, axis=-1)
    return jnp.stack([best % WINDOW, best // WINDOW], axis=-1).astype(jnp.float32)


def matching_error(
    predicted: Float[Array | np.ndarray, "... 2"], truth: Float[Array | np.ndarray, "... 2"]
) -> Float[Array, "..."]:
    """Euclidean distance of points in pixels of the 96x96 window, scaled to a 70x70 image."""
    return SCALE * jnp.linalg.norm(jnp.asarray(predicted) - jnp.asarray(truth), axis=-1)


def in_window(points: Float[np.ndarray, "... 2"]) -> Bool[np.ndarray, "..."]:
    """Whether the pixels nearest to points (x, y) of the window belong to it."""
    return np.all((points >= -0.5) & (points <= WINDOW - 0.5), axis=-1)


def consecutive_pairs(count: int, limit: int = 0) -> Int[np.ndarray, "p 2"]:
    """Images in their order, two by two; at most `limit` pairs unless that is 0."""
    pairs = np.arange(count // 2 * 2).reshape(-1, 2)
    return pairs[:limit] if limit else pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """Distances in units of the protocol, one for each pair and landmark; NaN where a point left the window."""

    same: Float[np.ndarray, "p l"]
    different: Float[np.ndarray, "p l"]
    far: Bool[np.ndarray, "p l"]
    """Whether the true match in the other person is far from the query."""

    def columns(self, part: slice) -> Errors:
        """Those of some of the landmarks."""
        return Errors(same=self.same[:, part], different=self.different[:, part], far=self.far[:, part])

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Mean error, deviation of the pairs' means, and number of landmarks (None of none); JSON-able."""
        far = np.where(self.far, self.different, np.nan)
        cases = {"same": self.same, "different": self.different, "different, far": far}
        return {name: _summary(errors) for name, errors in cases.items()}


def _summary(errors: Float[np.ndarray, "p l"]) -> dict[str, float | None]:
    known = np.isfinite(errors)
    counted = known.any(axis=1)
    means = np.array([row[ok].mean() for row, ok in zip(errors[counted], known[counted], strict=True)])
    return {
        "error": float(errors[known].mean()) if known.any() else None,
        "deviation": float(means.std()) if len(means) else None,
        "count": int(known.sum()),
    }


def match(
    faces: Faces,
    features: Mapping[str, FeatureFn | None],
    *,
    pairs: Int[np.ndarray, "p 2"],
    seed: int,
) -> dict[str, Errors]:
    """Errors of each kind of features on the same pairs and warps.

    Args:
      faces: annotated; landmarks in pixels of 136x136.
      features: by name; None answers with the query's own location.
      pairs: indices (A, B) of images. The reference is A warped twice; "same" pairs it with A warped once,
        "different" with B warped once.
      seed: of the warps; image i is warped alike in whichever pair it occurs.

    Raises:
      ValueError: there are no pairs, or a landmark is unknown.
    """
    if not len(pairs):
        raise ValueError(f"no pair to match: {len(faces)} annotated images, and two make a pair")
    if not np.isfinite(faces.landmarks).all():
        raise ValueError("matching needs faces with all landmarks known: use faces.annotated()")
    key, offset = jax.random.key(seed), (IMAGE_SIZE - WINDOW) // 2
    predict = jax.jit(jax.vmap(predict_matches))
    collected: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in features}
    far, inside_same, inside_different = [], [], []

    for start in tqdm(range(0, len(pairs), PAIRS_AT_ONCE), desc="match", unit="batch", mininterval=5):
        chunk = pairs[start : start + PAIRS_AT_ONCE]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], PAIRS_AT_ONCE - len(chunk), axis=0)]).T.ravel()
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(filled))
        images = jnp.asarray(faces.images[filled], jnp.float32) / 255.0
        views = warped_views(keys, images, jnp.asarray(faces.landmarks[filled]))
        a, b = slice(0, PAIRS_AT_ONCE), slice(PAIRS_AT_ONCE, None)
        queries = views.landmarks_twice[a] - offset
        truths = {"same": views.landmarks_once[a] - offset, "different": views.landmarks_once[b] - offset}

        kept = slice(0, len(chunk))
        visible = in_window(np.asarray(queries))
        inside_same.append((visible & in_window(np.asarray(truths["same"])))[kept])
        inside_different.append((visible & in_window(np.asarray(truths["different"])))[kept])
        far.append(np.asarray(matching_error(queries, truths["different"]) > FAR)[kept])
        for name, feature_fn in features.items():
            if feature_fn is None:
                predicted = dict.fromkeys(truths, queries)
            else:
                maps = feature_fn(jnp.concatenate([views.twice[a], views.once[a], views.once[b]]))
                reference, same, different = jnp.split(maps, 3)
                predicted = {
                    "same": predict(reference, same, queries),
                    "different": predict(reference, different, queries),
                }
            errors = [np.asarray(matching_error(predicted[case], truths[case]))[kept] for case in truths]
            collected[name].append((errors[0], errors[1]))

    def joined(chunks: list[np.ndarray], inside: list[np.ndarray]) -> np.ndarray:
        return np.where(np.concatenate(inside), np.concatenate(chunks), np.nan)

    return {
        name: Errors(
            same=joined([same for same, _ in chunks], inside_same),
            different=joined([different for _, different in chunks], inside_different),
            far=np.concatenate(far),
        )
        for name, chunks in collected.items()
    }


@jax.jit
def raw_patches(images: Float[Array, "b 136 136 3"]) -> Float[Array, "b 96 96 675"]:
    """Baseline features: the 15x15 RGB patch around each pixel of the window, its mean colour removed."""

    def patches(image: Array) -> Array:
        rim = (IMAGE_SIZE - WINDOW) // 2 - PATCH // 2
        area = image[None, rim : IMAGE_SIZE - rim, rim : IMAGE_SIZE - rim]
        found = jax.lax.conv_general_dilated_patches(
            area, (PATCH, PATCH), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        by_colour = found.reshape(WINDOW, WINDOW, 3, -1)
        return (by_colour - by_colour.mean(axis=-1, keepdims=True)).reshape(WINDOW, WINDOW, -1)

    return jax.lax.map(patches, images)


def without_position(feature_fn: FeatureFn, images: Any, batch: int = 32) -> FeatureFn:
    """The same features with each position's mean over `images` removed: what is left says what, not where."""
    total = sum(feature_fn(images[i : i + batch]).sum(axis=0) for i in range(0, len(images), batch))
    mean = total / len(images)
    return lambda views: feature_fn(views) - mean
