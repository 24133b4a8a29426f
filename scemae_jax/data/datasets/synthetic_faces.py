"""The dataset `synthetic_faces` for TFDS: drawn when it is prepared, from seeds alone."""

import io
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from scemae_jax.synthetic_faces.drawing import SIZE, draw_face
from scemae_jax.synthetic_faces.occluders import OCCLUDERS
from scemae_jax.synthetic_faces.texture import PARTS

_DESCRIPTION = """
Drawn faces with exact annotations: 136x136 images of people who vary in head, features, skin, hair, beard
and glasses, under changing pose, expression, light, clothes, background and camera. Each has the 68
landmarks of the usual scheme with their visibility, a part mask, an occluder mask and the number of the
person. Landmarks are points of a 3-D surface, so they stay at the same place of the face under every pose.
Made without any photograph.
"""
_SPLITS = ("train", "validation", "test")
_CHUNK = 50  # images a worker draws at a time
_FIRST_SUBJECT = {"train": 0, "validation": 1_000_000, "test": 2_000_000}


@dataclass(kw_only=True)
class SyntheticFacesConfig(tfds.core.BuilderConfig):
    """How many images: ``images`` of each split, ``frames`` of each person; ``occluded`` is the share with an
    occluder."""

    images: dict[str, int]
    frames: int = 5
    occluded: float = 0.0
    seed: int = 0


def _config(name: str, description: str, counts: tuple[int, int, int], **options: Any) -> SyntheticFacesConfig:
    images: dict[str, int] = dict(zip(_SPLITS, counts, strict=True))
    return SyntheticFacesConfig(name=name, version="1.0.0", description=description, images=images, **options)


class SyntheticFaces(tfds.core.GeneratorBasedBuilder):
    """Synthetic faces; no person is in two splits."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 - the name and type are TFDS's
        _config("default", "3,000 training images of 600 people.", (3000, 300, 600)),
        _config("tiny", "For tests.", (120, 20, 40)),
        _config("large", "20,000 training images of 4,000 people.", (20_000, 1000, 2000)),
        _config("occluded", "As default; half of the images have an occluder.", (3000, 300, 600), occluded=0.5),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        mask = tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png")
        features = {
            "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="jpeg"),
            "landmarks": tfds.features.Tensor(shape=(68, 2), dtype=np.float32),
            "visible": tfds.features.Tensor(shape=(68,), dtype=np.bool_),
            "parts": mask,
            "occluder": mask,
            "subject": tfds.features.Scalar(dtype=np.int64),
        }
        metadata = tfds.core.MetadataDict(parts=PARTS, occluders=OCCLUDERS)
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            metadata=metadata,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to fetch
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        assert isinstance(config, SyntheticFacesConfig)
        count = config.images[split]
        chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
        workers = min(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            len(chunks),
        )
        arguments = (
            chunks,
            *([value] * len(chunks) for value in (split, config.seed, config.frames, config.occluded)),
        )
        if count <= 4 * _CHUNK or workers < 2:  # a pool costs more than it saves
            for chunk in map(encoded_examples, *arguments):
                yield from chunk
            return
        # Workers start afresh: a fork of a process with JAX's threads can hang.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            for chunk in pool.map(encoded_examples, *arguments):
                yield from chunk


def encoded_examples(
    indices: range, split: str, seed: int, frames: int, occluded: float
) -> list[tuple[int, dict[str, Any]]]:
    """Draws and encodes the examples with these indices; each depends only on seed, split and index."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return [(index, _example(index, split, seed, frames, occluded)) for index in indices]
    finally:
        cv2.setNumThreads(threads)


def _example(index: int, split: str, seed: int, frames: int, occluded: float) -> dict[str, Any]:
    subject, frame = _FIRST_SUBJECT[split] + index // frames, index % frames
    chance = np.random.default_rng([seed, subject, frame]).random()
    face = draw_face(seed=seed, subject=subject, frame=frame, occluder=bool(chance < occluded))
    return {
        "image": _encode(".jpg", face.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]),
        "landmarks": face.landmarks,
        "visible": face.visible,
        "parts": _encode(".png", face.parts),
        "occluder": _encode(".png", face.occluder),
        "subject": face.subject,
    }


def _encode(extension: str, image: np.ndarray, options: list[int] | None = None) -> io.BytesIO:
    return io.BytesIO(cv2.imencode(extension, image, options or [])[1].tobytes())
