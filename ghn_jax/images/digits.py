"""The 1,797 handwritten digits that come with scikit-learn: small and real, and there without any download."""

from __future__ import annotations

import numpy as np

from ghn_jax.images.augment import Augmentation
from ghn_jax.images.dataset import Dataset, Split

VAL_IMAGES = 200
TEST_IMAGES = 300


def load() -> Dataset:
    """1,297 training, 200 validation and 300 test images of 10 classes.

    The original 8x8 images are enlarged four times.  Their order, in which writers follow one another, is
    shuffled, always in the same way.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits  # takes a second, and only these images need it

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # values are 0..16
    images = images.repeat(4, axis=1).repeat(4, axis=2)
    images = np.stack([images] * 3, axis=-1)
    labels = digits.target.astype(np.int32)

    order = np.random.RandomState(0).permutation(len(images))  # its numbers are the same in every NumPy
    train, val, test = np.split(order, [-VAL_IMAGES - TEST_IMAGES, -TEST_IMAGES])
    return Dataset(
        name="digits",
        num_classes=10,
        train=Split(images[train], labels[train]),
        val=Split(images[val], labels[val]),
        test=Split(images[test], labels[test]),
        mean=(0.3056,) * 3,
        std=(0.3756,) * 3,
        augmentation=Augmentation(crop_padding=2, flip=False),
    )
