"""CIFAR-10 and CIFAR-100: 50,000 and 10,000 colour images, 32x32, in 10 or 100 classes.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html, which describes both file formats.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ghn_jax.checks import files
from ghn_jax.images.augment import Augmentation
from ghn_jax.images.dataset import Dataset, ImageError, Split
from ghn_jax.images.formats import tfds
from ghn_jax.images.formats.cifar_pickle import read_python_batch
from ghn_jax.images.split import train_and_val

PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Cifar:
    """One of the two data sets and its files.

    Attributes:
      name: as TFDS calls it.
      num_classes: number of classes.
      mean, std: of the 50,000 training images, per channel, scaled to 0..1.
      train_files, test_files: in the order of the images, without the suffix `.bin` of the binary version.
      images_per_train_file, images_per_test_file: images in each file.
      labels_per_image: bytes before the pixels of a binary record, of which the last is the label.
      labels_key: of the labels in a Python batch.
      binary_folder, python_folder: the folders that the published archives unpack to.
    """

    name: str
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    images_per_train_file: int
    images_per_test_file: int
    labels_per_image: int
    labels_key: str
    binary_folder: str
    python_folder: str


CIFAR10_FILES = Cifar(
    name="cifar10",
    num_classes=10,
    mean=(0.49139968, 0.48215827, 0.44653124),
    std=(0.24703233, 0.24348505, 0.26158768),
    train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_files=("test_batch",),
    images_per_train_file=10_000,
    images_per_test_file=10_000,
    labels_per_image=1,
    labels_key="labels",
    binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
)

CIFAR100_FILES = Cifar(
    name="cifar100",
    num_classes=100,
    mean=(0.50707516, 0.48654887, 0.44091784),
    std=(0.26733429, 0.25643846, 0.27615047),
    train_files=("train",),
    test_files=("test",),
    images_per_train_file=50_000,
    images_per_test_file=10_000,
    labels_per_image=2,  # the superclass, then the class
    labels_key="fine_labels",
    binary_folder="cifar-100-binary",
    python_folder="cifar-100-python",
)


def load_cifar10(data_dir: Path | None = None) -> Dataset:
    """CIFAR-10, as `load`."""
    return load(CIFAR10_FILES, data_dir)


def load_cifar100(data_dir: Path | None = None) -> Dataset:
    """CIFAR-100, as `load`."""
    return load(CIFAR100_FILES, data_dir)


def load(cifar: Cifar, data_dir: Path | None = None) -> Dataset:
    """45,000 training, 5,000 validation and 10,000 test images.

    Looks for the binary and then the Python version in `data_dir`, itself or in the folder its archive
    unpacks to, then for what TFDS prepared.

    Raises:
      ImageError: no files, only some of them, or a truncated or foreign one.
    """
    places = [] if data_dir is None else _places(cifar, data_dir)
    for folder, suffix in places:
        train_paths = [folder / (name + suffix) for name in cifar.train_files]
        test_paths = [folder / (name + suffix) for name in cifar.test_files]
        absent = [path.name for path in train_paths + test_paths if not path.is_file()]
        if not absent:
            read = _read_binary if suffix else _read_python
            return _dataset(
                cifar,
                _concatenate(read(cifar, path, cifar.images_per_train_file) for path in train_paths),
                _concatenate(read(cifar, path, cifar.images_per_test_file) for path in test_paths),
            )
        if len(absent) < len(train_paths + test_paths):
            raise ImageError(f"{folder} lacks {', '.join(absent)} of the files of {cifar.name}")
    prepared = tfds.find(cifar.name, data_dir)
    if prepared is not None:
        return _dataset(cifar, *(tfds.read(prepared, part) for part in ("train", "test")))
    raise ImageError(_how_to_get(cifar, data_dir))


def _places(cifar: Cifar, data_dir: Path) -> list[tuple[Path, str]]:
    """Where the files may be, and the suffix of their names there."""
    return [
        (data_dir, ".bin"),
        (data_dir / cifar.binary_folder, ".bin"),
        (data_dir, ""),
        (data_dir / cifar.python_folder, ""),
    ]


def _read_binary(cifar: Cifar, path: Path, num_images: int) -> Split:
    record = cifar.labels_per_image + PIXELS
    try:
        with files.open_regular(path, 1 << 28) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size == num_images * record else b""
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    if len(content) != num_images * record:
        raise ImageError(
            f"{path} has {size} bytes: expected {num_images * record} ({num_images} records of {record} bytes)"
        )
    records = np.frombuffer(content, np.uint8).reshape(num_images, record)
    return _split(cifar, path, records[:, cifar.labels_per_image :], records[:, cifar.labels_per_image - 1])


def _read_python(cifar: Cifar, path: Path, num_images: int) -> Split:
    batch = read_python_batch(path)
    data, labels = batch.get("data"), batch.get(cifar.labels_key)
    expected = f"expected {num_images} rows of {PIXELS} unsigned bytes"
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise ImageError(f"{path} has no array of unsigned bytes as its 'data': {expected}")
    if data.shape != (num_images, PIXELS):
        raise ImageError(f"{path} has data of shape {data.shape}: {expected}")
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise ImageError(f"{path} has no list of integers as its {cifar.labels_key!r}: expected {num_images} labels")
    if len(labels) != num_images:
        raise ImageError(f"{path} has {len(labels)} labels: expected {num_images}")
    return _split(cifar, path, data, np.array(labels))


def _split(cifar: Cifar, path: Path, pixels: np.ndarray, labels: np.ndarray) -> Split:
    """Rows of 1,024 red, then green, then blue values as images with channels last."""
    if labels.min() < 0 or labels.max() >= cifar.num_classes:
        raise ImageError(
            f"{path} has labels from {labels.min()} to {labels.max()}: expected 0..{cifar.num_classes - 1}"
        )
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(images, labels.astype(np.int32))


def _concatenate(splits: Iterable[Split]) -> Split:
    return Split(*(np.concatenate(arrays) for arrays in zip(*splits, strict=True)))


def _how_to_get(cifar: Cifar, data_dir: Path | None) -> str:
    names = cifar.train_files + cifar.test_files
    places = _places(cifar, data_dir or Path("<data_dir>"))
    lines = [f"{cifar.name} was not found. Looked for"]
    lines += [f"  {folder}: {', '.join(name + suffix for name in names)}" for folder, suffix in places]
    lines += [f"  {folder / cifar.name}: what TFDS prepared" for folder in tfds.folders(data_dir)]
    lines.append(
        "Unpack the binary or the Python version from https://www.cs.toronto.edu/~kriz/cifar.html "
        f"({cifar.binary_folder} or {cifar.python_folder}) into a folder and give it as data_dir, or run "
        f"`tfds build {cifar.name}`."
    )
    return "\n".join(lines)


def _dataset(cifar: Cifar, training: Split, test: Split) -> Dataset:
    train, val = train_and_val(training)
    return Dataset(
        name=cifar.name,
        num_classes=cifar.num_classes,
        train=train,
        val=val,
        test=test,
        mean=cifar.mean,
        std=cifar.std,
        augmentation=Augmentation(crop_padding=4, flip=True),  # paper
    )
