"""Runs networks operation by operation, forwards and backwards: every operation is a small program of its own.

The host dispatches one program after the other and never waits for results.  Activations are ordinary arrays of a
device, which live as long as an operation to come, or a gradient, reads them.  Nothing is compiled for a network: only
for operations that none of the networks before had.

Source: Griewank and Walther, Evaluating Derivatives, chapter 3 (reverse mode with a tape of values).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.errors import GHNError
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.recipes import Backward, DropoutKey, Forward, Loss, LossOf, Signature, Sum, signature_of
from ghn_jax.networks.program import INPUT, Program

Images = jax.Array | np.ndarray
"""Arrays that go to the device with the first program that reads them."""


class ExecutionError(GHNError):
    """Networks that do not fit the devices they are to run on.

    >>> from ghn_jax.training.inputs import shares
    >>> shares([1.0, 2.0, 1.0], devices=2)
    Traceback (most recent call last):
        ...
    ghn_jax.execution.operations.ExecutionError: config.meta_batch=3: expected a multiple of 2, the number of devices
    """


class Parameters(Protocol):
    """The tensors of one network on its device; where they come from is nobody's business here."""

    def tensors(self, index: int) -> tuple[jax.Array, ...]:
        """Those of the instruction of this index, in the order of `Primitive.parameters`."""
        ...

    def receive(self, index: int, bars: tuple[jax.Array, ...]) -> None:
        """Takes the gradients with respect to them."""
        ...


class Given:
    """The tensors of a program by name, and afterwards their gradients.

    Attributes:
      gradients: by name, as far as they have been computed.
    """

    def __init__(self, program: Program, params: Mapping[str, jax.Array]):
        self._names = [tuple(tensor.name for tensor in instruction.tensors) for instruction in program.instructions]
        self._params = params
        self.gradients: dict[str, jax.Array] = {}

    def tensors(self, index: int) -> tuple[jax.Array, ...]:
        return tuple([self._params[name] for name in self._names[index]])

    def receive(self, index: int, bars: tuple[jax.Array, ...]) -> None:
        self.gradients.update(zip(self._names[index], bars, strict=True))


class Step(NamedTuple):
    """An instruction as it is dispatched.

    Attributes:
      forward: its program.
      backward: the program of its gradient; None if the gradient is handed on as it is, or not asked for.
      inputs: registers that it reads.
      has_tensors: whether it has parameters.
      reads: whether its gradient depends on its inputs.
      differentiable: whether its inputs need a gradient.
      dropout: whether it needs a random key.
      takes_rate: whether it needs the share of paths that are dropped, too.
      last_read: registers that nothing reads any more after it, forwards.
      last_needed: registers that nothing reads any more after its gradient.
    """

    forward: Callable[..., jax.Array]
    backward: Callable[..., Any] | None
    inputs: tuple[int, ...]
    has_tensors: bool
    reads: bool
    differentiable: bool
    dropout: bool
    takes_rate: bool
    last_read: tuple[int, ...]
    last_needed: tuple[int, ...]


class Runnable(NamedTuple):
    """A program ready to be dispatched on one device: `prepare` makes it.

    Attributes:
      steps: one an instruction; the one of index i writes register i + 1.
      sums: programs that add two gradients, by register.
      loss_of: program of the loss.
      dropout_key: program of `DropoutKey`.
    """

    steps: tuple[Step, ...]
    sums: Mapping[int, Callable[..., jax.Array]]
    loss_of: Callable[..., tuple[Loss, jax.Array]] | None
    dropout_key: Callable[..., Any] | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a network needs compiled, and when its activations die.

    Attributes:
      program: the network.
      batch: number of images.
      dtype: of activations.
      label_smoothing: of the loss; None for a network that is only run forwards, without dropout.
      auxiliary: what the loss of the auxiliary head counts, None without one (`lowering.lower_regularized`).
      teacher_share: of the loss, by a teacher's probabilities (`recipes.LossOf`).
    """

    program: Program
    batch: int
    dtype: str = "float32"
    label_smoothing: float | None = None
    auxiliary: float | None = None
    teacher_share: float = 0.0

    @property
    def training(self) -> bool:
        """Whether gradients are asked for."""
        return self.label_smoothing is not None

    @functools.cached_property
    def signatures(self) -> tuple[Signature, ...]:
        """One an instruction."""
        make = functools.partial(signature_of, self.program, batch=self.batch, dtype=self.dtype, training=self.training)
        return tuple(make(instruction) for instruction in self.program.instructions)

    @functools.cached_property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        """Registers that each instruction reads."""
        return tuple(tuple([r for r in i.inputs if r is not None]) for i in self.program.instructions)

    @functools.cached_property
    def lifetimes(self) -> tuple[list[list[int]], list[list[int]]]:
        """Registers that nothing reads any more after each instruction: forwards, and after its gradient."""
        instructions = self.program.instructions
        dead, freed = ([[] for _ in instructions] for _ in range(2))
        last_read, first_needed = {}, {}
        for index, registers in enumerate(self.inputs):
            for register in registers:
                last_read[register] = index
                if self.training and instructions[index].primitive.gradient_reads_inputs:
                    first_needed.setdefault(register, index)
        for register, index in last_read.items():
            if register in first_needed:
                freed[first_needed[register]].append(register)
            else:
                dead[index].append(register)
        return dead, freed

    @functools.cached_property
    def peak_bytes(self) -> int:
        """Bytes of the activations and their gradients that are alive together at most; what programs use meanwhile
        for themselves, and the padding that some devices add to arrays, come on top."""
        program, width = self.program, self.batch * jnp.dtype(self.dtype).itemsize
        size = [width * math.prod(program.register_shape(r)) for r in range(len(program.instructions) + 1)]
        dead, freed = self.lifetimes
        alive = size[INPUT]
        peak = alive
        for index in range(len(program.instructions)):
            alive += size[index + 1]
            peak = max(peak, alive)
            alive -= sum(size[register] for register in dead[index])
        if not self.training:
            return peak
        bars = {len(program.instructions)}
        for index in range(len(program.instructions) - 1, -1, -1):
            made, added = [], []
            for register in self.inputs[index]:
                if register != INPUT:
                    made.append(size[register])
                    added += made[-1:] if register in bars else []
                    bars.add(register)
            peak = max(peak, alive + sum(made) + max(added, default=0))  # a sum beside its terms
            bars.discard(index + 1)
            alive += sum(made) - sum(added) - size[index + 1] - sum(size[register] for register in freed[index])
        return peak

    @functools.cached_property
    def shared(self) -> frozenset[int]:
        """Registers that are read more than once: their gradients are added up."""
        seen, twice = set(), set()
        for register in (register for registers in self.inputs for register in registers):
            (twice if register in seen else seen).add(register)
        return frozenset(twice - {INPUT})

    @property
    def _loss_of(self) -> LossOf:
        assert self.label_smoothing is not None
        classes = self.program.task.num_classes
        return LossOf(classes, self.batch, self.dtype, self.label_smoothing, self.auxiliary, self.teacher_share)

    def recipes(self) -> Iterator[Any]:
        """What the network needs compiled, in the order in which it is needed."""
        yield from map(Forward, self.signatures)
        if self.training:
            yield self._loss_of
            yield from (DropoutKey() for signature in self.signatures if signature.dropout)
            yield from (Backward(s) for s in reversed(self.signatures) if not _hands_on(s))
            yield from (Sum(self.program.register_shape(r), self.batch, self.dtype) for r in sorted(self.shared))

    def prepare(self, programs: Programs, device: int = 0) -> Runnable:
        """The network on a device, when everything is compiled.

        Raises:
          CompilationError: naming an operation that cannot be compiled.
        """
        programs.begin(self.recipes())
        dead, freed = self.lifetimes
        steps = []
        for index, signature in enumerate(self.signatures):
            backward = None
            if self.training and not _hands_on(signature):
                backward = programs.get(Backward(signature), device)
            steps.append(
                Step(
                    forward=programs.get(Forward(signature), device),
                    backward=backward,
                    inputs=self.inputs[index],
                    has_tensors=bool(signature.primitive.parameters),
                    reads=signature.primitive.gradient_reads_inputs,
                    differentiable=not signature.from_images,
                    dropout=signature.dropout,
                    takes_rate=signature.dropout and signature.primitive.takes_rate,
                    last_read=tuple(dead[index]),
                    last_needed=tuple(freed[index]),
                )
            )
        if not self.training:
            return Runnable(tuple(steps), {}, None, None)
        sums = {
            r: programs.get(Sum(self.program.register_shape(r), self.batch, self.dtype), device) for r in self.shared
        }
        key = programs.get(DropoutKey(), device) if any(step.dropout for step in steps) else None
        return Runnable(tuple(steps), sums, programs.get(self._loss_of, device), key)


def _hands_on(signature: Signature) -> bool:
    """Whether the gradient of the output is that of every input."""
    return signature.primitive.hands_on_gradient


def logits(network: Runnable, parameters: Parameters, images: Images) -> jax.Array:
    """Logits `[B, classes]`, with the statistics of the batch.

    Args:
      network: from `Plan.prepare`.
      parameters: its tensors.
      images: float32 `[B, H, W, 3]`, normalised, on the device of the network.
    """
    registers: dict[int, Any] = {INPUT: images}
    for register, step in enumerate(network.steps, start=1):
        inputs = tuple([registers[r] for r in step.inputs])
        registers[register] = step.forward(parameters.tensors(register - 1), inputs, ())
        for dead in step.last_read:
            del registers[dead]
    return registers[len(network.steps)]


def value_and_grad(
    network: Runnable,
    parameters: Parameters,
    images: Images,
    labels: Any,
    dropout_key: jax.Array,
    drop_path: float = 0.0,
) -> Loss:
    """The loss on a batch in training mode (batch statistics, dropout); `parameters` receive their gradients.

    Args:
      network, parameters, images: as for `logits`, with a plan for training.
      labels: int32 `[B]`, or `TaughtLabels` for a plan with a `teacher_share`.
      dropout_key: the instruction that writes register r uses it folded with r.
      drop_path: share of paths that are dropped, where the network has any to drop.
    """
    steps, loss_of, key_of = network.steps, network.loss_of, network.dropout_key
    assert loss_of is not None
    registers, tensors, keys = {INPUT: images}, {}, {}
    for register, step in enumerate(steps, start=1):
        given = tensors[register] = parameters.tensors(register - 1) if step.has_tensors else ()
        key = keys[register] = ()
        if step.dropout:
            assert key_of is not None
            rate = (np.float32(drop_path),) if step.takes_rate else ()
            key = keys[register] = (*key_of(dropout_key, np.int32(register)), *rate)
        inputs = tuple([registers[r] for r in step.inputs])
        registers[register] = step.forward(given, inputs, key)
        for dead in step.last_read:
            del registers[dead]
    last = len(steps)
    loss, bar = loss_of(registers.pop(last), labels)
    bars = {last: bar}
    del bar
    for register in range(last, 0, -1):
        step = steps[register - 1]
        inputs = tuple([registers[r] for r in step.inputs]) if step.reads else ()
        if step.backward is None:
            tensor_bars, input_bars = (), (bars.pop(register),) * len(step.inputs)
        else:
            tensor_bars, input_bars = step.backward(bars.pop(register), tensors.pop(register), inputs, keys[register])
        del inputs
        for dead in step.last_needed:
            del registers[dead]
        if step.differentiable:
            for source, bar in zip(step.inputs, input_bars, strict=True):
                bars[source] = network.sums[source](bars[source], bar) if source in bars else bar
            del bar, input_bars
        if tensor_bars:
            parameters.receive(register - 1, tensor_bars)
    return loss
