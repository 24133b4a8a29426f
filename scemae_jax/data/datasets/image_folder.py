"""A person's own folder of images of which nothing is known."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import tensorflow_datasets as tfds
from PIL import Image

from scemae_jax.data.formats import EXTENSIONS, list_images
from scemae_jax.data.images import DatasetError, encoded, fit, in_threads, open_upright
from scemae_jax.data.masks import OWN, layout_of
from scemae_jax.faces.frame import FRAME


@dataclasses.dataclass(eq=False)
class ImageFolderConfig(tfds.core.BuilderConfig):
    """One state of one folder: `name` ends with the fingerprint of its files."""

    root: str = ""
    height: int = FRAME.image_size
    width: int = FRAME.image_size
    fingerprint: str = ""


def folder_of_images(root: str | os.PathLike) -> Path:
    """The folder whose images count: its `images` if it has that, else itself.

    Raises:
      DatasetError: there is no such folder, or it holds masks beside images.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder: name one of images ({', '.join(EXTENSIONS)})")
    layout = layout_of(root)
    if layout.nested or (layout is not OWN and layout.images != OWN.images):
        raise DatasetError(
            f"{root} holds masks beside images, which would be taken for images: name {root / layout.images}, or the "
            "part of it to train on"
        )
    return (root / OWN.images if (root / OWN.images).is_dir() else root).resolve()


def _listed(folder: Path) -> tuple[dict[str, int], str]:
    """The images (file -> bytes), and their fingerprint."""
    images = list_images(folder)
    if not images:
        raise DatasetError(f"{folder} holds no image; expected {', '.join(EXTENSIONS)} in it or its sub-folders")
    digest = hashlib.sha256()
    for file, size in sorted(images.items()):
        digest.update(os.fsencode(f"\0{file}\0{size}\0{(folder / file).stat().st_mtime_ns}"))
    return images, digest.hexdigest()[:12]


def image_folder_config(
    root: str | os.PathLike, size: tuple[int, int] = (FRAME.image_size, FRAME.image_size)
) -> ImageFolderConfig:
    """Lists the folder, whose images become `size`, (height, width).

    Raises:
      DatasetError: as `folder_of_images`, or there is no image.
    """
    folder = folder_of_images(root)
    _, fingerprint = _listed(folder)
    label = re.sub(r"[^a-z0-9]+", "_", Path(root).expanduser().resolve().name.lower()).strip("_") or "folder"
    return ImageFolderConfig(
        name=f"{label}-{size[1]}x{size[0]}-{fingerprint}", root=str(folder), height=size[0], width=size[1],
        fingerprint=fingerprint,
    )  # fmt: skip


class ImageFolder(tfds.core.GeneratorBasedBuilder):
    """Images of one folder and its sub-folders, as `ImageFolder(config=image_folder_config(root), data_dir=...)`.

    Feature: `image` uint8 [h, w, 3], scaled to fit into the size and centred, mid-grey around it. All are of the split
    `unlabeled`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, config: ImageFolderConfig, file_format: str = "array_record", **kwargs):
        super().__init__(config=config, file_format=file_format, **kwargs)

    @property
    def builder_config(self) -> ImageFolderConfig:
        return cast(ImageFolderConfig, super().builder_config)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self.builder_config.height, self.builder_config.width, 3)
        return tfds.core.DatasetInfo(
            builder=self,
            description="A folder of images.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=shape, encoding_format="jpeg")},
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        del dl_manager  # nothing to download
        images, fingerprint = _listed(Path(self.builder_config.root))
        if fingerprint != self.builder_config.fingerprint:
            raise DatasetError(f"{self.builder_config.root!r} changed while it was read; run again")
        return {"unlabeled": self._generate_examples(sorted(images))}

    def _generate_examples(self, files: list[str]) -> Iterator[tuple[bytes, dict]]:
        for file, image in in_threads(self._prepare, files):
            yield os.fsencode(file), {"image": encoded(image, "JPEG")}

    def _prepare(self, file: str) -> tuple[str, Image.Image]:
        size = (self.builder_config.height, self.builder_config.width)
        return file, fit(open_upright(Path(self.builder_config.root, file)), size)
