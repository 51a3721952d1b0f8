"""Images in a folder for each class, the tree that torchvision calls ImageFolder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ghn_jax.images.errors import ImageError
from ghn_jax.images.photos import Photos
from ghn_jax.images.split import Split

SUFFIXES = (".jpeg", ".jpg", ".png")
"""Of image files, in small or capital letters; other files are left alone."""


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Image files below a folder; their paths, as bytes [n], are of one size to be small in memory."""

    root: Path
    paths: np.ndarray

    def read(self, number: int) -> bytes:
        with open(self.name(number), "rb") as file:
            return file.read()

    def name(self, number: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[number]))


def classes_of(root: Path) -> list[str]:
    """The classes: names of the folders in `root`, sorted.

    Raises:
      ImageError: there are none.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ImageError(f"{root} has no folders: expected one for each class, such as n01440764, with its images")
    return names


def read_tree(root: Path, classes: list[str]) -> Split:
    """The images of `classes` in the order of their class and name; only their names are read.

    Raises:
      ImageError: folders of other classes, or a folder without images.
    """
    found = classes_of(root)
    if found != classes:
        missing, more = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
        raise ImageError(
            f"{root} has {len(found)} class folders, expected {len(classes)}: "
            f"missing {', '.join(missing[:3]) or 'none'}, unexpected {', '.join(more[:3]) or 'none'}"
            + (" ..." if max(len(missing), len(more)) > 3 else "")
        )
    paths: list[bytes] = []
    counts = []
    for name in tqdm(classes, desc=f"listing {root.name}", unit="class", leave=False, delay=2):
        files = sorted(e.name for e in os.scandir(root / name) if e.name.lower().endswith(SUFFIXES))
        if not files:
            raise ImageError(f"{root / name} has no images: expected files ending in {', '.join(SUFFIXES)}")
        paths += [os.fsencode(os.path.join(name, file)) for file in files]
        counts.append(len(files))
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return Split(Photos(Files(root, np.array(paths)), np.arange(len(paths))), labels)
