"""What an image data set is: three splits, how they are normalised, and how they are augmented."""

from __future__ import annotations

import dataclasses

import numpy as np

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Is, Real, Several, Text, Whole
from ghn_jax.images.augment import Augmentation
from ghn_jax.images.errors import ImageError
from ghn_jax.images.photo_views import PhotoAugmentation
from ghn_jax.images.photos import Photos
from ghn_jax.images.split import Split, check_images, check_labels
from ghn_jax.networks.architecture import Task

__all__ = ["IMAGE_SIZE", "Dataset", "ImageError", "Split", "check_images"]

IMAGE_SIZE = 32
"""Height and width of the images of data sets that are in memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on (`train`), to choose by (`val`) and to report on (`test`).

    Attributes:
      name: what `ghn_jax.images.load` calls it.
      num_classes: labels are 0..num_classes - 1.
      train, val, test: disjoint splits.
      mean, std: what each channel is normalised with, for images scaled to 0..1.
      augmentation: random changes of the training images, for photographs on disk a `PhotoAugmentation`.
      image_size: height and width of what networks see.

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
    augmentation: Augmentation | PhotoAugmentation
    image_size: int = IMAGE_SIZE

    @property
    def task(self) -> Task:
        """What networks for these images are built for."""
        return Task(self.num_classes, self.image_size, large_images=self.image_size > IMAGE_SIZE)

    def __post_init__(self):
        fields.check(
            self, ImageError,
            name=Text(), augmentation=Is(Augmentation, PhotoAugmentation),
            num_classes=Whole(1, 1 << 20), image_size=Whole(1, 1 << 13),
            mean=Several(Real(-1e6, 1e6), 3, 3), std=Several(Real(0, 1e6, with_low=False), 3, 3),
        )  # fmt: skip
        for field in ("train", "val", "test"):
            split = getattr(self, field)
            if not isinstance(split, tuple) or len(split) != 2:
                raise ImageError(f"Dataset.{field} is a {type(split).__name__}: expected a Split of images and labels")
            images, labels = split
            try:
                if isinstance(images, Photos):
                    check_labels(labels, len(images), self.num_classes)
                else:
                    check_images(images, labels, self.image_size, self.num_classes)
                    if images.dtype != np.uint8:
                        raise ImageError(f"images of dtype {images.dtype}, expected uint8")
            except ImageError as error:
                raise ImageError(f"Dataset {self.name!r}, {field}: {error}") from None
        if isinstance(self.train.images, Photos) != isinstance(self.augmentation, PhotoAugmentation):
            raise ImageError(
                f"Dataset.augmentation={self.augmentation}: expected PhotoAugmentation for photographs on disk, "
                "Augmentation for images in memory"
            )
