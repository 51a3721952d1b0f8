"""Random crops and flips, and normalisation, of batches of images."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training images: crops after padding with `crop_padding` zeros, and horizontal flips."""

    crop_padding: int
    flip: bool

    def __post_init__(self):
        if self.crop_padding < 0:
            raise ValueError(f"Augmentation.crop_padding={self.crop_padding}: expected at least 0")


def augment(images: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Crops and flips every image of uint8 [n, height, width, 3] on its own; the shape stays.

    An image is shifted by a uniform -crop_padding..crop_padding in both directions, zeros moving in, and
    then mirrored with probability 1/2.  Source: paper, appendix B.
    """
    count, height, width, _ = images.shape
    padding = augmentation.crop_padding
    top, left = rng.integers(0, 2 * padding + 1, size=(2, count, 1))
    mirrored = rng.integers(0, 2, size=(count, 1)) * augmentation.flip
    rows = top + np.arange(height)
    columns = left + np.where(mirrored, np.arange(width)[::-1], np.arange(width))
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Scales uint8 [n, height, width, 3] to 0..1, subtracts `mean` and divides by `std`; float32."""
    scale = 1 / (255 * np.asarray(std, np.float64))
    shift = np.asarray(mean, np.float64) / np.asarray(std, np.float64)
    return images * scale.astype(np.float32) - shift.astype(np.float32)
