"""How well features cluster by landmark over people.

The paper's Figures 1 and 5: t-SNE (van der Maaten and Hinton 2008) of landmark features, and the silhouette
coefficient (Rousseeuw 1987) of its points: 1 for tight clusters far apart, 0 for clusters that touch, below 0 if
features lie among those of another landmark.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from scemae_jax.evaluation import matching
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.faces.frame import FRAME, Frame
from scemae_jax.ops import correspondence

BATCH = 32


class Labelled(NamedTuple):
    """Features of unit length, and which landmark each of them is of, from 0."""

    features: Float[np.ndarray, "s c"]
    labels: Int[np.ndarray, "s"]


def visible(landmarks: Float[np.ndarray, "n l 2"], frame: Frame = FRAME) -> Bool[np.ndarray, "n l"]:
    """Which landmarks (x, y), in pixels of the images, are in the window; unknown ones are not."""
    points = frame.to_window(landmarks)
    return np.all((points >= -0.5) & (points <= frame.window - 0.5), axis=-1)


def landmark_labels(visible: Bool[np.ndarray, "n l"]) -> Int[np.ndarray, "s"]:
    """Which landmark, from 0, each visible one is, image by image."""
    return np.nonzero(visible)[1]


def landmark_features(
    feature_fn: matching.FeatureFn,
    images: Num[np.ndarray, "n 136 136 3"],
    landmarks: Float[np.ndarray, "n l 2"],
    frame: Frame = FRAME,
) -> Labelled:
    """Features of each visible landmark, read as those of a query in matching; image by image.

    Args:
      feature_fn: gives the maps of some images.
      images: as `feature_fn` takes them.
      landmarks: (x, y) in pixels of the images.
      frame: sizes of the images, and of the window that the maps are of.
    """
    read = jax.jit(jax.vmap(functools.partial(correspondence.features_at, window=frame.window)))
    points = jnp.asarray(frame.to_window(landmarks))
    found = [
        np.asarray(read(feature_fn(images[i : i + BATCH]), points[i : i + BATCH]))  # pyright: ignore[reportArgumentType] - NumPy's arrays serve
        for i in range(0, len(images), BATCH)
    ]
    seen = visible(landmarks, frame)
    return Labelled(np.concatenate(found)[seen], landmark_labels(seen))


def embed(features: Float[np.ndarray, "s c"], *, perplexity: float, seed: int) -> Float[np.ndarray, "s 2"]:
    """t-SNE in two dimensions, from a random start; from principal components all runs would be equal.

    Raises:
      ValueError: `perplexity` is not positive, or not less than the number of features.
    """
    from sklearn.manifold import TSNE  # here, since its import takes a second of every program's start

    with threadpool_limits(1, user_api="openmp"):  # with more threads it is slower
        return TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(features)


def silhouette(
    points: Float[np.ndarray, "s d"], labels: Int[np.ndarray, "s"], metric: Literal["euclidean", "cosine"]
) -> float:
    """Mean over the points of (b - a) / max(a, b).

    a is a point's mean distance to the others with its label, b its mean distance to the points of the nearest other
    label. A point that is alone with its label counts 0. The cosine distance is 1 - cos.

    Raises:
      ValueError: there are fewer than two labels, or not more points than labels.
    """
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points, labels, metric=metric))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Representation:
    """How features of one kind cluster by landmark."""

    silhouette: float
    """Of the features, by cosine distance."""
    embedded: Float[np.ndarray, "r"]
    """Silhouettes of each t-SNE, by the distance in the plane."""
    points: Float[np.ndarray, "s 2"]
    """Of the first t-SNE."""

    def measurements(self, **fields: Any) -> list[Measurement]:
        """The silhouettes, that of t-SNE as mean and sample deviation (None of one run)."""
        repeats, fields = len(self.embedded), {"metric": "silhouette", **fields}
        return [
            Measurement.of(value=self.silhouette, space="feature space", **fields),
            Measurement.of(
                value=float(self.embedded.mean()), deviation=float(self.embedded.std(ddof=1)) if repeats > 1 else None,
                n=repeats, space="t-SNE", **fields,
            ),
        ]  # fmt: skip


def represent(labelled: Labelled, *, perplexity: float, repeats: int, seed: int, name: str = "") -> Representation:
    """Silhouettes in the features' own space, and in the plane of t-SNE with seeds `seed`, `seed + 1` and so on.

    Args:
      labelled: from `landmark_features`.
      perplexity: of t-SNE, about the number of neighbours that count.
      repeats: runs of t-SNE, each from another start.
      seed: of the first run.
      name: for the progress bar.

    Raises:
      ValueError: as `embed` and `silhouette`, or there are no repeats.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: one t-SNE or more is needed")
    features, labels = labelled
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        runs = threads.map(lambda s: embed(features, perplexity=perplexity, seed=s), range(seed, seed + repeats))
        embedded = list(tqdm(runs, total=repeats, desc=f"t-SNE {name}".rstrip(), unit="run", mininterval=5))
    return Representation(
        silhouette=silhouette(features, labels, "cosine"),
        embedded=np.array([silhouette(points, labels, "euclidean") for points in embedded]),
        points=embedded[0],
    )


class Embedded(NamedTuple):
    """The plane of one t-SNE for each kind of features."""

    labels: Int[np.ndarray, "s"]
    points: dict[str, Float[np.ndarray, "s 2"]]

    def save(self, path: Path) -> None:
        """Writes an .npz file, all or nothing."""
        with (partial := path.with_suffix(".partial")).open("wb") as file:
            np.savez(file, allow_pickle=False, labels=self.labels, **self.points)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        with np.load(path) as file:
            arrays = dict(file)
        return cls(arrays.pop("labels"), arrays)
