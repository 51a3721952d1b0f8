"""The programs that networks are run with, as recipes: an operation, its gradient, sums of gradients, the loss.

A recipe is static; `compiling.Programs` makes a compiled program of it, once for all networks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ghn_jax.networks.losses import TaughtLabels, cross_entropy, distillation
from ghn_jax.networks.primitives import Primitive, Shape
from ghn_jax.networks.program import INPUT, Instruction, Program


@dataclasses.dataclass(frozen=True)
class Signature:
    """A primitive with all that its program depends on.

    Attributes:
      primitive: the operation.
      inputs: shapes of its inputs without the batch axis, None for one that is absent.
      output: shape of its output.
      from_images: whether it reads the images, which need no gradient.
      batch: number of images.
      dtype: of activations, "float32" or "bfloat16".
      dropout: whether units are dropped (training).
    """

    primitive: Primitive
    inputs: tuple[Shape | None, ...]
    output: Shape
    from_images: bool
    batch: int
    dtype: str
    dropout: bool

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.primitive, self.inputs, self.batch, self.dtype, self.from_images, self.dropout))

    def __hash__(self) -> int:  # every step of every network is looked up
        return self._hash

    def __str__(self) -> str:
        shapes = " and ".join(str(shape) for shape in self.inputs if shape is not None)
        return f"{self.primitive} applied to {shapes}, {self.batch} images of {self.dtype}"

    @property
    def tensors(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of its parameters, which are float32 whatever activations are."""
        return tuple(jax.ShapeDtypeStruct(p.shape, jnp.float32) for p in self.primitive.parameters)

    @property
    def present(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of the inputs that are there."""
        dtype = jnp.float32 if self.from_images else self.dtype
        return tuple(jax.ShapeDtypeStruct((self.batch, *s), dtype) for s in self.inputs if s is not None)

    @property
    def keys(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of the random key that dropout takes, and of the share that is dropped where it changes."""
        if not self.dropout:
            return ()
        rate = (jax.ShapeDtypeStruct((), jnp.float32),) if self.primitive.takes_rate else ()
        return jax.eval_shape(lambda: jax.random.key(0)), *rate

    def apply(self, tensors: Sequence[jax.Array], inputs: Sequence[jax.Array], keys: Sequence[jax.Array]) -> jax.Array:
        """The output."""
        given = iter(inputs)
        states: list[Any] = [None if shape is None else next(given).astype(self.dtype) for shape in self.inputs]
        options = dict(zip(("dropout_key", "rate"), keys, strict=False))
        return self.primitive([tensor.astype(self.dtype) for tensor in tensors], *states, **options)


def signature_of(
    program: Program, instruction: Instruction, batch: int, dtype: str = "float32", training: bool = True
) -> Signature:
    """The signature of an instruction of `program`."""
    shapes = tuple([None if register is None else program.register_shape(register) for register in instruction.inputs])
    primitive = instruction.primitive
    dropout = training and primitive.needs_key
    return Signature(primitive, shapes, instruction.shape, instruction.inputs == (INPUT,), batch, dtype, dropout)


@dataclasses.dataclass(frozen=True)
class Forward:
    """The recipe of an operation: (tensors, inputs, key of dropout) -> output."""

    signature: Signature
    donated = ()

    @property
    def arguments(self):
        return self.signature.tensors, self.signature.present, self.signature.keys

    def __call__(self, tensors, inputs, keys):
        return self.signature.apply(tensors, inputs, keys)

    def __str__(self):
        return f"{self.signature}, forwards"


@dataclasses.dataclass(frozen=True)
class Backward:
    """The recipe of an operation's gradient: (gradient of the output, tensors, inputs, key) -> those of both.

    Inputs are given only if the gradient depends on them (`Primitive.gradient_reads_inputs`); of images there is none.
    """

    signature: Signature
    donated = ()

    @property
    def arguments(self):
        signature = self.signature
        bar = jax.ShapeDtypeStruct((signature.batch, *signature.output), signature.dtype)
        inputs = signature.present if signature.primitive.gradient_reads_inputs else ()
        return bar, signature.tensors, inputs, signature.keys

    def __call__(self, bar, tensors, inputs, keys):
        signature = self.signature
        inputs = inputs or [jnp.zeros(leaf.shape, leaf.dtype) for leaf in signature.present]
        if signature.from_images:
            _, pull_back = jax.vjp(lambda tensors: signature.apply(tensors, inputs, keys), tensors)
            return pull_back(bar)[0], ()
        _, pull_back = jax.vjp(lambda tensors, inputs: signature.apply(tensors, inputs, keys), tensors, tuple(inputs))
        return pull_back(bar)

    def __str__(self):
        return f"{self.signature}, backwards"


@dataclasses.dataclass(frozen=True)
class Sum:
    """The recipe for a second gradient of the same activation."""

    shape: Shape
    batch: int
    dtype: str
    donated = ()

    @property
    def arguments(self):
        leaf = jax.ShapeDtypeStruct((self.batch, *self.shape), self.dtype)
        return leaf, leaf

    def __call__(self, first, second):
        return first + second


class Loss(NamedTuple):
    """What a network says about a batch: mean cross-entropy, and images classified correctly (int32)."""

    loss: jax.Array
    correct: jax.Array


@dataclasses.dataclass(frozen=True)
class LossOf:
    """The recipe of the loss: (logits, labels) -> `Loss`, gradient of the logits.

    With an auxiliary head, its logits stand behind those of the network; their loss counts `auxiliary` times.  With a
    `teacher_share`, labels are `TaughtLabels`, and that share of every loss is the one of the teacher's probabilities.
    """

    classes: int
    batch: int
    dtype: str
    label_smoothing: float
    auxiliary: float | None = None
    teacher_share: float = 0.0
    donated = ()

    @property
    def arguments(self):
        columns = self.classes if self.auxiliary is None else 2 * self.classes
        logits = jax.ShapeDtypeStruct((self.batch, columns), self.dtype)
        labels = jax.ShapeDtypeStruct((self.batch,), jnp.int32)
        if not self.teacher_share:
            return logits, labels
        return logits, TaughtLabels(labels, jax.ShapeDtypeStruct((self.batch, self.classes), jnp.float32))

    def __call__(self, logits, labels):
        logits = logits.astype(jnp.float32)

        true = labels.labels if self.teacher_share else labels

        def of_head(logits):
            loss = cross_entropy(logits, true, self.label_smoothing)
            if not self.teacher_share:
                return loss
            return (1 - self.teacher_share) * loss + self.teacher_share * distillation(logits, labels.taught)

        def total(logits):
            loss = of_head(logits[:, : self.classes])
            if self.auxiliary is not None:
                loss += self.auxiliary * of_head(logits[:, self.classes :])
            return loss

        loss, bar = jax.value_and_grad(total)(logits)
        correct = jnp.sum(jnp.argmax(logits[:, : self.classes], -1) == true, dtype=jnp.int32)
        return Loss(loss, correct), bar.astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class DropoutKey:
    """The recipe of an instruction's random key: (key of the network, register that is written) -> key."""

    donated = ()

    @property
    def arguments(self):
        return jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)

    def __call__(self, key, register):
        return (jax.random.fold_in(key, register),)
