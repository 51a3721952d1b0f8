"""Many networks trained by SGD, a step at a time: the ground truth that properties of networks are predicted from.

Every network is trained from He initialization and, if a hypernetwork is given, from the parameters that it predicts,
with the same batches in the same order.  A pool of networks takes every step together, so that a batch is made once.

Source: paper, section 5.2 and appendix B.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax import images
from ghn_jax.checks import fields
from ghn_jax.checks.fields import Maybe, OneOf, Real, Rule, Several, Whole
from ghn_jax.deepnets.sampler import ALL_SPLITS, sample_architecture, split_size
from ghn_jax.errors import GHNError
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.evaluation.fine_tuning import InTraining, Protocol, Trainer
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.execution.compiling import Programs
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset, Photos, Split
from ghn_jax.images.augment import smaller
from ghn_jax.networks.architecture import ArchitectureError
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import Network, make_network
from ghn_jax.prediction.predict import predict_params

FROM_HE, FROM_PREDICTED = "he", "predicted"

NOISE = 0.08
"""Standard deviation of the noise on noisy images, which are scaled to 0..1."""

RESULT: dict[str, Rule] = {
    "split": OneOf(*ALL_SPLITS),
    "number": Whole(0, split_size("train") - 1),
    "start": OneOf(FROM_HE, FROM_PREDICTED),
    "accuracy": json_lines.ACCURACIES,
}
"""Fields of a stored row, as `json_lines.read` takes them."""

MEASURED_FIELDS: dict[str, Rule] = RESULT | {
    "noisy_accuracy": json_lines.ACCURACIES,
    "train_accuracy": Several(Real(0, 1), 1, 1 << 24),
    "parameters": Whole(0, 1 << 40),
    "multiply_adds": Whole(0, 1 << 50),
}
"""With those that properties of networks are made of."""


class StudyError(GHNError):
    """A study that cannot be made with what it was given."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is measured of every network.

    Attributes:
      protocol: how networks are trained.
      measure_at: numbers of steps after which accuracy is measured, on noisy images after the last of them; 0 is before
        the first step, where only predicted parameters are measured, on noisy images too.
      train_images: how many of the training images make an epoch, None for all.
      test_images: how many test images are classified, None for all.
      seed: of the order of images, augmentation and dropout.

    Raises:
      StudyError: naming the field, its value and what was expected.
    """

    protocol: Protocol
    measure_at: tuple[int, ...]
    train_images: int | None = None
    test_images: int | None = None
    seed: int = 0

    def __post_init__(self):
        many = Maybe(Whole(1, 1 << 40))
        fields.check(self, StudyError, train_images=many, test_images=many, seed=Whole(0, 1 << 40))
        if not self.measure_at or not all(0 <= step <= self.protocol.steps for step in self.measure_at):
            raise StudyError(f"measure_at={self.measure_at}: expected steps from 0 to {self.protocol.steps}")

    def steps_of(self, start: str) -> tuple[int, ...]:
        """When a network from this start is measured; random parameters before the first step classify by chance."""
        return tuple(step for step in self.measure_at if step > 0 or start == FROM_PREDICTED)

    def about(self, dataset: Dataset) -> Row:
        """What rows must have in common to be compared."""
        protocol = dataclasses.asdict(self.protocol)
        if self.protocol.regularization is None:  # which rows of before do not have
            del protocol["regularization"]
        return {"dataset": dataset.name, "image_size": dataset.image_size, **protocol} | {
            "train_images": self.train_images, "test_images": self.test_images, "seed": self.seed,
        }  # fmt: skip


class NetworkId(NamedTuple):
    """A network of a split."""

    split: str
    number: int


def scaled_down(dataset: Dataset, size: int) -> Dataset:
    """A data set whose images are scaled down, by means over squares of pixels.

    Raises:
      ImageError: a size that does not divide that of the images.
      StudyError: photographs on disk.
    """

    def of(split: Split) -> Split:
        if isinstance(split.images, Photos):
            raise StudyError(f"{dataset.name} has photographs on disk: expected images in memory")
        pixels = [smaller(part, size) for part in np.array_split(split.images, 1 + len(split.images) // 4096)]
        return Split(np.rint(np.concatenate(pixels)).astype(np.uint8), split.labels)

    splits = {name: of(getattr(dataset, name)) for name in ("train", "val", "test")}
    return dataclasses.replace(dataset, image_size=size, **splits)


def first_networks(
    splits: Sequence[str], num: int, dataset: Dataset, most: int | None = None, first: int = 0
) -> list[NetworkId]:
    """The first networks of splits that fit the images, those of all splits in turns.

    Args:
      splits: of DeepNets-1M.
      num: how many of each.
      dataset: what they classify.
      most: only networks of at most so many multiply-adds an image, None for all.
      first: number in its split of the first one that is considered.

    Raises:
      StudyError: no such split, or one that has not as many such networks.
    """
    for split in splits:
        if split not in ALL_SPLITS:
            raise StudyError(f"there is no split {split!r}: expected one of {', '.join(ALL_SPLITS)}")
        if first + num > split_size(split):
            raise StudyError(f"{split} has {split_size(split)} networks, expected {num} from number {first} on")

    def of(split: str) -> list[NetworkId]:
        found = []
        for number in itertools.count(first):
            if len(found) == num:
                return found
            try:
                architecture = sample_architecture(split, number, dataset.task.large_images)
            except ValueError as error:
                raise StudyError(f"{split} has {len(found)} such networks, expected {num}: {error}") from None
            try:
                cost = lower(architecture, dataset.task).multiply_adds
            except ArchitectureError:  # made for images of another size
                continue
            if most is None or cost <= most:
                found.append(NetworkId(split, number))
        raise AssertionError

    return [entry for turn in zip(*(of(split) for split in splits), strict=True) for entry in turn]


def train(
    chosen: Sequence[NetworkId],
    dataset: Dataset,
    plan: Measurement,
    path: Path,
    *,
    ghn: GHN | None = None,
    checkpoint: str = "",
    pool: int = 4,
    workers: int = 1,
    finished: Callable[[int], object] = lambda rows: None,
) -> list[Row]:
    """Trains networks; those that a file does not have yet are added to it, a pool at a time.

    Args:
      chosen: networks.
      dataset: its training images are used with the data set's augmentation.
      plan: what is measured.
      path: a file with a JSON line for every network and start.
      ghn: predicts the parameters of the second start; None for He initialization alone.
      checkpoint: name of the hypernetwork, which rows of predicted parameters are stored with.
      pool: how many networks are trained together.
      workers: how many of these take their step at the same time, on the devices of this process in turns.
      finished: called with the number of rows that came.

    Returns:
      The rows of the networks asked for, in their order.  A row has what was asked for, the size and cost of the
      network, "accuracy" and "noisy_accuracy" (0..1, with batch statistics) by number of steps, and for every step
      "loss" (None if it is not finite) and "train_accuracy".
    """
    about = plan.about(dataset)
    starts = [FROM_HE] if ghn is None else [FROM_HE, FROM_PREDICTED]
    of_ghn = {} if ghn is None else {"checkpoint": checkpoint, json_lines.WEIGHTS: ghn.fingerprint}
    keys = [
        about | entry._asdict() | {"start": start} | (of_ghn if start == FROM_PREDICTED else {})
        for entry in chosen
        for start in starts
    ]
    rows = json_lines.resume(path, **RESULT)
    stored = {
        _name(row): row
        for row in rows
        if _complete(row, plan) and json_lines.is_of(row, about | (of_ghn if row["start"] == FROM_PREDICTED else {}))
    }
    missing = [key for key in keys if _name(key) not in stored]
    if plan.protocol.regularization is not None:  # networks that cannot be trained so are named before any is
        for entry in chosen:
            plan.protocol.lower(sample_architecture(*entry, dataset.task.large_images), dataset.task)
    trainer = Trainer(plan.protocol, Programs())
    data = plan.protocol.augmented(_with_train_images(dataset, plan.train_images))
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        for place in range(0, len(missing), pool):
            rows = _train_pool(missing[place : place + pool], data, plan, trainer, ghn, threads)
            for row in rows:
                json_lines.append(path, row)
                stored[_name(row)] = row
            finished(len(rows))
    return [stored[_name(key)] for key in keys]


def _name(row: Row) -> tuple[Any, ...]:
    return row["split"], row["number"], row["start"], row.get("checkpoint")


def _complete(row: Row, plan: Measurement) -> bool:
    """Whether a row has all that is asked for."""
    return all(str(step) in row["accuracy"] for step in plan.steps_of(row["start"]))


def _with_train_images(dataset: Dataset, count: int | None) -> Dataset:
    train = Split(dataset.train.images[:count], dataset.train.labels[:count])
    return dataset if count is None else dataclasses.replace(dataset, train=train)


class _Member(NamedTuple):
    """A network of a pool: its row so far, what it is, and its training."""

    row: Row
    network: Network
    training: InTraining


def _train_pool(
    keys: Sequence[Row],
    dataset: Dataset,
    plan: Measurement,
    trainer: Trainer,
    ghn: GHN | None,
    threads: concurrent.futures.Executor,
) -> list[Row]:
    """Trains the networks of these rows together."""
    devices = len(trainer.programs.devices)

    def begin(place: int, key: Row) -> _Member:
        architecture = sample_architecture(key["split"], key["number"], dataset.task.large_images)
        network = make_network(key["number"], architecture, dataset.task)
        program = plan.protocol.lower(architecture, dataset.task)
        params = he_init(program, network.number)
        if key["start"] == FROM_PREDICTED:
            assert ghn is not None
            params |= predict_params(network.graph, ghn)
        about = {"parameters": network.program.num_params, "multiply_adds": network.program.multiply_adds}
        measured = {"accuracy": {}, "noisy_accuracy": {}, "loss": [], "train_accuracy": []}
        return _Member(key | about | measured, network, trainer.begin(program, params, place % devices))

    members = [begin(place, key) for place, key in enumerate(keys)]
    test = Split(dataset.test.images[: plan.test_images], dataset.test.labels[: plan.test_images])
    evaluators = ByOperation(min(BATCH_SIZE, len(test.labels)), trainer.programs)

    def advance(member: _Member, step: int, batch: images.Batch | None, key: jax.Array) -> None:
        row = member.row
        if batch is not None:
            loss = member.training.step(batch, key)
            row["loss"].append(round(float(loss.loss), 4) if np.isfinite(loss.loss) else None)
            row["train_accuracy"].append(round(int(loss.correct) / len(batch.labels), 4))
        if step in plan.steps_of(row["start"]):
            params = member.training.params  # of which an auxiliary head has some for itself
            program = member.network.program
            logits = evaluators(program, {tensor.name: params[tensor.name] for tensor in program.tensors})
            row["accuracy"][str(step)] = accuracy(logits, test, dataset)
            if step in (0, max(plan.measure_at)):
                row["noisy_accuracy"][str(step)] = accuracy(logits, test, dataset, noise=NOISE)

    for step in range(max(plan.measure_at) + 1):
        batch = None
        if step > 0:
            batch = images.train_batch(dataset, plan.protocol.batch_size, plan.seed, step - 1)
        key = jax.random.fold_in(jax.random.key(plan.seed), step)
        list(threads.map(functools.partial(advance, step=step, batch=batch, key=key), members))
    return [member.row for member in members]
