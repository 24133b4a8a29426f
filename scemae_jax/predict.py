"""Finds the parts of faces in image files.

  python -m scemae_jax.predict --model runs/parts/export/parts.msgpack photographs anna.jpg --parts found

Each INPUT is an image file or a folder (jpg, png, webp). Of each image `--parts` gets a PNG in its own size, upright
(EXIF), whose values are classes; `classes.csv` names them. Sub-folders stay. `a.jpg` becomes `a.png`; where two images
of a folder would become the same, theirs are `a.jpg.png` and `a.webp.png`. `--overlay` gets each image blended with the
colours of its parts. The whole image is taken as the face: cut faces out first.

A file that cannot be read is listed in `PARTS.skipped.csv`, and the others go on. Nothing is overwritten without
`--overwrite`. Exit status: 0 done, 1 error, 3 done but some files were skipped.
"""

from __future__ import annotations

import collections
import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from scemae_jax.allocator import restart_keeping_freed_memory
from scemae_jax.command_line import exit_status, start
from scemae_jax.data.class_maps import CLASSES
from scemae_jax.data.formats import EXTENSIONS, list_images
from scemae_jax.data.images import DatasetError, in_threads, on_square, open_upright
from scemae_jax.faces.parts import PartScheme
from scemae_jax.model import Model, most_probable
from scemae_jax.model_file import load

SKIPPED_SOME = 3
"""Exit status: some files could not be used, the others are done."""
AT_ONCE = 16
"""Images that go through the network at a time."""


class Opened(NamedTuple):
    """An image that could be read."""

    name: str
    """Of what is written about it: a path below the output folder, without an ending."""
    upright: Image.Image
    square: UInt8[np.ndarray, "s s 3"]


class Outputs(NamedTuple):
    """Folders that are written to."""

    parts: Path
    overlay: Path | None

    def mask_of(self, name: str) -> Path:
        return self.parts / f"{name}.png"

    def overlay_of(self, name: str) -> Path | None:
        return self.overlay and self.overlay / f"{name}.jpg"

    @property
    def skipped(self) -> Path:
        """The list of files that could not be used."""
        return self.parts.with_name(f"{self.parts.name}.skipped.csv")

    def check(self, inputs: Sequence[str], images: Mapping[str, Path], *, overwrite: bool) -> None:
        """Raises ValueError where a file is there already, or is an input, or would become one of the next call."""
        for folder, text in itertools.product(filter(None, self), inputs):
            if folder.resolve().is_relative_to(Path(text).expanduser().resolve()):
                raise ValueError(f"{folder} is inside {text}, and masks would become images: choose a folder outside")
        files = [path for name in images for path in (self.mask_of(name), self.overlay_of(name)) if path]
        if lost := {path.resolve() for path in files} & set(images.values()):
            raise ValueError(f"{min(lost)} is an image to be read, and would be replaced: name another folder")
        there = [path for path in files if path.exists()]
        if there and not overwrite:
            raise ValueError(f"{there[0]} exists, {len(there)} such files in all: name another folder, or --overwrite")


def find_images(inputs: Sequence[str]) -> dict[str, Path]:
    """The image files that the inputs name, by the names for what is written about them, which differ.

    Raises:
      DatasetError: an input does not exist, is no image, or holds none; two inputs would have one name.
    """
    found: dict[Path, str] = {}
    for text in inputs:
        path = Path(text).expanduser().resolve()
        if path.is_dir():
            listed = sorted(list_images(path))
            if not listed:
                raise DatasetError(
                    f"{text!r} holds no image: expected {', '.join(EXTENSIONS)} in it or its sub-folders"
                )
            found |= {path / file: file for file in listed if path / file not in found}
        elif not path.is_file():
            raise DatasetError(f"{text!r} does not exist: name images, or folders of images")
        elif path.suffix.lower() not in EXTENSIONS:
            raise DatasetError(f"{text!r} is no image that is read here: {', '.join(EXTENSIONS)} are")
        else:
            found.setdefault(path, path.name)
    plain = {path: str(PurePosixPath(file).with_suffix("")) for path, file in found.items()}
    same = collections.Counter(name.casefold() for name in plain.values())  # as some file systems compare them
    named = {path: name if same[name.casefold()] == 1 else found[path] for path, name in plain.items()}
    by_name: dict[str, Path] = {}
    for path, name in named.items():
        if (other := by_name.setdefault(name.casefold(), path)) is not path:
            raise DatasetError(
                f"{other} and {path} would both become {name!r}: give a folder that holds both, or run twice"
            )
    return {name: path for path, name in named.items()}


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Writes a file under a temporary name first, so that no half file is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save(partial)
    partial.replace(path)


def write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    def save(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

    write(path, save)


def write_classes(folder: Path, parts: PartScheme, *, overwrite: bool) -> None:
    """Writes `classes.csv`, which `data.class_maps` reads.

    Raises:
      ValueError: the folder has one with other classes.
    """
    path, colours = folder / CLASSES, [f"#{bytes(colour).hex()}" for colour in parts.colours()]
    rows = [(str(value), *row) for value, row in enumerate(zip(parts.names, colours, strict=True))]
    if path.exists() and not overwrite:
        with path.open(newline="", encoding="utf-8") as file:
            if [tuple(row) for row in csv.reader(file)][1:] != rows:
                raise ValueError(f"{path} names other classes than the model: name another folder, or --overwrite")
    write_table(path, [("value", "name", "colour"), *rows])


def opened(images: Mapping[str, Path], model: Model) -> Iterator[Opened | tuple[Path, str]]:
    """Each image with its square, or its file and why it cannot be used."""

    def read(item: tuple[str, Path]) -> Opened | tuple[Path, str]:
        name, path = item
        try:
            upright = open_upright(path)
        except DatasetError as error:
            return path, str(error)
        return Opened(name, upright, np.asarray(on_square(upright, model.frame.place(upright.size))))

    return in_threads(read, images.items())


def find_parts(model: Model, images: Sequence[Opened]) -> list[UInt8[np.ndarray, "h w"]]:
    """The parts of at most `AT_ONCE` images, each in its own size."""
    squares = np.stack([image.square for image in images])
    missing = AT_ONCE - len(squares)  # always as many, so that the network is compiled once
    maps = model.parse_probabilities(np.pad(squares, ((0, missing), (0, 0), (0, 0), (0, 0))))
    return [most_probable(own, model.frame.place(image.upright.size)) for own, image in zip(maps, images, strict=False)]


def write_parts(image: Opened, found: UInt8[np.ndarray, "h w"], colours: bytes, outputs: Outputs) -> None:
    mask = Image.fromarray(found)
    mask.putpalette(colours)
    write(outputs.mask_of(image.name), lambda partial: mask.save(partial, format="PNG"))
    if path := outputs.overlay_of(image.name):
        blended = Image.blend(image.upright, mask.convert("RGB"), 0.5)
        write(path, lambda partial: blended.save(partial, format="JPEG", quality=90))


def predict(model: Model, inputs: Sequence[str], outputs: Outputs, *, overwrite: bool) -> tuple[int, dict[Path, str]]:
    """Writes the parts of all images; returns how many these are, and of the files that cannot be used why.

    Raises:
      ValueError: the model has no parser, or as `Outputs.check`, `find_images` and `write_classes`.
    """
    parts, names = PartScheme(names=model.part_names), find_images(inputs)
    outputs.check(inputs, names, overwrite=overwrite)
    write_classes(outputs.parts, parts, overwrite=overwrite)
    skipped: dict[Path, str] = {}

    def usable() -> Iterator[Opened]:
        for image in tqdm(opened(names, model), total=len(names), unit="image", mininterval=1):
            if isinstance(image, Opened):
                yield image
            else:
                skipped[image[0]] = image[1]

    waiting, colours = usable(), parts.colours().tobytes()
    while batch := list(itertools.islice(waiting, AT_ONCE)):
        for image, found in zip(batch, find_parts(model, batch), strict=True):
            write_parts(image, found, colours, outputs)
    return len(names) - len(skipped), skipped


def define_flags() -> None:
    """Not on import: another program has a --model too, and one process may import both."""
    flags.DEFINE_string("model", None, "A model file with a parser.")
    flags.DEFINE_string("parts", None, "Folder for a mask of each image.")
    flags.DEFINE_string("overlay", "", "Folder for each image with the colours of its parts over it.")
    flags.DEFINE_bool("overwrite", False, "Replace files that are there.")


def main(inputs: list[str]) -> None:
    given = flags.FLAGS
    overlay = Path(given.overlay).expanduser().resolve() if given.overlay else None
    outputs = Outputs(Path(given.parts).expanduser().resolve(), overlay)
    began = time.monotonic()
    with exit_status():
        print("the whole of each image is taken as the face: cut faces out first")
        count, skipped = predict(load(given.model), inputs, outputs, overwrite=given.overwrite)
        print(f"{outputs.parts}: parts of {count} images, in {time.monotonic() - began:.0f} s")
        outputs.skipped.unlink(missing_ok=True)  # of a call before
        if skipped:
            write_table(outputs.skipped, [("file", "reason"), *skipped.items()])
            print(f"{len(skipped)} files were skipped: {outputs.skipped} says why", file=sys.stderr)
            sys.exit(SKIPPED_SOME)


if __name__ == "__main__":
    restart_keeping_freed_memory()
    define_flags()
    start(main, "model", "parts", words="INPUT")
