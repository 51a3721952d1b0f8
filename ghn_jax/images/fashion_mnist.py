"""Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28x28.

Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747, https://github.com/zalandoresearch/fashion-mnist
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ghn_jax.images.augment import Augmentation
from ghn_jax.images.dataset import Dataset, ImageError, Split
from ghn_jax.images.formats import tfds
from ghn_jax.images.formats.idx import read_idx
from ghn_jax.images.split import train_and_val

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

_SUBFOLDERS = ("", "fashion-mnist", "FashionMNIST/raw")  # Debian's name and torchvision's
_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_SIZE = 28
_PADDING = 2


def load(data_dir: Path | None = None) -> Dataset:
    """54,000 training, 6,000 validation and 10,000 test images of 10 classes.

    Looks for the four IDX files, plain or gzipped, in `data_dir` and in Debian's folder, then for what TFDS
    prepared (in an order of its own, so its validation images are others).  Images are padded with zeros to
    32x32 and repeated in 3 channels.

    Raises:
      ImageError: no files, only some of them, or a truncated or foreign one.
    """
    folders = [] if data_dir is None else [data_dir / name for name in _SUBFOLDERS]
    folders.append(DEBIAN_FOLDER)
    for folder in folders:
        paths = [_existing(folder / name) for name in _FILES]
        present = [path for path in paths if path is not None]
        absent = [name for name, path in zip(_FILES, paths, strict=True) if path is None]
        if not absent:
            return _dataset(_read(*present[:2]), _read(*present[2:]))
        if len(absent) < len(_FILES):
            raise ImageError(f"{folder} lacks {', '.join(absent)} (plain or .gz) of the files of Fashion-MNIST")
    prepared = tfds.find("fashion_mnist", data_dir)
    if prepared is not None:
        train, test = (tfds.read(prepared, part) for part in ("train", "test"))
        return _dataset(_widen(np.asarray(train.images), train.labels), _widen(np.asarray(test.images), test.labels))
    raise ImageError(
        "\n".join(
            [
                f"Fashion-MNIST was not found. Looked for {', '.join(_FILES)} (plain or .gz) in",
                *(f"  {folder}" for folder in folders),
                "and for what TFDS prepared in",
                *(f"  {folder / 'fashion_mnist'}" for folder in tfds.folders(data_dir)),
                "Get it with `apt-get install dataset-fashion-mnist`, from "
                "https://github.com/zalandoresearch/fashion-mnist or with `tfds build fashion_mnist`.",
            ]
        )
    )


def _existing(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _read(images_path: Path, labels_path: Path) -> Split:
    images, labels = read_idx(images_path, axes=3), read_idx(labels_path, axes=1)
    if images.shape[1:] != (_SIZE, _SIZE):
        raise ImageError(f"{images_path} has images of shape {images.shape[1:]}: expected {(_SIZE, _SIZE)}")
    if len(images) != len(labels):
        raise ImageError(f"{labels_path} has {len(labels)} labels: expected {len(images)}, as images in {images_path}")
    return _widen(images[..., None], labels)


def _widen(images: np.ndarray, labels: np.ndarray) -> Split:
    """Grey images uint8 [n, 28, 28, 1] as [n, 32, 32, 3], black around."""
    padded = np.pad(images, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
    return Split(padded.repeat(3, axis=3), labels.astype(np.int32))


def _dataset(training: Split, test: Split) -> Dataset:
    train, val = train_and_val(training)
    return Dataset(
        name="fashion_mnist",
        num_classes=10,
        train=train,
        val=val,
        test=test,
        mean=(0.2188, 0.2188, 0.2188),
        std=(0.3317, 0.3317, 0.3317),
        augmentation=Augmentation(crop_padding=2, flip=True),
    )
