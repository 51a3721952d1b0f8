"""Runs a program on images, one XLA operation after the other ("unrolled").

Everything here is a pure function of arrays for a given program, to be jitted once per program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from ghn_jax.primitives import BatchNorm, Linear, Moments
from ghn_jax.program import INPUT, Instruction, Program

Params = Mapping[str, jax.Array]


def run(
    program: Program,
    params: Params,
    images: jax.Array,
    *,
    moments: Mapping[str, Moments] | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Logits `[B, num_classes]` of `program` with `params` on `images [B, H, W, 3]`.

    Args:
      program: the network.
      params: every tensor of `program.tensors`, by name, in JAX layout.
      images: float, normalised.
      moments: running moments by layer name for batch normalisation; None normalises by the batch itself, as the
        published evaluation of predicted parameters does.
      dropout_key: a PRNG key turns dropout on (training); None leaves it off.

    Raises:
      ValueError: a missing, surplus or misshapen parameter, or images of another shape than the program's.
    """
    check_params(program, params)
    check_images(program, images)

    def norm(instruction: Instruction, layer_params, x):
        running = None if moments is None else moments[instruction.scope]
        return instruction.primitive(layer_params, x, moments=running)

    return _execute(program, params, images, norm, dropout_key)


def batch_moments(program: Program, params: Params, images: jax.Array) -> dict[str, Moments]:
    """Moments of every batch normalisation's input on `images`, by layer name (batch statistics are applied)."""
    check_params(program, params)
    check_images(program, images)
    collected = {}

    def norm(instruction: Instruction, layer_params, x):
        collected[instruction.scope] = BatchNorm.moments(x)
        return instruction.primitive(layer_params, x, moments=collected[instruction.scope])

    _execute(program, params, images, norm, dropout_key=None)
    return collected


def _execute(
    program: Program,
    params: Params,
    images: jax.Array,
    norm: Callable[[Instruction, list[jax.Array], jax.Array], jax.Array],
    dropout_key: jax.Array | None,
) -> jax.Array:
    registers = {INPUT: images}
    for register, instruction in enumerate(program.instructions, start=1):
        inputs = [None if r is None else registers[r] for r in instruction.inputs]
        layer_params = [params[tensor.name] for tensor in instruction.tensors]
        primitive = instruction.primitive
        if isinstance(primitive, BatchNorm):
            registers[register] = norm(instruction, layer_params, inputs[0])
        elif isinstance(primitive, Linear) and primitive.dropout and dropout_key is not None:
            key = jax.random.fold_in(dropout_key, register)
            registers[register] = primitive(layer_params, *inputs, dropout_key=key)
        else:
            registers[register] = primitive(layer_params, *inputs)
    return registers[len(program.instructions)]


def check_params(program: Program, params: Params) -> None:
    """Raises ValueError naming the first tensor that is missing, surplus or of another shape than expected."""
    for tensor in program.tensors:
        if tensor.name not in params:
            raise ValueError(f"parameter {tensor.name!r} of shape {tensor.shape} is missing")
        if tuple(params[tensor.name].shape) != tensor.shape:
            raise ValueError(
                f"parameter {tensor.name!r} has shape {tuple(params[tensor.name].shape)}, expected {tensor.shape}"
            )
    if len(params) != len(program.tensors):
        surplus = sorted(set(params) - {tensor.name for tensor in program.tensors})
        raise ValueError(f"the network has no parameters {', '.join(map(repr, surplus))}")


def check_images(program: Program, images: jax.Array) -> None:
    """Raises ValueError unless `images` are `[B, size, size, 3]` for the program's task."""
    expected = program.register_shape(INPUT)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [batch, {', '.join(map(str, expected))}]")
