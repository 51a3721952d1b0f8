"""Images of your own: arrays, or a folder with a folder for every class; any number of classes, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ghn_jax.checks.fields import Whole, taken
from ghn_jax.errors import extra
from ghn_jax.images.augment import Augmentation
from ghn_jax.images.dataset import IMAGE_SIZE, Dataset
from ghn_jax.images.errors import ImageError
from ghn_jax.images.formats import image_folder
from ghn_jax.images.imagenet import hold_out, mix
from ghn_jax.images.photos import Photos, render
from ghn_jax.images.split import Split

if TYPE_CHECKING:
    from PIL import Image

_SMALLEST_DEVIATION = 1 / 255
_MOST_CLASSES = 1 << 20


def from_arrays(
    images: Any,
    labels: Any,
    *,
    test: tuple[Any, Any] | None = None,
    num_classes: int | None = None,
    name: str = "arrays",
    augmentation: Augmentation | None = None,
) -> Dataset:
    """A data set of images in memory.

    Args:
      images: uint8 in 0..255, `[n, h, w, 3]`, or grey ones `[n, h, w]` or `[n, h, w, 1]`; those of another size than
        32x32 are scaled until their shorter side has 32 pixels, and the middle is taken (this needs Pillow).
      labels: integers `[n]` from 0 on.
      test: images and labels to report on; None sets 10% of every class aside.  Another 10% of what is left validates.
      num_classes: None counts up to the largest label.
      name: of the data set, for messages and files.
      augmentation: of the training images; None moves them by up to 2 pixels and mirrors nothing.

    Raises:
      ImageError: arrays of another form, fewer than two classes, or a class with too few images to set any aside.

    >>> from ghn_jax.images import from_arrays
    >>> grey = np.zeros((40, 8, 8), np.uint8)
    >>> from_arrays(grey, np.arange(40) % 4).num_classes
    4
    """
    training = Split(_as_images(images, "images"), _as_labels(labels, "labels"))
    _check_lengths(training, "images")
    given = 1 + int(training.labels.max(initial=0)) if num_classes is None else num_classes
    classes: int = taken(given, Whole(2, _MOST_CLASSES), ImageError, "num_classes")
    counts = np.bincount(training.labels, minlength=classes)
    if (counts == 0).any():
        raise ImageError(f"class {int(np.argmin(counts))} of {classes} has no image")
    if test is None:
        training, reported = hold_out(training)
    else:
        reported = Split(_as_images(test[0], "test images"), _as_labels(test[1], "test labels"))
        _check_lengths(reported, "test images")
    return _dataset(name, classes, training, reported, augmentation)


def load_folder(data_dir: Path | None = None) -> Dataset:
    """Images in `data_dir/CLASS/*`, or in `data_dir/train/CLASS/*` and `data_dir/test/CLASS/*` (or `val`).

    They are scaled and cut to 32x32 and kept in memory, 3 KiB each; `image_folder` leaves large ones on disk.  Without
    a folder to report on, 10% of every class are set aside.

    Raises:
      ImageError: no such folder, fewer than two classes, a class without images or with too few, or a file that is no
        image: the message names it.
    """
    if data_dir is None:
        raise ImageError("data_dir=None: expected a folder with a folder of images for every class")
    root = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    classes = image_folder.classes_of(root)
    if len(classes) < 2:
        raise ImageError(f"{root} has one class, {classes[0]!r}: expected a folder for each of at least two")
    parts = [] if root == data_dir else [data_dir / part for part in ("test", "val")]
    reported = next((part for part in parts if part.is_dir()), None)
    training = _rendered(image_folder.read_tree(root, classes))
    if reported is None:
        training, test = hold_out(training)
    else:
        test = _rendered(image_folder.read_tree(reported, classes))
    return _dataset("small_images", len(classes), training, test, None)


def _dataset(name: str, num_classes: int, training: Split, test: Split, augmentation: Augmentation | None) -> Dataset:
    """Sets images aside to validate, and takes mean and deviation from the others."""
    train, val = hold_out(training)
    pixels = np.asarray(train.images)
    mean, std = (tuple(float(c) for c in of(pixels, axis=(0, 1, 2)) / 255) for of in (np.mean, np.std))
    return Dataset(
        name=name,
        num_classes=num_classes,
        train=train,
        val=mix(val),
        test=mix(test),
        mean=(mean[0], mean[1], mean[2]),
        std=tuple(max(value, _SMALLEST_DEVIATION) for value in std),  # pyright: ignore[reportArgumentType]
        augmentation=Augmentation(crop_padding=2, flip=False) if augmentation is None else augmentation,
    )


def _as_images(images: Any, what: str) -> np.ndarray:
    """Images uint8 `[n, 32, 32, 3]`."""
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8:
        raise ImageError(f"{what} of dtype {pixels.dtype}: expected uint8 in 0..255")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise ImageError(f"{what} of shape {np.shape(images)}: expected [n, height, width(, 1 or 3)]")
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, axis=-1)
    if pixels.shape[1:3] == (IMAGE_SIZE, IMAGE_SIZE):
        return pixels
    with extra("photos"):
        from PIL import Image
    return np.stack([np.asarray(_fitted(Image.fromarray(one))) for one in pixels])


def _as_labels(labels: Any, what: str) -> np.ndarray:
    values = np.asarray(labels)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or values.min(initial=0) < 0:
        raise ImageError(f"{what} of dtype {values.dtype}, shape {values.shape}: expected integers [n] from 0 on")
    if values.max(initial=0) >= _MOST_CLASSES:
        raise ImageError(f"{what} up to {values.max()}: expected at most {_MOST_CLASSES - 1:,}")
    return values.astype(np.int32)


def _check_lengths(split: Split, what: str) -> None:
    if len(split.images) != len(split.labels):
        raise ImageError(f"{len(split.labels)} labels for {len(split.images)} {what}")


def _rendered(split: Split) -> Split:
    """Images on disk, scaled and cut, in memory."""
    photos = split.images
    assert isinstance(photos, Photos)
    pixels = np.empty((len(photos), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    step = 256
    for first in tqdm(range(0, len(photos), step), desc="reading images", leave=False, delay=2):
        some = photos[first : first + step]
        pixels[first : first + step] = render(some, IMAGE_SIZE, [_fitted] * len(some))
    return Split(pixels, split.labels)


def _fitted(image: Image.Image) -> Image.Image:
    """The middle of an image whose shorter side was scaled to 32 pixels."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
