"""Normalisation and the random crops, flips and holes of training images, on whole batches."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Flag, Whole
from ghn_jax.images.errors import ImageError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images: a random crop of the image padded with black, a random mirroring.

    Attributes:
      crop_padding: black pixels added on each side; 0 leaves images in place.
      flip: mirror left and right with probability 1/2.
      cutout: side of a square around a random pixel that becomes the mean colour, 0 for none.

    Raises:
      ImageError: a padding or side that is no integer from 0 to 8,192, or another `flip` than True or False.
    """

    crop_padding: int
    flip: bool
    cutout: int = 0

    def __post_init__(self):
        pixels = Whole(0, 1 << 13)
        fields.check(self, ImageError, crop_padding=pixels, flip=Flag(), cutout=pixels)


def augment(images: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Crops and then mirrors every image on its own: uint8 [n, h, w, 3] -> uint8 [n, h, w, 3].

    Padding comes before normalisation, so padded pixels are black and not of the mean colour.
    """
    count = len(images)
    top, left = rng.integers(0, 2 * augmentation.crop_padding + 1, size=(2, count))
    mirrored = rng.random(count) < (0.5 if augmentation.flip else 0.0)
    return crop_and_mirror(images, augmentation.crop_padding, top, left, mirrored)


def crop_and_mirror(
    images: np.ndarray, padding: int, top: np.ndarray, left: np.ndarray, mirrored: np.ndarray
) -> np.ndarray:
    """Of each image padded with `padding` zeros, the window of its own size from row `top` and column `left`.

    Images uint8 [n, h, w, 3]; `top` and `left` integers [n] in 0..2 * padding; `mirrored` bool [n] reverses
    the columns of the window.
    """
    count, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # One copied window an image is several times faster than an index for every pixel.
    windows = sliding_window_view(padded, (height, width, channels), axis=(1, 2, 3))  # [n, tops, lefts, 1, h, w, 3]
    crops = windows[np.arange(count), top, left, 0]
    crops[mirrored] = crops[mirrored, :, ::-1]
    return crops


def cut_out(images: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Normalised images of which a square is 0, the mean colour: float32 [n, h, w, c] -> float32 [n, h, w, c].

    The square's centre is any pixel of an image, so a part of it may lie outside.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    count, height, width, _ = images.shape
    inside = [
        np.abs(np.arange(length) - rng.integers(0, length, (count, 1)) + 0.5 * (side % 2 == 0)) < side / 2
        for length in (height, width)
    ]
    return np.where((inside[0][:, :, None] & inside[1][:, None])[..., None], np.float32(0), images)


def normalise(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(images / 255 - mean) / std: [n, h, w, c] in 0..255 -> float32 [n, h, w, c]; `mean` and `std` of c numbers."""
    count, height, width, channels = images.shape
    means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    # NumPy is many times faster along a row of pixels than along the channels of one.
    rows = images.reshape(count, height, width * channels).astype(np.float32)
    rows *= np.tile(1 / (255 * stds), width).astype(np.float32)
    rows -= np.tile(means / stds, width).astype(np.float32)
    return rows.reshape(images.shape)


def with_noise(images: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Images with Gaussian noise on every channel of every pixel, cut off at black and white.

    Args:
      images: uint8 [n, h, w, c] in 0..255.
      sigma: standard deviation, for images scaled to 0..1.
      rng: draws the noise.

    Returns:
      float32 [n, h, w, c] in 0..255.

    Source: paper, section 5.2 (0.08 for CIFAR-10).
    """
    noise = rng.standard_normal(images.shape, np.float32)
    return np.clip(images + np.float32(255 * sigma) * noise, 0, 255)


def smaller(images: np.ndarray, size: int) -> np.ndarray:
    """Images scaled down to `size` by means over squares of pixels: float32 [n, h, h, c] -> [n, size, size, c].

    Raises:
      ImageError: a size that does not divide h.
    """
    count, height, _, channels = images.shape
    if size == height:
        return images
    if size < 1 or height % size:
        raise ImageError(f"images of {height} pixels cannot be scaled down to {size}: expected a divisor of {height}")
    side = height // size
    return images.reshape(count, size, side, size, side, channels).mean((2, 4), dtype=np.float32)
