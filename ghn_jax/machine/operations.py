"""What one instruction does, forwards and backwards: read, compute, write.

The memory is one array `[units, UNIT]`, in the type that activations are computed in.  An instruction reads its inputs
there and writes its output; backwards it reads its inputs (if it depends on them, see
`Primitive.gradient_reads_inputs`) and the gradient of its output, and adds to the gradients of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ghn_jax.machine.assemble import UNIT, Word, units
from ghn_jax.machine.parameters import Parameters
from ghn_jax.machine.table import Signature
from ghn_jax.primitives import Linear, Shape


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


def forward(signature: Signature, parameters: Parameters) -> Callable[[jax.Array, Context], jax.Array]:
    """The instruction that writes its output into the memory."""

    def operation(memory: jax.Array, context: Context) -> jax.Array:
        batch = len(context.images)

        def compute(memory):
            inputs = _read_inputs(signature, context, memory)
            tensors = _tensors(signature, parameters, _read_raw(signature, parameters, context), memory.dtype)
            return _apply(signature, tensors, inputs, context.dropout_key)

        shape = jax.ShapeDtypeStruct((batch, *signature.output), memory.dtype)
        return write(memory, before_writing(compute, shape, context, memory), context.word.output)

    return operation


def backward(signature: Signature, parameters: Parameters) -> Callable[[Gradients, Context], Gradients]:
    """The instruction that turns the gradient of its output into those of its inputs and parameters."""
    primitive = signature.primitive

    def operation(gradients: Gradients, context: Context) -> Gradients:
        word, batch, dtype = context.word, len(context.images), gradients.memory.dtype
        raw = _read_raw(signature, parameters, context)

        def compute(memory):
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
            sums = []
            for position, bar in enumerate(inputs_bar):
                before = read(memory, word.inputs_bar[position], signature.inputs[position], batch)
                sums.append(jnp.where(word.accumulate[position], before + bar, bar))
            return sums, pull_raw(tensors_bar)[0], square

        received = [] if signature.from_images else signature.inputs
        shapes = (
            [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape in received],
            tuple(jax.ShapeDtypeStruct(part.shape, part.dtype) for part in raw),
            jax.ShapeDtypeStruct((), jnp.float32),
        )
        inputs_bar, raw_bar, square = before_writing(compute, shapes, context, gradients.memory)
        memory, bars = gradients.memory, gradients.bars
        for position, bar in enumerate(inputs_bar):
            memory = write(memory, bar, word.inputs_bar[position])
        for position, (parameter, bar) in enumerate(zip(primitive.parameters, raw_bar, strict=True)):
            bars = parameters.write(bars, bar, parameter, word.parameters[position])
        return Gradients(memory, bars, gradients.square + square)

    return operation


def before_writing(compute: Callable[[jax.Array], Any], shapes: Any, context: Context, memory: jax.Array) -> Any:
    """`compute(memory)`, whose results have these shapes, finished before anything else happens to the memory.

    XLA copies the whole memory wherever it is not sure that all reads come before a write.  The results of a branch
    are there when it ends: so this is a branch that is always taken, without XLA knowing it.
    """

    def zeros(memory):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return lax.cond(context.word.opcode >= 0, compute, zeros, memory)


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
