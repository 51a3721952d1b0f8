"""Training a network's own parameters, predicted or random, operation by operation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ghn_jax import images
from ghn_jax.checks import fields
from ghn_jax.checks.fields import Is, Maybe, OneOf, Real, Whole
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import ExecutionError, Plan, value_and_grad
from ghn_jax.execution.recipes import Loss
from ghn_jax.images import Augmentation, Batch, Dataset, Split
from ghn_jax.networks.architecture import AnyArchitecture, Task
from ghn_jax.networks.lowering import lower, lower_regularized
from ghn_jax.networks.primitives import Shape
from ghn_jax.networks.program import ParameterTensor, Program

TRAIN_BATCH_SIZE = 64
LEARNING_RATE = 0.025
MOMENTUM = 0.9
WEIGHT_DECAY = 3e-4
CLIP_NORM = 5.0

NETWORK_OPTIMIZERS = ("sgd", "adamw")
RATE = Real(0, 1e3)
"""Of learning, or of the decay of weights."""


@dataclasses.dataclass(frozen=True)
class Regularization:
    """What DARTS adds to the training of a network of cells.

    Attributes:
      cutout: side of the hole in every training image, in pixels; 0 for none.
      drop_path: share of the paths of cells that are dropped at the last step; it grows from 0 with the steps.
      auxiliary: what the loss of the auxiliary head counts.

    Raises:
      ExecutionError: naming the field, its value and what was expected.

    Source: Liu et al., DARTS, ICLR 2019, section 3.2; paper, section 5.2 (images of 32x32 pixels).
    """

    cutout: int = 16
    drop_path: float = 0.2
    auxiliary: float = 0.4

    def __post_init__(self):
        fields.check(
            self, ExecutionError,
            cutout=Whole(0, 1 << 13), drop_path=Real(0, 1, with_high=False), auxiliary=Real(0, 1e3),
        )  # fmt: skip


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
      regularization: what else is done in training; None for nothing.

    Raises:
      ExecutionError: naming the field, its value and what was expected.

    Source: paper, appendix B (SGD, 0.025, weight decay 3e-4, clipping to 5, there with batches of 96).
    """

    steps: int
    batch_size: int = TRAIN_BATCH_SIZE
    optimizer: str = "sgd"
    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    clip_norm: float = CLIP_NORM
    regularization: Regularization | None = None

    def __post_init__(self):
        fields.check(
            self, ExecutionError,
            steps=Whole(1, 1 << 40), batch_size=Whole(1, 1 << 20), optimizer=OneOf(*NETWORK_OPTIMIZERS),
            learning_rate=RATE, weight_decay=RATE, clip_norm=Real(0, 1e9, with_low=False),
            regularization=Maybe(Is(Regularization)),
        )  # fmt: skip

    def lower(self, architecture: AnyArchitecture, task: Task) -> Program:
        """The program that is trained; with regularization it has more tensors than the network.

        Raises:
          ArchitectureError: as for `lowering.lower` and `lowering.lower_regularized`.
        """
        return (lower if self.regularization is None else lower_regularized)(architecture, task)

    def augmented(self, dataset: Dataset) -> Dataset:
        """A data set whose training images are augmented as they are to be.

        Raises:
          ExecutionError: photographs on disk, of which nothing can be cut out.
        """
        if self.regularization is None or not self.regularization.cutout:
            return dataset
        if not isinstance(dataset.augmentation, Augmentation):
            raise ExecutionError(f"cutout={self.regularization.cutout}: expected 0 for photographs on disk")
        augmentation = dataclasses.replace(dataset.augmentation, cutout=self.regularization.cutout)
        return dataclasses.replace(dataset, augmentation=augmentation)

    def drop_path(self, step: int) -> float:
        """Share of paths that are dropped at a step, counted from 0."""
        return 0.0 if self.regularization is None else self.regularization.drop_path * min(1.0, step / self.steps)

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimizer of clipped gradients, of any tree of parameters; no tensor depends on another."""
        rate = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        if self.optimizer == "adamw":
            return optax.adamw(rate, weight_decay=self.weight_decay)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.sgd(rate, momentum=MOMENTUM))


@dataclasses.dataclass(frozen=True)
class SumOfSquares:
    """The recipe of the gradient's norm, an instruction at a time: (sum so far, gradients) -> sum with theirs."""

    shapes: tuple[Shape, ...]
    donated = ()

    @property
    def arguments(self):
        return jax.ShapeDtypeStruct((), jnp.float32), _float32(self.shapes)

    def __call__(self, total, gradients):
        return total + optax.tree.norm(gradients, squared=True)


@dataclasses.dataclass(frozen=True)
class Update:
    """The recipe of a step of an instruction's tensors.

    (sum of the squares of all gradients, gradients, state of the optimizer, tensors) -> tensors, state.
    """

    protocol: Protocol
    shapes: tuple[Shape, ...]
    donated = (1, 2)

    @property
    def arguments(self):
        tensors = _float32(self.shapes)
        return jax.ShapeDtypeStruct((), jnp.float32), tensors, self.state, tensors

    @property
    def state(self) -> Any:
        """Shapes and types of the optimizer's state, which begins with zeros."""
        return _optimizer_state(self.protocol, self.shapes)

    def __call__(self, squares, gradients, state, tensors):
        scale = self.protocol.clip_norm / jnp.maximum(jnp.sqrt(squares), self.protocol.clip_norm)
        gradients = jax.tree.map(lambda gradient: scale * gradient, gradients)
        updates, state = self.protocol.make_optimizer().update(gradients, state, tensors)
        return optax.apply_updates(tensors, updates), state


@functools.cache  # every network asks, for each of its instructions
def _optimizer_state(protocol: Protocol, shapes: tuple[Shape, ...]) -> Any:
    return jax.eval_shape(protocol.make_optimizer().init, _float32(shapes))


def _float32(shapes: Sequence[Shape]) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)


class Trainer:
    """Compiles for networks in training, once for all of them.

    Args:
      protocol: how they are trained.
      programs: whose programs are used and added to; None for new ones on the first device.
    """

    def __init__(self, protocol: Protocol, programs: Programs | None = None):
        self.protocol = protocol
        self.programs = Programs(jax.local_devices()[:1]) if programs is None else programs

    def begin(self, program: Program, params: Mapping[str, Any], device: int = 0) -> InTraining:
        """A network at its first step.

        Args:
          program: the network, of `Protocol.lower`.
          params: where it starts, by name.
          device: number of the device that it is trained on.

        Raises:
          ExecutionError: a program that was not made for this protocol.
        """
        return InTraining(self, program, params, device)


class _Trained:
    """The tensors of an instruction in training, on their device."""

    def __init__(self, trainer: Trainer, tensors: Sequence[ParameterTensor], params: Mapping[str, Any], device: int):
        shapes = tuple(tensor.shape for tensor in tensors)
        update = Update(trainer.protocol, shapes)
        self._add_squares = trainer.programs.get(SumOfSquares(shapes), device)
        self._update = trainer.programs.get(update, device)
        self.names = tuple(tensor.name for tensor in tensors)
        # Copies: on a CPU, an array of the device may share the memory of the one that it was made of.
        values = tuple(np.array(params[tensor.name], np.float32).reshape(tensor.shape) for tensor in tensors)
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), update.state)
        self.values, self._state = jax.device_put((values, state), trainer.programs.devices[device])
        self.gradients: tuple[jax.Array, ...] = ()

    def add_squares(self, total: jax.Array) -> jax.Array:
        return self._add_squares(total, self.gradients)

    def update(self, squares: jax.Array) -> None:
        gradients, self.gradients = self.gradients, ()
        self.values, self._state = self._update(squares, gradients, self._state, self.values)


class InTraining:
    """One network on its way; `Trainer.begin` makes it.

    Tensors are updated on their device, an instruction's at a time, so that nothing is compiled for a network.
    """

    def __init__(self, trainer: Trainer, program: Program, params: Mapping[str, Any], device: int):
        programs, regularization = trainer.programs, trainer.protocol.regularization
        heads = 1 if regularization is None else 2
        columns = program.instructions[-1].shape[-1]
        if columns != heads * program.task.num_classes:
            raise ExecutionError(
                f"the program has {columns} outputs, expected {heads * program.task.num_classes}: "
                "Protocol.lower makes the one for a protocol"
            )
        self._protocol, self._steps = trainer.protocol, 0
        self._device = programs.devices[device]
        groups = {index: i.tensors for index, i in enumerate(program.instructions) if i.tensors}
        shapes = dict.fromkeys(tuple(tensor.shape for tensor in tensors) for tensors in groups.values())
        auxiliary = None if regularization is None else regularization.auxiliary
        plan = Plan(program, trainer.protocol.batch_size, label_smoothing=0.0, auxiliary=auxiliary)
        programs.begin([*plan.recipes(), *map(SumOfSquares, shapes), *(Update(trainer.protocol, s) for s in shapes)])
        self._network = plan.prepare(programs, device)
        self._trained = {index: _Trained(trainer, tensors, params, device) for index, tensors in groups.items()}
        self._zero = jax.device_put(np.float32(0), self._device)

    def tensors(self, index: int) -> tuple[jax.Array, ...]:
        """Those of the instruction of this index (`execution.operations.Parameters`)."""
        return self._trained[index].values

    def receive(self, index: int, bars: tuple[jax.Array, ...]) -> None:
        """Takes the gradients with respect to them."""
        self._trained[index].gradients = bars

    @property
    def params(self) -> dict[str, jax.Array]:
        """The parameters by name, on their device."""
        return {
            name: value for one in self._trained.values() for name, value in zip(one.names, one.values, strict=True)
        }

    def step(self, batch: Batch, dropout_key: jax.Array) -> Loss:
        """Makes a step on a batch; returns the loss before it."""
        pixels, labels = jax.device_put((batch.images, batch.labels), self._device)
        drop_path = self._protocol.drop_path(self._steps)
        loss = value_and_grad(self._network, self, pixels, labels, dropout_key, drop_path)
        self._steps += 1
        squares = self._zero
        for one in self._trained.values():
            squares = one.add_squares(squares)
        for one in self._trained.values():
            one.update(squares)
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
          program: the network, which a protocol with regularization does not take: it needs an auxiliary head.
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
