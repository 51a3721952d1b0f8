"""Checks of images and labels, data sets by name, and the digits."""

import jax.numpy as jnp
import numpy as np
import pytest

from ghn_jax.images import Augmentation, Dataset, ImageError, Split, check_images, digits, load
from ghn_jax.images.split import train_and_val


def images(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


def labels(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_good_images_pass(dtype):
    check_images(images(2, 4, 4, 3, dtype=dtype), labels(0, 2), image_size=4, num_classes=3)
    check_images(jnp.zeros((2, 4, 4, 3), dtype), jnp.array([0, 2]), image_size=4, num_classes=3)


@pytest.mark.parametrize(
    ("bad_images", "bad_labels", "message"),
    [
        (images(4, 4, 3), labels(0), r"shape \(4, 4, 3\) have 3 axes: expected \[n, 4, 4, 3\]"),
        (images(1, 3, 4, 4), labels(0), r"\(1, 3, 4, 4\) have their channels first: expected \[n, 4, 4, 3\]"),
        (images(1, 4, 4, 1), labels(0), r"\(1, 4, 4, 1\) have 1 channels: expected \[n, 4, 4, 3\]"),
        (images(1, 4, 5, 3), labels(0), r"\(1, 4, 5, 3\) are 4x5 large: expected \[n, 4, 4, 3\]"),
        (images(0, 4, 4, 3), labels(), r"\(0, 4, 4, 3\): expected at least one image"),
        (images(1, 4, 4, 3, dtype=np.float64), labels(0), "dtype float64: expected uint8"),
        (images(2, 4, 4, 3), labels(0), r"labels of shape \(1,\) with 2 images: expected shape \(2,\)"),
        (images(1, 4, 4, 3), labels([0]), r"labels of shape \(1, 1\) with 1 images"),
        (images(1, 4, 4, 3), np.zeros(1, np.float32), "labels of dtype float32: expected integers"),
        (images(2, 4, 4, 3), labels(0, 3), "label 3 of image 1: expected 0..2"),
        (images(2, 4, 4, 3), labels(-1, 0), "label -1 of image 0: expected 0..2"),
        ([[0]], labels(0), "images are a list: expected an array"),
        (images(1, 4, 4, 3), [0], "labels are a list: expected an array"),
    ],
)
def test_bad_images_are_named(bad_images, bad_labels, message):
    with pytest.raises(ImageError, match=message):
        check_images(bad_images, bad_labels, image_size=4, num_classes=3)


def test_the_last_tenth_is_val():
    split = Split(np.arange(25), np.arange(25) + 100)
    train, val = train_and_val(split)
    assert train.images.tolist() == list(range(23)) and val.images.tolist() == [23, 24]
    assert val.labels.tolist() == [123, 124]
    with pytest.raises(ImageError, match="9 training images: expected at least 10"):
        train_and_val(Split(split.images[:9], split.labels[:9]))


def test_unknown_data_set():
    with pytest.raises(ImageError, match="'mnist'; known are digits, fashion_mnist, cifar10, cifar100"):
        load("mnist")


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10", "cifar100"])
def test_unknown_data_dir(tmp_path, name):
    with pytest.raises(ImageError, match="data_dir='.*/typo': expected an existing folder"):
        load(name, tmp_path / "typo")


def own_dataset(**changes):
    split = Split(images(2, 32, 32, 3), labels(0, 2))
    fields = dict(
        name="own",
        num_classes=3,
        train=split,
        val=split,
        test=split,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        augmentation=Augmentation(crop_padding=4, flip=True),
    )
    return Dataset(**{**fields, **changes})


def test_a_data_set_of_ones_own():
    own = own_dataset()
    assert own.val.labels.tolist() == [0, 2] and own.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5,)}, r"Dataset.mean=\(0.5,\): expected 3 entries"),
        ({"std": (0.2, 0.0, 0.2)}, "Dataset.std=.*expected 3 entries, each a number above 0"),
        ({"num_classes": 2}, "'own', train: label 2 of image 1: expected 0..1"),
        (
            {"val": Split(images(1, 5, 5, 3), labels(0))},
            "'own', val: images of shape .* 5x5 large: expected .n, 32, 32, 3.",
        ),
        ({"test": Split(images(1, 32, 32, 3, dtype=np.float32), labels(0))}, "'own', test: .*float32, expected uint8"),
    ],
)
def test_bad_data_sets(changes, message):
    with pytest.raises(ImageError, match=message):
        own_dataset(**changes)


@pytest.fixture(scope="module")
def loaded_digits():
    return load("digits")


def test_digits_have_their_counts(loaded_digits):
    sizes = [len(split.images) for split in (loaded_digits.train, loaded_digits.val, loaded_digits.test)]
    assert sizes == [1297, 200, 300]
    assert loaded_digits.num_classes == 10
    assert loaded_digits.augmentation == Augmentation(crop_padding=2, flip=False)
    for split in (loaded_digits.train, loaded_digits.val, loaded_digits.test):
        assert split.images.shape[1:] == (32, 32, 3)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert np.unique(split.labels).tolist() == list(range(10))


def test_digits_splits_are_the_whole_data_set_without_overlap(loaded_digits):
    from sklearn.datasets import load_digits

    raw = load_digits()
    expected = sorted(
        (image.tobytes(), label) for image, label in zip(digits.upscale(raw.images), raw.target, strict=True)
    )
    found = sorted(
        (image.tobytes(), label)
        for split in (loaded_digits.train, loaded_digits.val, loaded_digits.test)
        for image, label in zip(*split, strict=True)
    )
    assert found == expected
    assert len({image for image, _ in expected}) == 1797  # so that no image can be in two splits


def test_digits_are_the_same_every_time(loaded_digits):
    again = digits.load()
    assert np.array_equal(again.train.images, loaded_digits.train.images)
    assert np.array_equal(again.test.labels, loaded_digits.test.labels)
    assert loaded_digits.test.labels[:10].tolist() == [8, 8, 2, 2, 2, 9, 8, 8, 3, 6]


def test_digits_constants_are_those_of_the_training_images(loaded_digits):
    values = loaded_digits.train.images / 255
    np.testing.assert_allclose(values.mean((0, 1, 2)), loaded_digits.mean, atol=1e-4)
    np.testing.assert_allclose(values.std((0, 1, 2)), loaded_digits.std, atol=1e-4)


def test_upscaling_is_bilinear():
    # One line of two pixels, 0 and 16, four times as wide: weights 1/8, 3/8, 5/8, 7/8 between the centres.
    line = digits.upscale(np.array([[[0.0, 16.0], [0.0, 16.0]]]))[0, 0, :, 0]
    assert line.tolist() == [0, 0, 32, 96, 159, 223, 255, 255]
    large = digits.upscale(np.array([[[0.0, 0.0], [16.0, 16.0]]]))[0]
    assert large[:, 5, 2].tolist() == line.tolist()  # the other axis, another channel
    assert digits.upscale(np.full((1, 8, 8), 16.0)).min() == 255
