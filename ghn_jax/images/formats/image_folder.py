"""Images in a folder for each class, the tree that torchvision calls ImageFolder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ghn_jax.checks import files
from ghn_jax.images.errors import ImageError
from ghn_jax.images.photos import MOST_FILE_BYTES, Photos
from ghn_jax.images.split import Split

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
"""Of image files, in small or capital letters; other files, and hidden ones as macOS writes, are left alone."""


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Image files below a folder; their paths, as bytes [n], are of one size to be small in memory."""

    root: Path
    paths: np.ndarray

    def read(self, number: int) -> bytes:
        return files.read_regular(self.name(number), MOST_FILE_BYTES)

    def name(self, number: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[number]))


def classes_of(root: Path) -> list[str]:
    """The classes: names of the folders in `root`, sorted.

    Raises:
      ImageError: there are none.
    """
    names = sorted(entry.name for entry in _visible(root) if _is_folder(entry))
    if not names:
        raise ImageError(f"{root} has no folders: expected one for each class, such as n01440764, with its images")
    return names


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden.  Raises ImageError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ImageError(f"{folder} cannot be read: {error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def read_tree(root: Path, classes: list[str]) -> Split:
    """The images of `classes` in the order of their class and name; only their names are read.

    Raises:
      ImageError: folders of other classes, or a folder without images.
    """
    there = classes_of(root)
    if there != classes:
        missing, more = sorted(set(classes) - set(there)), sorted(set(there) - set(classes))
        raise ImageError(
            f"{root} has {len(there)} class folders, expected {len(classes)}: "
            f"missing {', '.join(missing[:3]) or 'none'}, unexpected {', '.join(more[:3]) or 'none'}"
            + (" ..." if max(len(missing), len(more)) > 3 else "")
        )
    paths: list[bytes] = []
    counts = []
    for name in tqdm(classes, desc=f"listing {root.name}", unit="class", leave=False, delay=2):
        found = sorted(e.name for e in _visible(root / name) if e.name.lower().endswith(IMAGE_SUFFIXES))
        if not found:
            raise ImageError(f"{root / name} has no images: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        paths += [os.fsencode(os.path.join(name, file)) for file in found]
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return Split(Photos(Files(root, np.array(paths)), np.arange(len(paths))), labels)
