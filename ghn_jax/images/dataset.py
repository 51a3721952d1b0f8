"""What an image data set is: three splits of 32x32 RGB images with labels, and how they are normalised."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from ghn_jax.images.augment import Augmentation

IMAGE_SIZE = 32
"""Height and width of the images of every data set."""


class ImageError(ValueError):
    """Images, labels or data files that cannot be used."""


class Split(NamedTuple):
    """Images, uint8 [n, 32, 32, 3], and their labels, int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train, validate and test on.

    Attributes:
      name: what `ghn_jax.images.load` calls it.
      num_classes: labels are 0..num_classes - 1.
      train, val, test: disjoint splits.
      mean, std: of each channel of the training images, scaled to 0..1.
      augmentation: random changes of the training images.

    Raises:
      ImageError: a split whose images or labels do not fit.
    """

    name: str
    num_classes: int
    train: Split
    val: Split
    test: Split
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augmentation: Augmentation

    def __post_init__(self):
        for split_name in ("train", "val", "test"):
            images, labels = getattr(self, split_name)
            try:
                check_images(images, labels, IMAGE_SIZE, self.num_classes)
                if images.dtype != np.uint8:
                    raise ImageError(f"images are {images.dtype}, expected uint8")
            except ImageError as error:
                raise ImageError(f"{self.name}, {split_name} split: {error}") from None


def check_images(images: np.ndarray, labels: np.ndarray, image_size: int, num_classes: int) -> None:
    """Checks images [n, image_size, image_size, 3] and integer labels [n] in 0..num_classes - 1.

    Raises:
      ImageError: naming what does not fit and what was expected.
    """
    expected = f"expected [n, {image_size}, {image_size}, 3] (count, height, width, channels)"
    if images.ndim != 4:
        raise ImageError(f"images have {images.ndim} axes, shape {list(images.shape)}: {expected}")
    if images.shape[3] != 3:
        raise ImageError(f"images have {images.shape[3]} channels, shape {list(images.shape)}: {expected}")
    if images.shape[1:3] != (image_size, image_size):
        raise ImageError(f"images are {images.shape[1]}x{images.shape[2]}, shape {list(images.shape)}: {expected}")
    if labels.shape != images.shape[:1]:
        raise ImageError(f"{len(images)} images need labels of shape [{len(images)}], got {list(labels.shape)}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ImageError(f"labels are {labels.dtype}, expected integers")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise ImageError(f"label {labels[wrong[0]]} of image {wrong[0]}: expected 0..{num_classes - 1}")


def train_and_val(images: np.ndarray, labels: np.ndarray) -> tuple[Split, Split]:
    """The training images without their last 10%, and these, which validate.  Source: paper, section 5."""
    held_out = len(images) // 10
    first = len(images) - held_out
    return Split(images[:first], labels[:first]), Split(images[first:], labels[first:])
