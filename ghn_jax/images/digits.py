"""The handwritten digits that come with scikit-learn: 1,797 real images, no download.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test set).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ghn_jax.errors import extra
from ghn_jax.images.augment import Augmentation
from ghn_jax.images.dataset import Dataset, Split

NUM_VAL, NUM_TEST = 200, 300
_SHUFFLE_SEED = 0
_BRIGHTEST = 16


def load(data_dir: Path | None = None) -> Dataset:
    """1,297 training, 200 validation and 300 test images of 10 classes: one fixed shuffle cut in three.

    The 8x8 grey values are enlarged to 32x32 and repeated in 3 channels.  The original order follows the
    writers; after the shuffle a writer may be in several splits.  Digits are not mirrored, and not moved
    far, as they fill the image.  There are no files: `data_dir` does not matter.
    """
    with extra("digits"):
        from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, labels = upscale(pixels.reshape(-1, 8, 8)), labels.astype(np.int32)
    # RandomState's numbers are the same in every NumPy.
    order = np.random.RandomState(_SHUFFLE_SEED).permutation(len(images))
    train, val, test = np.split(order, [-NUM_VAL - NUM_TEST, -NUM_TEST])
    return Dataset(
        name="digits",
        num_classes=10,
        train=Split(images[train], labels[train]),
        val=Split(images[val], labels[val]),
        test=Split(images[test], labels[test]),
        mean=(0.3055, 0.3055, 0.3055),
        std=(0.3232, 0.3232, 0.3232),
        augmentation=Augmentation(crop_padding=2, flip=False),
    )


def upscale(pixels: np.ndarray, factor: int = 4) -> np.ndarray:
    """Grey values 0..16 [n, s, s] as uint8 images [n, factor * s, factor * s, 3] in 0..255, bilinearly.

    Bilinear and not nearest, because blocks of equal pixels would leave most 3x3 filters a constant patch.
    Pixel centres are aligned as by image editors (half-pixel centres), the border is continued.
    """
    size = pixels.shape[-1]
    weights = _interpolation(size, factor * size)
    grey = np.rint(weights @ pixels @ weights.T * (255 / _BRIGHTEST)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _interpolation(size: int, large: int) -> np.ndarray:
    """The matrix [large, size] that interpolates a line of `size` pixels linearly at `large` places."""
    places = np.clip((np.arange(large) + 0.5) * size / large - 0.5, 0, size - 1)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(size)))
