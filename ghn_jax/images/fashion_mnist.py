"""Fashion-MNIST: 70,000 grey images of clothes.  Source: Xiao et al., arXiv 1708.07747."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ghn_jax.images import prepared_tfds
from ghn_jax.images.augment import Augmentation
from ghn_jax.images.dataset import Dataset, ImageError, Split, train_and_val
from ghn_jax.images.idx import read_idx

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_SIZE = 28
_PADDING = 2


def load(data_dir: Path | None = None) -> Dataset:
    """54,000 training, 6,000 validation and 10,000 test images of 10 classes.

    Looks for the four IDX files, gzipped or not, in `data_dir` and in Debian's folder, then for a data set
    prepared by TFDS (which shuffles: its last 10% are other images).  The 28x28 images are padded with
    zeros to 32x32 and repeated to three channels.

    Raises:
      ImageError: no files, some of the files, or files with something else in them.
    """
    folders = [folder for folder in (data_dir, DEBIAN_FOLDER) if folder is not None]
    for folder in folders:
        found = {name: path for name in FILES if (path := _find(folder, name)) is not None}
        if found:
            absent = [name for name in FILES if name not in found]
            if absent:
                raise ImageError(f"{folder} has {', '.join(found)} but lacks {', '.join(absent)} (plain or .gz)")
            return _dataset(*[_read(found[FILES[i]], found[FILES[i + 1]]) for i in (0, 2)])
    prepared = prepared_tfds.find("fashion_mnist", data_dir)
    if prepared is not None:
        return _dataset(*[_widen(*prepared_tfds.read(prepared, split)) for split in ("train", "test")])
    raise ImageError(
        f"Fashion-MNIST not found: expected {', '.join(FILES)}, plain or with .gz, in "
        f"{' or '.join(map(str, folders))}, or {prepared_tfds.expected('fashion_mnist', data_dir)}.  "
        "Install Debian's package dataset-fashion-mnist, or take the files from "
        "https://github.com/zalandoresearch/fashion-mnist and name their folder as data_dir"
    )


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read(images_path: Path, labels_path: Path) -> Split:
    images = read_idx(images_path, axes=3)
    labels = read_idx(labels_path, axes=1)
    if images.shape[1:] != (_SIZE, _SIZE):
        raise ImageError(f"{images_path}: images of shape {list(images.shape[1:])}, expected [{_SIZE}, {_SIZE}]")
    if len(images) != len(labels):
        raise ImageError(f"{labels_path}: {len(labels)} labels, expected {len(images)} as {images_path} has images")
    return _widen(images[..., None], labels)


def _widen(images: np.ndarray, labels: np.ndarray) -> Split:
    """Grey [n, 28, 28, 1] as RGB [n, 32, 32, 3]."""
    padded = np.pad(images, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
    return Split(padded.repeat(3, axis=3), labels.astype(np.int32))


def _dataset(training: Split, test: Split) -> Dataset:
    train, val = train_and_val(*training)
    return Dataset(
        name="fashion_mnist",
        num_classes=10,
        train=train,
        val=val,
        test=test,
        mean=(0.2188,) * 3,
        std=(0.3317,) * 3,
        augmentation=Augmentation(crop_padding=2, flip=True),
    )
