"""Training of a detector, the whole of it, and its detections on pictures.

Source: paper, appendix (Penn-Fudan), and its code: SGD, 10 epochs of batches of 2, a tenth of the rate every 3 epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Real, Whole
from ghn_jax.evaluation.fine_tuning import MOMENTUM
from ghn_jax.networks.platforms import compiler_options
from ghn_jax.networks.program import Program
from ghn_jax.studies.detection.average_precision import AveragePrecision, Found, average_precision
from ghn_jax.studies.detection.detector import Detector, DetectorConfig, DetectorParams, Losses
from ghn_jax.studies.detection.pictures import Picture, Scaling, Scenes, scenes
from ghn_jax.studies.train_networks import StudyError

WARM_UP_FROM = 1e-3
"""Of the rate, at the first step; it is whole at the end of the first epoch, or after `WARM_UP_STEPS`."""

WARM_UP_STEPS = 1000
FLIPPED = 0.5


@dataclasses.dataclass(frozen=True)
class DetectionProtocol:
    """How a detector is trained.

    Attributes:
      epochs: of all training pictures.
      batch_size: pictures a step, and of a batch of detections: batch norm takes its statistics from it.
      learning_rate: of SGD with momentum 0.9, warmed up in the first epoch.
      epochs_of_a_rate: the rate is divided by 10 every so many epochs.
      weight_decay: of all parameters, added to the gradient.
      test_pictures: the last so many of a permutation test, all others train.
      scaling: of pictures.

    Raises:
      StudyError: naming the field, its value and what was expected.
    """

    epochs: int = 10
    batch_size: int = 2
    learning_rate: float = 0.005
    epochs_of_a_rate: int = 3
    weight_decay: float = 5e-4
    test_pictures: int = 50
    scaling: Scaling = Scaling()

    def __post_init__(self):
        many = Whole(1, 1 << 20)
        fields.check(
            self, StudyError, epochs=many, epochs_of_a_rate=many, batch_size=many, test_pictures=many,
            learning_rate=Real(0, 1e3), weight_decay=Real(0, 1e3),
        )  # fmt: skip

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate at a step of an epoch of so many, both counted from 0."""
        warm = min(WARM_UP_STEPS, steps - 1)
        part = 1.0 if epoch or step >= warm else WARM_UP_FROM + (1 - WARM_UP_FROM) * step / warm
        return self.learning_rate * part * 0.1 ** (epoch // self.epochs_of_a_rate)


def divided(pictures: Sequence[Picture], protocol: DetectionProtocol, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of pictures that train and of those that test, by a permutation of this seed.

    Raises:
      StudyError: too few pictures to test and to fill a batch.
    """
    needed = protocol.test_pictures + protocol.batch_size
    if len(pictures) < needed:
        raise StudyError(
            f"{len(pictures)} pictures: expected at least {needed}, {protocol.test_pictures} to test and a batch of "
            f"{protocol.batch_size}"
        )
    if protocol.test_pictures < protocol.batch_size:
        raise StudyError(f"test_pictures={protocol.test_pictures}: expected at least a batch of {protocol.batch_size}")
    order = np.random.default_rng(seed).permutation(len(pictures))
    return order[: -protocol.test_pictures], order[-protocol.test_pictures :]


class DetectorTrainer:
    """Compiles a detector once, to train and test it from several starts.

    Args:
      program: of the network that is the backbone.
      pictures: all of them.
      config: how the detector is built.
      protocol: how it is trained.
    """

    def __init__(
        self, program: Program, pictures: Sequence[Picture], config: DetectorConfig, protocol: DetectionProtocol
    ):
        self._pictures, self._protocol = pictures, protocol
        self._scenes = scenes(pictures, protocol.scaling)
        self.detector = Detector(program, config, self._scenes.canvas)
        self._optimizer = optax.chain(optax.add_decayed_weights(protocol.weight_decay), optax.trace(MOMENTUM))
        options = compiler_options(jax.default_backend())
        self._step = jax.jit(self._make_step, donate_argnums=(0, 1), compiler_options=options)
        self._detect = jax.jit(self.detector.detect, compiler_options=options)

    def _make_step(
        self, params: DetectorParams, opt_state: optax.OptState, batch: Scenes, key: jax.Array, rate: jax.Array
    ):
        def total(params: DetectorParams) -> tuple[jax.Array, Losses]:
            losses = self.detector.losses(params, batch, key)
            return sum(losses, jnp.float32(0)), losses

        gradient, losses = jax.grad(total, has_aux=True)(params)
        updates, opt_state = self._optimizer.update(gradient, opt_state, params)
        return jax.tree.map(lambda leaf, update: leaf - rate * update, params, updates), opt_state, losses

    def train(
        self,
        start: Mapping[str, np.ndarray],
        seed: int,
        made_step: Callable[[Losses], object] = lambda losses: None,
    ) -> Iterator[DetectorParams]:
        """Trains the detector from these parameters of the network; yields its parameters after every epoch.

        Args:
          start: parameters of the network, by name.
          seed: of the permutation of pictures, of the heads, of the order and of the boxes that are learned from.
          made_step: called with the losses of every step.

        Raises:
          StudyError: too few pictures, or pictures too small for the network.
        """
        train, _ = divided(self._pictures, self._protocol, seed)
        params = self.detector.init(start, seed)
        opt_state, size = self._optimizer.init(params), self._protocol.batch_size
        for epoch in range(self._protocol.epochs):
            rng = np.random.default_rng([seed, epoch])
            order = rng.permutation(train)
            steps = len(order) // size
            for step in range(steps):
                batch = self._scenes.chosen(order[step * size : (step + 1) * size])
                batch = batch.mirrored(rng.random(size) < FLIPPED)
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), epoch), step)
                rate = jnp.float32(self._protocol.rate(epoch, step, steps))
                params, opt_state, losses = self._step(params, opt_state, batch, key, rate)
                made_step(losses)
            yield jax.tree.map(jnp.copy, params)

    def find(self, params: DetectorParams, indices: np.ndarray) -> list[Found]:
        """What a detector finds on pictures, in their own pixels.

        Pictures are taken in batches, the last one filled up with the first pictures.
        """
        size, found = self._protocol.batch_size, []
        for first in range(0, len(indices), size):
            batch = self._scenes.chosen(indices[np.arange(first, first + size) % len(indices)])
            boxes, scores = map(np.asarray, self._detect(params, batch))
            for place in range(min(size, len(indices) - first)):
                there = scores[place] > -np.inf
                scale = np.tile(batch.factors[place, ::-1], 2)
                found.append(Found(boxes[place][there] / scale, scores[place][there]))
        return found

    def measure(self, params: DetectorParams, seed: int) -> AveragePrecision:
        """Average precision on the test pictures of the permutation of this seed."""
        _, test = divided(self._pictures, self._protocol, seed)
        return average_precision([self._pictures[index].boxes for index in test], self.find(params, test))
