"""Image data sets: one module per source, augmentation, and batches."""

from __future__ import annotations

import importlib
import os

from ghn_jax.checks import files
from ghn_jax.checks.fields import shown
from ghn_jax.images.augment import Augmentation, augment, normalise
from ghn_jax.images.batches import Batch, eval_batches, in_memory, steps_per_epoch, train_batch
from ghn_jax.images.dataset import IMAGE_SIZE, Dataset
from ghn_jax.images.errors import ImageError
from ghn_jax.images.own import from_arrays
from ghn_jax.images.photo_views import PhotoAugmentation
from ghn_jax.images.photos import Photos
from ghn_jax.images.split import Split, check_images

__all__ = [
    "IMAGE_SIZE",
    "LOADERS",
    "Augmentation",
    "Batch",
    "Dataset",
    "ImageError",
    "PhotoAugmentation",
    "Photos",
    "Split",
    "augment",
    "check_images",
    "eval_batches",
    "from_arrays",
    "in_memory",
    "load",
    "normalise",
    "steps_per_epoch",
    "train_batch",
]

LOADERS = {
    "digits": "digits:load",
    "fashion_mnist": "fashion_mnist:load",
    "cifar10": "cifar:load_cifar10",
    "cifar100": "cifar:load_cifar100",
    "imagenet": "imagenet:load",
    "image_folder": "imagenet:load_any_tree",
    "small_images": "own:load_folder",
}
"""Data sets by name: the module of this room and its function, imported when it is asked for."""


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """The data set called `name`, from the files in `data_dir` or where its module says.

    Raises:
      ImageError: no such name or folder, or files that are missing or damaged.
    """
    if not isinstance(name, str) or name not in LOADERS:
        raise ImageError(f"no data set is called {shown(name)}; known are {', '.join(LOADERS)}")
    if data_dir is not None:
        if data_dir in ("", b""):  # of a variable of the shell that is not set; it would be the current folder
            raise ImageError(f"data_dir={data_dir!r}: expected an existing folder")
        try:
            data_dir = files.expand(data_dir)
        except (files.FileError, TypeError) as error:
            raise ImageError(f"data_dir={error}") from None
        if not os.path.isdir(data_dir):
            raise ImageError(f"data_dir={shown(str(data_dir))}: expected an existing folder")
    module, _, function = LOADERS[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)(data_dir)
