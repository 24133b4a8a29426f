"""A person's own folder of images with masks (read by `data.masks`)."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from scemae_jax.data import masks
from scemae_jax.data.images import DatasetError, encoded, fit, in_threads, open_upright
from scemae_jax.faces.frame import FRAME
from scemae_jax.faces.parts import IGNORED


@dataclasses.dataclass(eq=False)
class MaskFolderConfig(tfds.core.BuilderConfig):
    """One state of one folder: `name` ends with the fingerprint of its files and classes."""

    root: str = ""
    classes: str = ""
    height: int = FRAME.image_size
    width: int = FRAME.image_size
    fingerprint: str = ""


def mask_folder_config(
    root: str | os.PathLike, classes: str = "", size: tuple[int, int] = (FRAME.image_size, FRAME.image_size)
) -> MaskFolderConfig:
    """Reads and checks the folder (not its pixels), whose images become `size`, (height, width).

    Raises:
      DatasetError: as `masks.read_mask_folder`.
    """
    folder = masks.read_mask_folder(root, classes)
    label = re.sub(r"[^a-z0-9]+", "_", folder.root.resolve().name.lower()).strip("_") or "folder"
    return MaskFolderConfig(
        name=f"{label}-{size[1]}x{size[0]}-{folder.fingerprint}", root=str(folder.root), classes=classes,
        height=size[0], width=size[1], fingerprint=folder.fingerprint,
    )  # fmt: skip


class MaskFolder(tfds.core.GeneratorBasedBuilder):
    """Images of one folder with their masks, as `MaskFolder(config=mask_folder_config(root), data_dir=...)`.

    Features: `image` uint8 [h, w, 3] and `parts` uint8 [h, w, 1], class indices, 255 where ignored. Images are scaled
    to fit into the size and centred, mid-grey and ignored around them. `info.metadata` holds the names of the classes
    (`parts`), their `groups`, and the pixels that each class has in each split (`pixels`).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, config: MaskFolderConfig, file_format: str = "array_record", **kwargs):
        super().__init__(config=config, file_format=file_format, **kwargs)

    @property
    def builder_config(self) -> MaskFolderConfig:
        return cast(MaskFolderConfig, super().builder_config)

    def _info(self) -> tfds.core.DatasetInfo:
        size = (self.builder_config.height, self.builder_config.width)
        return tfds.core.DatasetInfo(
            builder=self,
            description="A folder of images with masks.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(*size, 3), encoding_format="jpeg"),
                    "parts": tfds.features.Image(shape=(*size, 1), encoding_format="png"),
                }
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        del dl_manager  # nothing to download
        config = self.builder_config
        folder = masks.read_mask_folder(config.root, config.classes)
        if folder.fingerprint != config.fingerprint:
            raise DatasetError(f"{config.root!r} changed while it was read; run again")
        self._folder = folder
        splits = sorted({pair.split for pair in folder.pairs})
        self._pixels = {split: np.zeros(256, np.int64) for split in splits}
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        pairs = [pair for pair in self._folder.pairs if pair.split == split]
        for pair, image, mask in in_threads(self._prepare, pairs):
            self._pixels[split] += np.bincount(mask.ravel(), minlength=256)
            yield pair.stem, {"image": encoded(image, "JPEG"), "parts": encoded(Image.fromarray(mask), "PNG")}

    def _prepare(self, pair: masks.Pair) -> tuple[masks.Pair, Image.Image, np.ndarray]:
        image = open_upright(pair.image)
        labels = masks.read_mask(pair.mask, self._folder.classes, image.size, red=self._folder.layout.red)
        size = (self.builder_config.height, self.builder_config.width)
        mask = fit(Image.fromarray(labels), size, IGNORED, Image.Resampling.NEAREST)
        return pair, fit(image, size), np.asarray(mask)

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        names = self._folder.classes.scheme.names
        total = np.sum(list(self._pixels.values()), axis=0)
        if absent := [name for index, name in enumerate(names) if not total[index]]:
            logging.warning("no mask of %s has %s: nothing can be learnt of it", self._folder.root, ", ".join(absent))
        assert self.info.metadata is not None  # `_info` made it
        self.info.metadata.update(
            parts=list(names),
            groups=list(self._folder.classes.groups),
            pixels={split: counts[: len(names)].tolist() for split, counts in self._pixels.items()},
        )
