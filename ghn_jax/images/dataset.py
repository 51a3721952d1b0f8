"""What an image data set is: three splits, how they are normalised, and how they are augmented."""

from __future__ import annotations

import dataclasses

import numpy as np

from ghn_jax.images.augment import Augmentation
from ghn_jax.images.split import ImageError, Split, check_images

__all__ = ["IMAGE_SIZE", "Dataset", "ImageError", "Split", "check_images"]

IMAGE_SIZE = 32
"""Height and width of the images of every data set."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on (`train`), to choose by (`val`) and to report on (`test`).

    Attributes:
      name: what `ghn_jax.images.load` calls it.
      num_classes: labels are 0..num_classes - 1.
      train, val, test: disjoint splits.
      mean, std: what each channel is normalised with, for images scaled to 0..1.
      augmentation: random changes of the training images.

    Raises:
      ImageError: naming the field, its value and what was expected.
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
        for field in ("train", "val", "test"):
            images, labels = getattr(self, field)
            try:
                check_images(images, labels, IMAGE_SIZE, self.num_classes)
            except ImageError as error:
                raise ImageError(f"Dataset {self.name!r}, {field}: {error}") from None
            if images.dtype != np.uint8:
                raise ImageError(f"Dataset {self.name!r}, {field}: images of dtype {images.dtype}, expected uint8")
        if len(self.mean) != 3:
            raise ImageError(f"Dataset.mean={self.mean}: expected three numbers")
        if len(self.std) != 3 or min(self.std) <= 0:
            raise ImageError(f"Dataset.std={self.std}: expected three positive numbers")
