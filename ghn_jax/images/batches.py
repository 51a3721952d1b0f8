"""Batches of normalised images, reproducible from a seed and the number of a step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ghn_jax.checks.fields import Real, taken
from ghn_jax.images.augment import Augmentation, augment, cut_out, normalise, with_noise
from ghn_jax.images.dataset import Dataset
from ghn_jax.images.errors import ImageError
from ghn_jax.images.photo_views import PhotoAugmentation, centre_views, random_views
from ghn_jax.images.photos import Photos
from ghn_jax.images.split import Split

_NOISE_STREAM = 1
"""Begins the seed of the noise of a batch, the position of its first image follows."""


class Batch(NamedTuple):
    """Normalised images, float32 [batch, size, size, 3], and their labels, int32 [batch] or `losses.TaughtLabels`."""

    images: np.ndarray
    labels: Any


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Number of full batches in the training images.

    Raises:
      ImageError: there is none.
    """
    _check_batch_size(batch_size, dataset.train)
    return len(dataset.train.labels) // batch_size


def train_batch(dataset: Dataset, batch_size: int, seed: int, step: int) -> Batch:
    """The augmented training images of step number `step`, counted from 0 over all epochs.

    Nothing is remembered from step to step, so training can go on from any of them.  An epoch goes through
    the images in an order of its own and leaves out those that fill no batch.

    Raises:
      ImageError: a negative seed or step, a batch size that is not in 1..number of training images, or a damaged
        photograph.
    """
    if seed < 0 or step < 0:
        raise ImageError(f"seed={seed}, step={step}: expected numbers of at least 0")
    epoch, position = divmod(step, steps_per_epoch(dataset, batch_size))
    order = _epoch_order(len(dataset.train.labels), seed, epoch)
    chosen = order[position * batch_size : (position + 1) * batch_size]
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(position,)))
    images, augmentation = dataset.train.images[chosen], dataset.augmentation
    if isinstance(images, Photos):
        assert isinstance(augmentation, PhotoAugmentation)  # which data sets see to
        images = random_views(images, augmentation, dataset.image_size, rng)
    else:
        assert isinstance(augmentation, Augmentation)
        images = augment(images, augmentation, rng)
    images = normalise(images, dataset.mean, dataset.std)
    if isinstance(augmentation, Augmentation) and augmentation.cutout:
        images = cut_out(images, augmentation.cutout, rng)
    return Batch(images, dataset.train.labels[chosen])


def eval_batches(split: Split, dataset: Dataset, batch_size: int, noise: float = 0.0) -> Iterator[tuple[Batch, int]]:
    """Batches of `split`, one of `dataset`'s, in order, each with the number of its images that count.

    Batch norm takes its statistics from the batch, so all batches are full: the last one is filled up with
    the first images, which do not count again.  With `noise` above 0, images have Gaussian noise of that standard
    deviation (for images scaled to 0..1), the same whenever a batch is asked for.

    Raises:
      ImageError: a batch size that is not in 1..number of images, or noise that is not in 0..1.
    """
    _check_batch_size(batch_size, split)
    noise = taken(noise, Real(0, 1), ImageError, "noise")
    return _eval_batches(split, dataset, batch_size, noise)


def _eval_batches(split: Split, dataset: Dataset, batch_size: int, noise: float) -> Iterator[tuple[Batch, int]]:
    total = len(split.labels)
    for first in range(0, total, batch_size):
        chosen = np.arange(first, first + batch_size) % total
        pixels = _as_evaluated(split.images[chosen], dataset)
        if noise > 0:
            pixels = with_noise(pixels, noise, np.random.default_rng(np.random.SeedSequence([_NOISE_STREAM, first])))
        images = normalise(pixels, dataset.mean, dataset.std)
        yield Batch(images, split.labels[chosen]), min(batch_size, total - first)


def in_memory(split: Split, dataset: Dataset, num_images: int | None = None) -> Split:
    """The first `num_images` images (None: all) of `split`, one of `dataset`'s, as they are evaluated, in memory.

    For photographs that are looked at by many networks: they are decoded once.  One of 224x224 takes 147 KiB.

    Raises:
      ImageError: more than there is memory for, or a damaged photograph.
    """
    images, labels = split.images[:num_images], split.labels[:num_images]
    if not isinstance(images, Photos):
        return Split(images, labels)
    try:
        pixels = np.empty((len(images), dataset.image_size, dataset.image_size, 3), np.uint8)
    except MemoryError as error:
        raise ImageError(f"{len(images)} images do not fit into memory, take fewer: {error}") from error
    for first in tqdm(range(0, len(images), _DECODED_TOGETHER), desc="decoding images", leave=False, delay=2):
        chosen = slice(first, first + _DECODED_TOGETHER)
        pixels[chosen] = _as_evaluated(images[chosen], dataset)
    return Split(pixels, labels)


_DECODED_TOGETHER = 256


def _as_evaluated(images: np.ndarray | Photos, dataset: Dataset) -> np.ndarray:
    return centre_views(images, dataset.image_size) if isinstance(images, Photos) else images


@functools.lru_cache(maxsize=1)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(count)
    order.flags.writeable = False
    return order


def _check_batch_size(batch_size: int, split: Split) -> None:
    if not 1 <= batch_size <= len(split.labels):
        raise ImageError(f"batch_size={batch_size}: expected 1..{len(split.labels)}, the number of images")
