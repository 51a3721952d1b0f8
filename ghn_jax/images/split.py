"""Labelled images, and the check that all of them go through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghn_jax.images.errors import ImageError
from ghn_jax.images.photos import Photos


class Split(NamedTuple):
    """Images, uint8 [n, size, size, 3] in 0..255 or photographs on disk, and their labels, int32 [n]."""

    images: np.ndarray | Photos
    labels: np.ndarray


def check_images(images: np.ndarray, labels: np.ndarray, image_size: int, num_classes: int) -> None:
    """Checks that images and labels fit each other and a task.

    Args:
      images: [n, image_size, image_size, 3] (channels last), uint8 or float32, n at least 1.
      labels: integers [n] in 0..num_classes - 1.

    Raises:
      ImageError: naming what does not fit and what was expected.
    """
    for what, value in (("images", images), ("labels", labels)):
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise ImageError(f"{what} are a {type(value).__name__}: expected an array")

    shape = tuple(images.shape)
    expected = f"expected [n, {image_size}, {image_size}, 3] (count, height, width, channels)"
    if len(shape) != 4:
        raise ImageError(f"images of shape {shape} have {len(shape)} axes: {expected}")
    if shape[3] != 3:
        found = "their channels first" if shape[1] == 3 else f"{shape[3]} channels"
        raise ImageError(f"images of shape {shape} have {found}: {expected}")
    if shape[1:3] != (image_size, image_size):
        raise ImageError(f"images of shape {shape} are {shape[1]}x{shape[2]} large: {expected}")
    if shape[0] < 1:
        raise ImageError(f"images of shape {shape}: expected at least one image")
    if images.dtype not in (np.uint8, np.float32):
        raise ImageError(f"images of dtype {images.dtype}: expected uint8 (0..255) or float32 (normalised)")

    check_labels(labels, shape[0], num_classes)


def check_labels(labels: np.ndarray, num_images: int, num_classes: int) -> None:
    """Checks that labels are integers [num_images] in 0..num_classes - 1.

    Raises:
      ImageError: naming what does not fit and what was expected.
    """
    if tuple(labels.shape) != (num_images,):
        raise ImageError(
            f"labels of shape {tuple(labels.shape)} with {num_images} images: expected shape {(num_images,)}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ImageError(f"labels of dtype {labels.dtype}: expected integers")
    values = np.asarray(labels)
    outside = np.flatnonzero((values < 0) | (values >= num_classes))
    if outside.size:
        first = outside[0]
        raise ImageError(f"label {values[first]} of image {first}: expected 0..{num_classes - 1}")


def train_and_val(training: Split) -> tuple[Split, Split]:
    """All but the last 10% of the images, to train on, and the last 10%, to validate, in their order.

    Raises:
      ImageError: fewer than 10 images.

    Source: paper, section 5 (45,000 and 5,000 images of CIFAR-10).
    """
    images, labels = training
    num_val = len(images) // 10
    if num_val < 1:
        raise ImageError(f"{len(images)} training images: expected at least 10, of which the last 10% validate")
    return Split(images[:-num_val], labels[:-num_val]), Split(images[-num_val:], labels[-num_val:])
