"""The archives that hold official datasets as prior work used them: fetched, checked, unpacked, and found again."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pooch
from absl import logging

from scemae_jax.data.images import DatasetError

HOST = "https://www.robots.ox.ac.uk/~vgg/research/DVE/data/datasets"
"""Where the authors of DVE (Thewlis et al., ICCV 2019) keep the datasets as they, and all after them, used them."""


@dataclass(frozen=True, kw_only=True)
class OfficialFiles:
    """The files of one dataset, as its authors lay them out, and the archive that holds them."""

    title: str
    archive: str
    size: str
    """Of the archive, for people."""
    sha1: str | None
    """Of the archive; None where it is not known."""
    folders: tuple[str, ...]
    """Where the tree may lie below the manual directory; the last is where it is put when it is unpacked."""
    marker: str
    """A file of the tree by which it is recognised."""
    layout: str
    """The tree, a line for each part."""
    host: str = HOST

    @property
    def url(self) -> str:
        return f"{self.host}/{self.archive}"

    @property
    def instructions(self) -> str:
        return (
            f"{self.title} is only downloaded if asked for (scemae_jax.prepare --download). Put into the manual "
            f"directory either {self.archive} ({self.size}) from\n  {self.url}\nor its files, as\n{self.layout}"
        )

    def find(self, manual_dir: str | os.PathLike) -> Path:
        """The tree in `manual_dir`; where only the archive is, that is checked and unpacked first.

        Raises:
          DatasetError: neither is there, or the archive is damaged or not the one whose SHA-1 is known.
        """
        manual_dir = Path(manual_dir).expanduser()
        if tree := self._tree_in(manual_dir):
            return tree
        archive = manual_dir / self.archive
        if not archive.is_file():
            raise DatasetError(f"no {self.title} in {str(manual_dir)!r}. {self.instructions}")
        tree = manual_dir / self.folders[-1]
        if tree.exists():
            raise DatasetError(
                f"{str(tree)!r} has no {self.marker}; complete or remove it, then {archive.name} is used"
            )
        self._check(archive)
        unpacking = manual_dir / f"{tree.name}.unpacking"
        shutil.rmtree(unpacking, ignore_errors=True)  # of an earlier, interrupted run
        try:
            with tarfile.open(archive) as members:
                members.extractall(unpacking, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DatasetError(f"{str(archive)!r} cannot be unpacked ({error})") from error
        unpacked = self._tree_in(unpacking)
        if unpacked is None:
            raise DatasetError(f"{str(archive)!r} does not hold {self.marker}. {self.instructions}")
        unpacked.rename(tree)
        shutil.rmtree(unpacking, ignore_errors=True)
        return tree

    def download(self, manual_dir: str | os.PathLike) -> None:
        """Fetches the archive into `manual_dir`, unless the tree or the archive is there.

        Raises:
          DatasetError: it cannot be fetched, or is not the one whose SHA-1 is known.
        """
        manual_dir = Path(manual_dir).expanduser()
        archive = manual_dir / self.archive
        if self._tree_in(manual_dir) or archive.is_file():
            return
        known = self.sha1 and f"sha1:{self.sha1}"
        try:
            pooch.retrieve(self.url, known, fname=archive.name, path=manual_dir, progressbar=True)
        except (OSError, ValueError) as error:  # no connection, a full disk; another SHA-1
            raise DatasetError(f"{self.url} cannot be downloaded to {str(archive)!r}: {error}") from error

    def _check(self, archive: Path) -> None:
        sha1 = pooch.file_hash(str(archive), alg="sha1")
        if self.sha1 is None:
            logging.warning("%s has SHA-1 %s, which nobody published: it cannot be checked", archive, sha1)
        elif sha1 != self.sha1:
            raise DatasetError(
                f"{str(archive)!r} has SHA-1 {sha1}, expected {self.sha1}; download it again, or unpack it "
                f"yourself if you trust it. {self.instructions}"
            )

    def _tree_in(self, folder: Path) -> Path | None:
        candidates = (folder / name for name in (*reversed(self.folders), "."))
        return next((tree for tree in candidates if (tree / self.marker).is_file()), None)
