"""CIFAR-10 and CIFAR-100: 60,000 colour images.  Source: https://www.cs.toronto.edu/~kriz/cifar.html.

Both come as binary records (one or two label bytes, then the red, green and blue plane of 1,024 bytes each)
and as pickled dictionaries of the same bytes.
"""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np

from ghn_jax.images import prepared_tfds
from ghn_jax.images.augment import Augmentation
from ghn_jax.images.dataset import Dataset, ImageError, Split, train_and_val

_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one form of a data set.

    Attributes:
      folder: the name of the folder in the published archive.
      train, test: names of the files, in order.
      train_images, test_images: number of images in each of them.
      label_bytes: label bytes of a binary record, the last of which is the label; 0 in pickles.
      label_key: the entry with the labels in a pickle.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_images: int
    test_images: int
    label_bytes: int = 0
    label_key: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """What CIFAR-10 and CIFAR-100 differ in; mean and std are those of the 50,000 training images."""

    name: str
    num_classes: int
    forms: tuple[Files, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Source(
    name="cifar10",
    num_classes=10,
    forms=(
        Files(
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            test=("test_batch.bin",),
            train_images=10_000,
            test_images=10_000,
            label_bytes=1,
        ),
        Files(
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{number}" for number in range(1, 6)),
            test=("test_batch",),
            train_images=10_000,
            test_images=10_000,
            label_key="labels",
        ),
    ),
    mean=(0.49139968, 0.48215827, 0.44653124),
    std=(0.24703233, 0.24348505, 0.26158768),
)

CIFAR100 = Source(
    name="cifar100",
    num_classes=100,
    forms=(
        Files(
            folder="cifar-100-binary",
            train=("train.bin",),
            test=("test.bin",),
            train_images=50_000,
            test_images=10_000,
            label_bytes=2,  # the coarse and the fine label
        ),
        Files(
            folder="cifar-100-python",
            train=("train",),
            test=("test",),
            train_images=50_000,
            test_images=10_000,
            label_key="fine_labels",
        ),
    ),
    mean=(0.50707516, 0.48654887, 0.44091784),
    std=(0.26733429, 0.25643846, 0.27615047),
)


def load(source: Source, data_dir: Path | None = None) -> Dataset:
    """45,000 training, 5,000 validation and 10,000 test images.

    Looks for the binary or pickled files in `data_dir` and in its folders named as in the published
    archives, then for a data set prepared by TFDS.

    Raises:
      ImageError: no files, some of the files, or files with something else in them.
    """
    found = None if data_dir is None else _find(source, data_dir)
    if found is not None:
        folder, files = found
        training = _read_all(folder, files.train, files, files.train_images)
        return _dataset(source, training, _read_all(folder, files.test, files, files.test_images))
    prepared = prepared_tfds.find(source.name, data_dir)
    if prepared is not None:
        return _dataset(source, *[Split(*prepared_tfds.read(prepared, split)) for split in ("train", "test")])
    where = "data_dir (none was given)" if data_dir is None else str(data_dir)
    forms = " or ".join(
        f"{', '.join(files.train + files.test)} (or the folder {files.folder} with them)" for files in source.forms
    )
    raise ImageError(
        f"{source.name} not found: expected {forms} in {where}, or "
        f"{prepared_tfds.expected(source.name, data_dir)}.  Unpack the binary or the python version from "
        "https://www.cs.toronto.edu/~kriz/cifar.html and name the folder as data_dir"
    )


def read_binary(path: Path, count: int, label_bytes: int) -> Split:
    """The images and (last) labels of a file of `count` binary records.

    Raises:
      ImageError: the file has another size.
    """
    size = count * (label_bytes + _PIXELS)
    if path.stat().st_size != size:
        raise ImageError(f"{path}: found {path.stat().st_size} bytes, expected {size} ({count} records)")
    records = np.fromfile(path, np.uint8).reshape(count, label_bytes + _PIXELS)
    return Split(_channels_last(records[:, label_bytes:]), records[:, label_bytes - 1].astype(np.int32))


def read_pickle(path: Path, count: int, label_key: str) -> Split:
    """The `count` images and the labels of a pickled dictionary with entries `data` and `label_key`.

    Raises:
      ImageError: the file is something else; nothing but NumPy arrays is ever made from it.
    """
    expected = f"expected a pickled CIFAR dictionary of {count} images"
    found = f"{path}: found {path.stat().st_size} bytes"
    with path.open("rb") as file:
        try:
            entries = _ArrayUnpickler(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ImageError(f"{found} that cannot be unpickled ({error}), {expected}") from error
    if not isinstance(entries, dict) or not {"data", label_key} <= set(entries):
        raise ImageError(f"{found} without the entries 'data' and {label_key!r}, {expected}")
    data, labels = np.asarray(entries["data"]), np.asarray(entries[label_key])
    if data.shape != (count, _PIXELS) or data.dtype != np.uint8:
        raise ImageError(f"{path}: found data of {data.dtype} {list(data.shape)}, expected uint8 [{count}, {_PIXELS}]")
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ImageError(f"{path}: found labels of {labels.dtype} {list(labels.shape)}, expected integers [{count}]")
    return Split(_channels_last(data), labels.astype(np.int32))


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers and NumPy arrays, and refuses to call anything else."""

    def find_class(self, module, name):
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _dtype(kind, align=False, copy=False):
    """`np.dtype`; the published files hold the flags as numbers, of which NumPy 2.4 warns."""
    return np.dtype(kind, align=bool(align), copy=bool(copy))


def _channels_last(planes: np.ndarray) -> np.ndarray:
    """[n, 3 * 32 * 32], plane after plane, as [n, 32, 32, 3]."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _find(source: Source, data_dir: Path) -> tuple[Path, Files] | None:
    """The folder with one complete form of the data set."""
    for files in source.forms:
        names = files.train + files.test
        for folder in (data_dir, data_dir / files.folder):
            absent = [name for name in names if not (folder / name).is_file()]
            if not absent:
                return folder, files
            if len(absent) < len(names):
                raise ImageError(f"{folder} lacks {', '.join(absent)} of the files of {source.name}")
    return None


def _read_all(folder: Path, names: tuple[str, ...], files: Files, count: int) -> Split:
    if files.label_bytes:
        parts = [read_binary(folder / name, count, files.label_bytes) for name in names]
    else:
        parts = [read_pickle(folder / name, count, files.label_key) for name in names]
    return Split(*map(np.concatenate, zip(*parts, strict=True)))


def _dataset(source: Source, training: Split, test: Split) -> Dataset:
    train, val = train_and_val(*training)
    return Dataset(
        name=source.name,
        num_classes=source.num_classes,
        train=train,
        val=val,
        test=test,
        mean=source.mean,
        std=source.std,
        augmentation=Augmentation(crop_padding=4, flip=True),
    )
