"""Training a network's own parameters, predicted or random, operation by operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ghn_jax import images
from ghn_jax.checks import fields
from ghn_jax.checks.fields import OneOf, Real, Whole
from ghn_jax.evaluation.accuracy import ByOperation, accuracy
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import ExecutionError, Given, Loss, Plan, value_and_grad
from ghn_jax.images import Batch, Dataset, Split
from ghn_jax.networks.program import ParameterTensor, Program

BATCH_SIZE = 64
LEARNING_RATE = 0.025
MOMENTUM = 0.9
WEIGHT_DECAY = 3e-4
CLIP_NORM = 5.0

OPTIMIZERS = ("sgd", "adamw")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a network is trained; the rate falls to 0 along a cosine.

    Attributes:
      steps: of the whole schedule.
      batch_size: images a step.
      optimizer: "sgd" (with momentum 0.9; the decay is added to the gradient) or "adamw".
      learning_rate: at the first step.
      weight_decay: of all parameters.
      clip_norm: gradients are clipped to this global norm.

    Raises:
      ExecutionError: naming the field, its value and what was expected.

    Source: paper, appendix B (SGD, 0.025, weight decay 3e-4, clipping to 5, there with batches of 96).
    """

    steps: int
    batch_size: int = BATCH_SIZE
    optimizer: str = "sgd"
    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    clip_norm: float = CLIP_NORM

    def __post_init__(self):
        fields.check(
            self, ExecutionError,
            steps=Whole(1, 1 << 40), batch_size=Whole(1, 1 << 20), optimizer=OneOf(*OPTIMIZERS),
            learning_rate=Real(0, 1e3), weight_decay=Real(0, 1e3), clip_norm=Real(0, 1e9, with_low=False),
        )  # fmt: skip

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimizer, of any tree of parameters."""
        rate = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        clip = optax.clip_by_global_norm(self.clip_norm)
        if self.optimizer == "adamw":
            return optax.chain(clip, optax.adamw(rate, weight_decay=self.weight_decay))
        decay = optax.add_decayed_weights(self.weight_decay)
        return optax.chain(clip, decay, optax.sgd(rate, momentum=MOMENTUM))


class Layout:
    """Where the tensors of a program lie in one vector; its length is one of a few, so that few updates are compiled.

    Attributes:
      length: of the vector; its last elements belong to no tensor.
    """

    def __init__(self, tensors: Sequence[ParameterTensor]):
        self._tensors = tensors
        self._ends = np.cumsum([tensor.size for tensor in tensors]).tolist()
        needed = max(self._ends, default=1) if self._ends else 1
        unit = 1 << max(0, needed.bit_length() - 3)
        self.length = -(-needed // unit) * unit

    def join(self, values: Mapping[str, Any]) -> np.ndarray:
        """The vector of tensors by name, zero elsewhere."""
        vector = np.zeros(self.length, np.float32)
        for tensor, end in zip(self._tensors, self._ends, strict=True):
            vector[end - tensor.size : end] = np.asarray(values[tensor.name]).reshape(-1)
        return vector

    def split(self, vector: Any) -> dict[str, np.ndarray]:
        """The tensors of a vector by name, as views."""
        array = np.asarray(vector)
        pairs = zip(self._tensors, self._ends, strict=True)
        return {tensor.name: array[end - tensor.size : end].reshape(tensor.shape) for tensor, end in pairs}


class Trainer:
    """Compiles for networks in training, once for all of them.

    Args:
      protocol: how they are trained.
      programs: whose programs are used and added to; None for new ones on the first device.
    """

    def __init__(self, protocol: Protocol, programs: Programs | None = None):
        self.protocol = protocol
        self.programs = Programs(jax.local_devices()[:1]) if programs is None else programs
        self.optimizer = protocol.make_optimizer()

        def update(gradient: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
            updates, opt_state = self.optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        self.update = jax.jit(update, donate_argnums=1)

    def begin(self, program: Program, params: Mapping[str, Any], device: int = 0) -> InTraining:
        """A network at its first step.

        Args:
          program: the network.
          params: where it starts, by name.
          device: number of the device that it is trained on.
        """
        return InTraining(self, program, params, device)


class InTraining:
    """One network on its way; `Trainer.begin` makes it.

    Parameters and gradients are joined to a vector on the host, so that no update is compiled for a network.
    """

    def __init__(self, trainer: Trainer, program: Program, params: Mapping[str, Any], device: int):
        self._trainer, self._program = trainer, program
        self._device = trainer.programs.devices[device]
        plan = Plan(program, trainer.protocol.batch_size, label_smoothing=0.0)
        self._network = plan.prepare(trainer.programs, device)
        self._layout = Layout(program.tensors)
        self._vector = jax.device_put(self._layout.join(params), self._device)
        self._opt_state = trainer.optimizer.init(self._vector)

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters by name, not to be written to."""
        return self._layout.split(self._vector)

    def step(self, batch: Batch, dropout_key: jax.Array) -> Loss:
        """Makes a step on a batch; returns the loss before it."""
        given = Given(self._program, jax.device_put(self.params, self._device))
        pixels, labels = jax.device_put((batch.images, batch.labels), self._device)
        loss = value_and_grad(self._network, given, pixels, labels, dropout_key)
        gradient = jax.device_put(self._layout.join(given.gradients), self._device)
        self._vector, self._opt_state = self._trainer.update(gradient, self._opt_state, self._vector)
        return loss


class FineTuner:
    """Trains networks, one after the other; what is compiled for one is there for the next.

    Args:
      protocol: how they are trained; a number means the default one of so many steps.
    """

    def __init__(self, protocol: Protocol | int):
        self._protocol = protocol if isinstance(protocol, Protocol) else Protocol(protocol)
        self._trainer = Trainer(self._protocol)

    def __call__(
        self,
        program: Program,
        params: Mapping[str, np.ndarray],
        dataset: Dataset,
        measure_at: Sequence[int],
        num_test_images: int | None = None,
        seed: int = 0,
        made_step: Callable[[float], None] = lambda loss: None,
    ) -> dict[int, float]:
        """Trains a network up to the last step of `measure_at`.

        Args:
          program: the network.
          params: where it starts, by name.
          dataset: its training images are used with the data set's augmentation.
          measure_at: after how many steps accuracy is measured, 0 for before the first one.
          num_test_images: measured on the first so many test images, None for all.
          seed: of the order of images, augmentation and dropout.
          made_step: called with the loss of every step.

        Returns:
          Top-1 accuracy (0..1), with batch statistics, for every number of `measure_at`.
        """
        network = self._trainer.begin(program, params)
        test = Split(dataset.test.images[:num_test_images], dataset.test.labels[:num_test_images])
        run_network = ByOperation(min(BATCH_SIZE, len(test.labels)), self._trainer.programs)
        accuracies = {}
        for step in range(max(measure_at) + 1):
            if step > 0:
                batch = images.train_batch(dataset, self._protocol.batch_size, seed, step - 1)
                key = jax.random.fold_in(jax.random.key(seed), step)
                made_step(float(network.step(batch, key).loss))
            if step in measure_at:
                accuracies[step] = accuracy(run_network(program, network.params), test, dataset)
        return accuracies
