"""Augmentation, normalisation and batches."""

import dataclasses
import itertools

import numpy as np
import pytest

from ghn_jax.images import (
    Augmentation,
    Dataset,
    ImageError,
    Split,
    augment,
    eval_batches,
    normalise,
    steps_per_epoch,
    train_batch,
)
from ghn_jax.images.augment import crop_and_mirror

NONE = Augmentation(crop_padding=0, flip=False)


def numbered(num_images, augmentation=NONE, mean=(0, 0, 0), std=(1, 1, 1)):
    """A data set whose image number i has the value i everywhere and the label i."""
    images = np.broadcast_to(np.arange(num_images, dtype=np.uint8)[:, None, None, None], (num_images, 32, 32, 3))
    split = Split(np.array(images), np.arange(num_images, dtype=np.int32))
    return Dataset("numbered", num_images, split, split, split, mean, std, augmentation)


def epoch_labels(data, batch_size, seed, epoch):
    """The labels of all batches of an epoch, one after the other."""
    steps = steps_per_epoch(data, batch_size)
    batches = [train_batch(data, batch_size, seed, step) for step in range(epoch * steps, (epoch + 1) * steps)]
    return np.concatenate([batch.labels for batch in batches]).tolist()


def rgb(rows):
    """An image whose channels are the given values, and those plus 100 and 200."""
    grey = np.array(rows, np.uint8)
    return np.stack([grey, grey + 100, grey + 200], axis=-1)


def test_crops_and_mirrors_by_hand():
    image = rgb([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    images = np.stack([image] * 4)
    top, left = np.array([1, 0, 2, 2]), np.array([1, 0, 1, 1])
    result = crop_and_mirror(images, 1, top, left, np.array([False, False, False, True]))
    assert result.dtype == np.uint8
    assert np.array_equal(result[0], image)
    assert result[1, ..., 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert result[1, ..., 2].tolist() == [[0, 0, 0], [0, 201, 202], [0, 204, 205]]  # padding is black in all channels
    assert result[2, ..., 1].tolist() == [[104, 105, 106], [107, 108, 109], [0, 0, 0]]
    assert result[3, ..., 1].tolist() == [[106, 105, 104], [109, 108, 107], [0, 0, 0]]
    assert np.array_equal(images, np.stack([image] * 4))


def test_augment_draws_every_crop_and_both_directions():
    image = rgb([[1, 2], [3, 4]])
    images = np.stack([image] * 1000)
    crops = {
        crop_and_mirror(image[None], 1, np.array([top]), np.array([left]), np.array([flip])).tobytes(): (
            top,
            left,
            flip,
        )
        for top, left, flip in itertools.product(range(3), range(3), (False, True))
    }
    assert len(crops) == 18

    def draw(crop_padding, flip):
        augmented = augment(images, Augmentation(crop_padding, flip), np.random.default_rng(0))
        return [crops[one.tobytes()] for one in augmented]

    drawn = draw(1, flip=True)
    counts = [drawn.count(crop) for crop in crops.values()]
    assert 25 < min(counts) and max(counts) < 90  # 1000 / 18 = 56, standard deviation 7
    assert set(draw(1, flip=False)) == set(itertools.product(range(3), range(3), (False,)))
    assert set(draw(0, flip=True)) == {(1, 1, False), (1, 1, True)}
    assert set(draw(0, flip=False)) == {(1, 1, False)}


def test_augment_is_of_the_generator_alone():
    images = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3), np.uint8)
    one, same, other = (augment(images, Augmentation(2, True), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("padding", [-1, 1.5])
def test_bad_augmentation(padding):
    with pytest.raises(ImageError, match=f"crop_padding={padding}: expected an integer from 0"):
        Augmentation(crop_padding=padding, flip=False)


def test_normalisation_values():
    images = np.array([0, 51, 255] * 4, np.uint8).reshape(1, 2, 2, 3)
    result = normalise(images, (0.5, 0.2, 0.4), (0.25, 0.5, 0.3))
    assert result.dtype == np.float32 and result.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(result, np.broadcast_to([-2.0, 0.0, 2.0], (1, 2, 2, 3)), atol=1e-6)
    assert images.ravel().tolist() == [0, 51, 255] * 4


def test_an_epoch_sees_every_image_once():
    data = numbered(12)
    first, second = (epoch_labels(data, 4, seed=0, epoch=epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first != epoch_labels(data, 4, seed=1, epoch=0)


def test_images_go_with_their_labels():
    batch = train_batch(numbered(12), 4, seed=0, step=0)
    assert batch.images.shape == (4, 32, 32, 3) and batch.images.dtype == np.float32
    assert batch.labels.shape == (4,) and batch.labels.dtype == np.int32
    np.testing.assert_allclose(batch.images[:, 5, 7, 1] * 255, batch.labels, rtol=1e-6)


def test_images_that_fill_no_batch_are_left_out():
    data = numbered(11)
    assert steps_per_epoch(data, 4) == 2
    epochs = [epoch_labels(data, 4, seed=0, epoch=epoch) for epoch in range(20)]
    assert all(len(set(labels)) == 8 for labels in epochs)
    assert set().union(*epochs) == set(range(11))  # others every time


def test_any_step_can_come_first():
    data = numbered(11, Augmentation(crop_padding=4, flip=True))
    in_order = [train_batch(data, 4, seed=5, step=step) for step in range(9)]
    for step in (8, 0, 3, 3, 7):
        batch = train_batch(data, 4, seed=5, step=step)
        assert np.array_equal(batch.images, in_order[step].images)
        assert np.array_equal(batch.labels, in_order[step].labels)


def test_every_step_draws_crops_of_its_own():
    one = Split(np.full((1, 32, 32, 3), 9, np.uint8), np.zeros(1, np.int32))
    data = dataclasses.replace(numbered(1, Augmentation(crop_padding=4, flip=False)), train=one)
    crops = {train_batch(data, 1, seed=0, step=step).images.tobytes() for step in range(20)}
    assert len(crops) > 10


def test_training_images_are_normalised_after_padding():
    data = numbered(4, Augmentation(crop_padding=4, flip=False), mean=(0.5,) * 3, std=(0.25,) * 3)
    values = np.unique(train_batch(data, 4, seed=0, step=0).images)
    expected = (np.arange(4) / 255 - 0.5) / 0.25  # black is -2 and not 0
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_evaluation_counts_every_image_once_in_full_batches():
    data = numbered(10, Augmentation(crop_padding=4, flip=True))
    batches, counts = zip(*eval_batches(data.test, data, 4), strict=True)
    assert counts == (4, 4, 2)
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    for batch in batches:
        assert batch.images.dtype == np.float32 and batch.labels.dtype == np.int32
        expected = np.broadcast_to(batch.labels[:, None, None, None] / 255, (4, 32, 32, 3))  # not augmented
        np.testing.assert_allclose(batch.images, expected, rtol=1e-6)


def test_evaluation_batches_that_divide_the_split():
    data = numbered(8)
    assert [count for _, count in eval_batches(data.val, data, 4)] == [4, 4]
    assert [count for _, count in eval_batches(data.val, data, 8)] == [8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected 1..4, the number of images"),
        ({"batch_size": 5}, "batch_size=5: expected 1..4"),
        ({"seed": -1}, "seed=-1, step=0: expected numbers of at least 0"),
        ({"step": -1}, "seed=0, step=-1: expected numbers of at least 0"),
    ],
)
def test_bad_training_batches(arguments, message):
    with pytest.raises(ImageError, match=message):
        train_batch(numbered(4), **{"batch_size": 2, "seed": 0, "step": 0, **arguments})


@pytest.mark.parametrize("batch_size", [0, -2, 5])
def test_bad_sizes_of_evaluation_batches_are_named_at_the_call(batch_size):
    data = numbered(4)
    with pytest.raises(ImageError, match=f"batch_size={batch_size}: expected 1..4"):
        eval_batches(data.test, data, batch_size)
    with pytest.raises(ImageError, match=f"batch_size={batch_size}: expected 1..4"):
        steps_per_epoch(data, batch_size)
