"""What one instruction does, forwards and backwards: read, compute, write.

The memory is one array `[units, UNIT]`, in the type that activations are computed in.  An instruction reads its inputs
there and writes its output; backwards it reads its inputs (if it depends on them, see
`Primitive.gradient_reads_inputs`) and the gradient of its output, and adds to the gradients of its inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ghn_jax.machine.assemble import UNIT, Word, units
from ghn_jax.machine.parameters import Parameters
from ghn_jax.machine.table import Signature
from ghn_jax.primitives import Linear, Shape

Operation = Callable[..., Any]
"""A function of a carry that is updated in place, the number of a signature within its group, and a `Context`."""


class Context(NamedTuple):
    """What an instruction finds besides the memory.

    Attributes:
      word: the instruction.
      images: `[B, H, W, 3]`.
      values: the parameters of all networks.
      dropout_key: of this instruction; None turns dropout off.
    """

    word: Word
    images: jax.Array
    values: Any
    dropout_key: jax.Array | None


class Gradients(NamedTuple):
    """What the instructions of the way back write.

    Attributes:
      memory: with the gradients of activations.
      bars: gradients of the parameters, in their form.
      square: sum of the squares of the gradients of the network's tensors.
    """

    memory: jax.Array
    bars: Any
    square: jax.Array


def output_layout(signature: Signature) -> Hashable:
    """Signatures that write the same kind of output forwards."""
    return signature.output


def forward(signatures: Sequence[Signature], parameters: Parameters, batch: int, dtype) -> Operation:
    """The instructions that write one kind of output into the memory.

    Args:
      signatures: of one `output_layout`.
      parameters: the kind of `Context.values`.
      batch: number of images.
      dtype: of the memory.
    """
    output = jax.ShapeDtypeStruct((batch, *signatures[0].output), dtype)

    def operation(memory: jax.Array, which: jax.Array, context: Context) -> jax.Array:
        def compute(signature: Signature, memory: jax.Array) -> jax.Array:
            inputs = _read_inputs(signature, context, memory)
            tensors = _tensors(signature, parameters, _read_raw(signature, parameters, context), dtype)
            return _apply(signature, tensors, inputs, context.dropout_key)

        branches = [functools.partial(compute, signature) for signature in signatures]
        return write(memory, before_writing(which, branches, output, memory), context.word.output)

    return operation


def gradient_layout(signature: Signature, parameters: Parameters) -> Hashable:
    """Signatures that write the same kinds of gradients backwards."""
    inputs = () if signature.from_images else signature.inputs
    return inputs, tuple(parameters.layout(parameter) for parameter in signature.primitive.parameters)


def backward(signatures: Sequence[Signature], parameters: Parameters, batch: int, dtype) -> Operation:
    """The instructions that turn gradients of outputs into those of one kind of inputs and parameters.

    Args are those of `forward`, with signatures of one `gradient_layout`.
    """
    received = () if signatures[0].from_images else signatures[0].inputs

    def operation(gradients: Gradients, which: jax.Array, context: Context) -> Gradients:
        word = context.word

        def compute(signature: Signature, memory: jax.Array):
            raw = _read_raw(signature, parameters, context)
            inputs = _read_inputs(signature, context, memory)
            output_bar = read(memory, word.output_bar, signature.output, batch)
            tensors, pull_raw = jax.vjp(lambda raw: _tensors(signature, parameters, raw, jnp.float32), raw)

            def apply(tensors, inputs):
                return _apply(signature, _cast(tensors, dtype), inputs, context.dropout_key)

            if signature.from_images:
                _, pull_back = jax.vjp(lambda tensors: apply(tensors, inputs), tensors)
                (tensors_bar,), inputs_bar = pull_back(output_bar), ()
            else:
                _, pull_back = jax.vjp(apply, tensors, inputs)
                tensors_bar, inputs_bar = pull_back(output_bar)
            square = sum((jnp.sum(jnp.square(bar)) for bar in tensors_bar), jnp.zeros((), jnp.float32))
            return _accumulated(signature, word, memory, inputs_bar), pull_raw(tensors_bar)[0], square

        raw = jax.eval_shape(lambda: _read_raw(signatures[0], parameters, context))
        shapes = (
            [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape in received],
            tuple(jax.ShapeDtypeStruct(part.shape, part.dtype) for part in raw),
            jax.ShapeDtypeStruct((), jnp.float32),
        )
        branches = [functools.partial(compute, signature) for signature in signatures]
        inputs_bar, raw_bar, square = before_writing(which, branches, shapes, gradients.memory)
        memory, bars = gradients.memory, gradients.bars
        for position, bar in enumerate(inputs_bar):
            memory = write(memory, bar, word.inputs_bar[position])
        for position, (parameter, bar) in enumerate(zip(signatures[0].primitive.parameters, raw_bar, strict=True)):
            bars = parameters.write(bars, bar, parameter, word.parameters[position])
        return Gradients(memory, bars, gradients.square + square)

    return operation


def _accumulated(signature: Signature, word: Word, memory: jax.Array, bars: Sequence[jax.Array]) -> list[jax.Array]:
    """What to write, in this order, for the gradients with respect to the inputs: with what is there already.

    An activation may be an input twice.  Nothing is written yet, so the second sum goes on from the first and not from
    the memory.
    """
    sums: list[jax.Array] = []
    for position, bar in enumerate(bars):
        shape, offset = signature.inputs[position], word.inputs_bar[position]
        before = read(memory, offset, shape, len(bar))
        for earlier in range(position):
            if signature.inputs[earlier] == shape:
                before = jnp.where(word.inputs_bar[earlier] == offset, sums[earlier].astype(before.dtype), before)
        sums.append(jnp.where(word.accumulate[position], before + bar, bar))
    return sums


def before_writing(
    which: jax.Array, branches: Sequence[Callable[[jax.Array], Any]], shapes: Any, memory: jax.Array
) -> Any:
    """`branches[which](memory)`, whose results have these shapes, finished before anything happens to the memory.

    XLA copies the whole memory wherever it is not sure that all reads come before a write.  The results of a branch
    are there when it ends; so a single branch is made one of two, without XLA knowing that it is always taken.
    """

    def zeros(memory):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return lax.switch(which, branches if len(branches) > 1 else [*branches, zeros], memory)


def read(memory: jax.Array, offset: jax.Array, shape: Shape, batch: int) -> jax.Array:
    """The activation `[batch, *shape]` at `offset`."""
    values = lax.dynamic_slice_in_dim(memory, offset, units(shape, batch), allow_negative_indices=False)
    return values.reshape(-1)[: batch * math.prod(shape)].reshape(batch, *shape)


def write(memory: jax.Array, values: jax.Array, offset: jax.Array) -> jax.Array:
    """The memory with an activation at `offset`."""
    values = values.reshape(-1).astype(memory.dtype)
    values = jnp.pad(values, (0, -len(values) % UNIT)).reshape(-1, UNIT)
    return lax.dynamic_update_slice_in_dim(memory, values, offset, axis=0, allow_negative_indices=False)


def _read_inputs(signature: Signature, context: Context, memory: jax.Array) -> tuple[jax.Array, ...]:
    if signature.from_images:
        return (context.images.astype(memory.dtype),)
    inputs = [
        read(memory, context.word.inputs[position], shape, len(context.images))
        for position, shape in enumerate(signature.inputs)
    ]
    if signature.primitive.arity == 0:  # only those may have absent inputs
        inputs = [jnp.where(context.word.present[position], x, 0) for position, x in enumerate(inputs)]
    return tuple(inputs)


def _read_raw(signature: Signature, parameters: Parameters, context: Context) -> tuple[jax.Array, ...]:
    return tuple(
        parameters.read(context.values, parameter, context.word.parameters[position])
        for position, parameter in enumerate(signature.primitive.parameters)
    )


def _tensors(signature: Signature, parameters: Parameters, raw: Sequence[jax.Array], dtype) -> tuple[jax.Array, ...]:
    tensors = [parameters.tensor(part, p) for part, p in zip(raw, signature.primitive.parameters, strict=True)]
    return _cast(tensors, dtype)


def _cast(tensors: Sequence[jax.Array], dtype) -> tuple[jax.Array, ...]:
    return tuple(tensor.astype(dtype) for tensor in tensors)


def _apply(signature: Signature, tensors: Sequence[jax.Array], inputs: Sequence[jax.Array], dropout_key) -> jax.Array:
    primitive = signature.primitive
    if isinstance(primitive, Linear) and primitive.dropout:
        return primitive(tensors, *inputs, dropout_key=dropout_key)
    return primitive(tensors, *inputs)
