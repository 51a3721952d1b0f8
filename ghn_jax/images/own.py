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
from ghn_jax.images.photos import MOST_PIXELS, Photos, render
from ghn_jax.images.split import Split

if TYPE_CHECKING:
    from PIL import Image

_SMALLEST_DEVIATION = 1 / 255
_MOST_CLASSES = 1 << 20
_MOST_IMAGES = 1 << 25
"""That are kept in memory, where they take 96 GiB."""


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
    training = _as_split(images, labels)
    given = 1 + int(training.labels.max(initial=0)) if num_classes is None else num_classes
    classes: int = taken(given, Whole(2, _MOST_CLASSES), ImageError, "num_classes")
    counts = np.bincount(training.labels, minlength=classes)
    if (counts == 0).any():
        raise ImageError(f"class {int(np.argmin(counts))} of {classes} has no image")
    if test is None:
        training, reported = hold_out(training)
    else:
        reported = _as_split(*_pair(test), "test ")
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


def _pair(test: Any) -> tuple[Any, Any]:
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise ImageError(f"test is a {type(test).__name__}: expected images and labels, two arrays")
    return test[0], test[1]


def _as_split(images: Any, labels: Any, what: str = "") -> Split:
    """Images uint8 `[n, 32, 32, 3]` and labels int32 `[n]`, which are looked at when there is one for each image."""
    pixels, values = _as_array(images, f"{what}images"), _as_array(labels, f"{what}labels")
    _check_form(pixels, f"{what}images")
    if values.ndim == 1 and len(pixels) != len(values):
        raise ImageError(f"{len(values)} labels for {len(pixels)} {what}images")
    known = _as_labels(values, f"{what}labels")
    try:
        return Split(_as_images(pixels), known)
    except MemoryError as error:  # of what takes no memory itself: the same pixels again and again
        count = f"{len(pixels):,} {what}images of {pixels.shape[1]}x{pixels.shape[2]}"
        raise ImageError(f"{count} take more memory than there is at 32x32: expected fewer") from error


def _as_array(values: Any, what: str) -> np.ndarray:
    if np.ma.is_masked(values):
        raise ImageError(
            f"{what} are a masked array: expected one without masked values, which nothing stands for here"
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ImageError(f"{what} make no array: {error}") from error
    if array.ndim and len(array) > _MOST_IMAGES:
        raise ImageError(f"{len(array):,} {what}: expected at most {_MOST_IMAGES:,}, which are kept in memory")
    return array


def _check_form(pixels: np.ndarray, what: str) -> None:
    if pixels.dtype != np.uint8:
        raise ImageError(f"{what} of dtype {pixels.dtype}: expected uint8 in 0..255")
    if pixels.ndim not in (3, 4) or 0 in pixels.shape or pixels.shape[3:] not in ((), (1,), (3,)):
        raise ImageError(f"{what} of shape {pixels.shape}: expected [n, height, width(, 1 or 3)]")
    if pixels.shape[1] * pixels.shape[2] > MOST_PIXELS:
        raise ImageError(f"{what} of {pixels.shape[1]}x{pixels.shape[2]} pixels: expected at most {MOST_PIXELS:,}")


def _as_images(pixels: np.ndarray) -> np.ndarray:
    """Images uint8 `[n, 32, 32, 3]`."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, axis=-1)
    if pixels.shape[1:3] == (IMAGE_SIZE, IMAGE_SIZE):
        return pixels
    with extra("photos"):
        from PIL import Image
    return np.stack([np.asarray(_fitted(Image.fromarray(one))) for one in pixels])


def _as_labels(values: np.ndarray, what: str) -> np.ndarray:
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or values.min(initial=0) < 0:
        raise ImageError(f"{what} of dtype {values.dtype}, shape {values.shape}: expected integers [n] from 0 on")
    if values.max(initial=0) >= _MOST_CLASSES:
        raise ImageError(f"{what} up to {values.max()}: expected at most {_MOST_CLASSES - 1:,}")
    return values.astype(np.int32)


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
