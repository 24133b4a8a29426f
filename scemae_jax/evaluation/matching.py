"""Landmark matching: finds a landmark of a face in another view of it, and in another person's face.

The protocol of ContrastLandmark (Cheng et al. 2021), which SCE-MAE follows: cosine similarity of maps that are
upsampled to the window, all landmarks counted. Pairs, warps and the unit (pixels of a 70x70 image) are those of DVE
(Thewlis et al. 2019). DVE itself does not upsample its map: it compares the nearest cells by inner products, which is
harsher.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from tqdm import tqdm

from scemae_jax.data.record import AnnotatedFaces
from scemae_jax.evaluation.measurement import Measurement, as_table, measurements, over
from scemae_jax.faces.frame import FRAME, Frame
from scemae_jax.ops.correspondence import predict_matches
from scemae_jax.ops.tps import ThinPlateWarp

METRIC, UNIT = "matching error", "pixels of a 70x70 image"
UNIT_SIZE = 70
FAR = 8.0
"""A query is far if its true match is more than this many units away from it."""
PATCH = 15
"""Side of the raw RGB patches of the baseline, in pixels."""
PAIRS_AT_ONCE = 8

FeatureFn = Callable[[Float[Array, "b 136 136 3"]], Float[Array, "b g g c"]]


class Kind(NamedTuple):
    """A kind of features."""

    method: str
    position_free: bool = False
    """Whether the mean feature of each position was taken away."""

    def fields(self) -> dict[str, Any]:
        """Those of its measurements."""
        return {"method": self.method, **({"position_free": True} if self.position_free else {})}


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
        once, points_once = first.image(image), first.landmarks(points, *image.shape[:2])
        twice, points_twice = second.image(once), second.landmarks(points_once, *image.shape[:2])
        return Views(once, twice, points_once, points_twice)

    return jax.lax.map(lambda arguments: views(*arguments), (keys, images, landmarks))


def matching_error(
    predicted: Float[Array | np.ndarray, "... 2"],
    truth: Float[Array | np.ndarray, "... 2"],
    window: int = FRAME.window,
) -> Float[Array, "..."]:
    """Euclidean distance of points in pixels of the window, scaled to a 70x70 image."""
    return UNIT_SIZE / window * jnp.linalg.norm(jnp.asarray(predicted) - jnp.asarray(truth), axis=-1)


def consecutive_pairs(count: int, limit: int = 0) -> Int[np.ndarray, "p 2"]:
    """Pairs of images in their order; at most `limit` of them, or all if that is 0."""
    pairs = np.arange(count // 2 * 2).reshape(-1, 2)
    return pairs[:limit] if limit else pairs


def random_pairings(pairs: Int[np.ndarray, "p 2"], count: int, seed: int) -> Int[np.ndarray, "count p 2"]:
    """Random other pairings of the images of `pairs`."""
    orders = [np.random.default_rng((seed, number)).permutation(pairs.ravel()) for number in range(count)]
    return np.array(orders, pairs.dtype).reshape(count, len(pairs), 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """Distances in units of the protocol, one for each pair and landmark."""

    same: Float[np.ndarray, "p l"]
    different: Float[np.ndarray, "p l"]
    far: Bool[np.ndarray, "p l"]
    """Whether the true match in the other person is far from the query."""
    clamped: Bool[np.ndarray, "p l"]
    """Whether the landmark was outside the window in the reference, so that the query is at the window's edge."""

    def __getitem__(self, part: Any) -> Errors:
        """Those of some of the pairs, or of some of the landmarks: `errors[:, :5]`."""
        return Errors(**{field.name: getattr(self, field.name)[part] for field in dataclasses.fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[Errors]) -> Errors:
        """Pairs of all parts in turn."""
        return cls(**{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(cls)
        })  # fmt: skip

    def measurements(self, **fields: Any) -> list[Measurement]:
        """Mean error, deviation of the pairs' means, and number of landmarks, for each case.

        Args:
          fields: what else the rows say.
        """
        everything = np.ones_like(self.far)
        return [
            _measured(self.same, everything, case="same", **fields),
            _measured(self.different, everything, case="different", **fields),
            _measured(self.different, self.far, case="different, far", **fields),
        ]


def over_pairings(errors: Errors, count: int, **fields: Any) -> list[Measurement]:
    """Errors of `count` random pairings, one after the other: mean of their mean errors and its sample deviation.

    *Different, far* is over the pairings that have a far landmark; of fewer than two pairings there is no deviation.
    """
    pairings = np.split(np.arange(len(errors.same)), count)
    rows = [row for i, part in enumerate(pairings) for row in errors[part].measurements(pairing=i, **fields)]
    return measurements(over(as_table(rows), "pairing").assign(random_pairings=count))


def _measured(errors: Float[np.ndarray, "p l"], counted: Bool[np.ndarray, "p l"], **fields: Any) -> Measurement:
    fields = {"metric": METRIC, "unit": UNIT, "n": int(counted.sum()), **fields}
    if not counted.any():
        return Measurement.of(**fields)
    means = [row[of].mean() for row, of in zip(errors, counted, strict=True) if of.any()]
    return Measurement.of(value=float(errors[counted].mean()), deviation=float(np.std(means)), **fields)


class _Block(NamedTuple):
    """Pairs that are matched together: the views of their images, and where in them each pair is."""

    views: Float[np.ndarray, "v 136 136 3"]
    rows: Int[np.ndarray, "p 3"]
    """Of `views`: A warped twice, A warped once, B warped once."""
    queries: Float[np.ndarray, "p l 2"]
    """In pixels of the window, like the truths, but clamped to it."""
    clamped: Bool[np.ndarray, "p l"]
    same: Float[np.ndarray, "p l 2"]
    different: Float[np.ndarray, "p l 2"]


def _blocks(
    faces: AnnotatedFaces, pairs: Int[np.ndarray, "p 2"], seed: int, frame: Frame, few: int
) -> Iterator[_Block]:
    """All pairs at once where an image is in several of them, so that it is warped once; else a `few` at a time."""
    recurring = len(np.unique(pairs)) < pairs.size
    key = jax.random.key(seed)
    keys_of = jax.vmap(lambda i: jax.random.fold_in(key, i))

    def warped(images: np.ndarray) -> Views:
        pixels = jnp.asarray(faces.images[images], jnp.float32) / 255.0
        return warped_views(keys_of(images), pixels, jnp.asarray(faces.landmarks[images]))

    at_once = len(pairs) if recurring else few
    for start in range(0, len(pairs), at_once):
        chunk = pairs[start : start + at_once]
        images, places = np.unique(chunk, return_inverse=True)
        a, b = places.reshape(-1, 2).T
        references, reference = np.unique(a, return_inverse=True)
        once, twice, points_once, points_twice = in_batches(warped, 2 * few, images)
        landmarks = frame.to_window(points_twice[a])  # whole pixels
        queries = np.clip(landmarks, 0, frame.window - 1)
        yield _Block(
            views=np.concatenate([twice[references], once]),
            rows=np.stack([reference, len(references) + a, len(references) + b], axis=1),
            queries=queries,
            clamped=(queries != landmarks).any(axis=-1),
            same=frame.to_window(points_once[a]),
            different=frame.to_window(points_once[b]),
        )


def in_batches(function: Callable[..., Any], size: int, *arrays: np.ndarray) -> Any:
    """Applies a function to rows of arrays, `size` rows at a time: always one shape, so that it compiles once."""
    parts = []
    for start in range(0, len(arrays[0]), size):
        batch = [array[start : start + size] for array in arrays]
        count = len(batch[0])
        filled = [np.concatenate([rows, np.repeat(rows[-1:], size - count, axis=0)]) for rows in batch]
        parts.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], function(*filled)))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *found: np.concatenate(found), *parts)


@functools.partial(jax.jit, static_argnames="window")
def _predict(
    reference: Float[Array, "b g g c"],
    same: Float[Array, "b g g c"],
    different: Float[Array, "b g g c"],
    queries: Float[Array, "b l 2"],
    mean: Float[Array, "*g_g_c"],
    window: int,
) -> tuple[Float[Array, "b l 2"], Float[Array, "b l 2"]]:
    def of_pair(pair: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        reference, same, different = (features - mean for features in pair[:3])
        same_found = predict_matches(reference, same, pair[3], window)
        return same_found, predict_matches(reference, different, pair[3], window)

    return jax.lax.map(of_pair, (reference, same, different, queries))  # batched, XLA's products are slow on a CPU


def match(
    faces: AnnotatedFaces,
    features: Mapping[str, FeatureFn | None],
    *,
    pairs: Int[np.ndarray, "p 2"],
    seed: int,
    position_means: Mapping[str, Float[np.ndarray, "g g c"]] = MappingProxyType({}),
    frame: Frame = FRAME,
) -> dict[Kind, Errors]:
    """Errors of each kind of features on the same pairs and warps, of every landmark of every pair.

    A query outside the window is moved to the nearest pixel of the window; the truth may lie outside (as in
    ContrastLandmark, Cheng et al. 2021).

    If an image is in several pairs, its two views and their maps are computed once and kept, for one kind of features
    at a time. Otherwise only those of a few pairs are in memory.

    Args:
      faces: annotated; landmarks in pixels of their images.
      features: by name; None answers with the query's own location, clamped to the window.
      pairs: indices (A, B) of images. The reference is A warped twice; "same" pairs it with A warped once,
        "different" with B warped once.
      seed: of the warps; image i has the same warps in every pair.
      position_means: for some of the features, by name (see `position_mean`). These are measured position-free too, on
        the same maps minus this mean. What is left encodes what a patch shows, not where it is.
      frame: sizes of the images, and of the window that the maps are of.

    Raises:
      ValueError: there are no pairs, or a landmark is unknown.
    """
    if not len(pairs):
        raise ValueError(f"no pair to match: {len(faces)} annotated images, and two make a pair")
    if not np.isfinite(faces.landmarks).all():
        raise ValueError("matching needs faces with all landmarks known: use faces.annotated()")
    collected: dict[Kind, list[Errors]] = {}
    progress = tqdm(total=len(pairs) * len(features), desc="match", unit="pair", mininterval=5)
    few = min(PAIRS_AT_ONCE, len(pairs))
    for block in _blocks(faces, pairs, seed, frame, few):
        for name, feature_fn in features.items():
            if feature_fn is None:
                collected.setdefault(Kind(name), []).append(_errors(block, block.queries, block.queries, frame.window))
                progress.update(len(block.rows))
                continue
            maps = in_batches(feature_fn, 3 * few, block.views)
            removed = {Kind(name): np.zeros((), np.float32)}
            if name in position_means:
                removed[Kind(name, position_free=True)] = position_means[name]
            for kind, mean in removed.items():
                same, different = in_batches(
                    lambda rows, queries, maps=maps, mean=mean: _predict(*maps[rows.T], queries, mean, frame.window),
                    few, block.rows, block.queries,
                )  # fmt: skip
                collected.setdefault(kind, []).append(_errors(block, same, different, frame.window))
            progress.update(len(block.rows))
    progress.close()
    return {kind: Errors.joined(parts) for kind, parts in collected.items()}


def _errors(
    block: _Block, same: Float[np.ndarray, "p l 2"], different: Float[np.ndarray, "p l 2"], window: int
) -> Errors:
    """Of the predictions for a block of pairs."""
    return Errors(
        same=np.asarray(matching_error(same, block.same, window)),
        different=np.asarray(matching_error(different, block.different, window)),
        far=np.asarray(matching_error(block.queries, block.different, window) > FAR),
        clamped=block.clamped,
    )


@functools.partial(jax.jit, static_argnames="frame")
def raw_patches(images: Float[Array, "b 136 136 3"], frame: Frame = FRAME) -> Float[Array, "b 96 96 675"]:
    """Baseline features: the 15x15 RGB patch around each pixel of the window, minus its mean colour.

    Raises:
      ValueError: the window leaves no room for the patches of its outer pixels.
    """
    if frame.offset < PATCH // 2:
        raise ValueError(
            f"raw patches of {PATCH} pixels reach {PATCH // 2} beyond the window, and a window of {frame.window} in "
            f"images of {frame.image_size} leaves {frame.offset}: choose a smaller window or larger images"
        )

    def patches(image: Array) -> Array:
        rim, side = frame.offset - PATCH // 2, frame.window + PATCH - 1
        area = image[None, rim : rim + side, rim : rim + side]
        found = jax.lax.conv_general_dilated_patches(
            area, (PATCH, PATCH), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        by_colour = found.reshape(frame.window, frame.window, 3, -1)
        return (by_colour - by_colour.mean(axis=-1, keepdims=True)).reshape(frame.window, frame.window, -1)

    return jax.lax.map(patches, images)


def position_mean(feature_fn: FeatureFn, images: Any, batch: int = 32) -> Float[np.ndarray, "g g c"]:
    """The features' mean over `images` at each position of the map: the part that encodes position alone."""
    total = sum(feature_fn(images[i : i + batch]).sum(axis=0) for i in range(0, len(images), batch))
    return np.asarray(total / len(images))
