"""Runs a program on images, one XLA operation after the other ("unrolled").

Everything here is a pure function of arrays for a given program, to be jitted once per program; or, where many
programs run a few times each, with every primitive jitted on its own and shared by all programs that have it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ghn_jax.networks.primitives import Array, Primitive
from ghn_jax.networks.program import INPUT, Program

Params = Mapping[str, Array]
"""Arrays by name."""


def run(
    program: Program,
    params: Params,
    images: Array,
    *,
    dropout_key: jax.Array | None = None,
    drop_path: float | jax.Array = 0.0,
    jit_primitives: bool = False,
) -> jax.Array:
    """Logits `[B, num_classes]` of `program` with `params` on `images [B, H, W, 3]`, with the statistics of the batch.

    Args:
      program: the network.
      params: every tensor of `program.tensors`, by name, in JAX layout.
      images: float, normalised.
      dropout_key: a PRNG key turns dropout on (training); None leaves it off.
      drop_path: share of paths that are dropped in training, where the program has any to drop.
      jit_primitives: compile every primitive when it first meets inputs of new shapes, for this and all later
        programs; so are its derivatives.  Of use outside of `jit` only.

    Raises:
      ValueError: a missing, surplus or misshapen parameter, or images of another shape than the program's.
    """
    check_params(program, params)
    check_batch(program, images)
    return _execute(program, params, images, dropout_key, drop_path, _jitted if jit_primitives else _apply)


def run_at_any_size(program: Program, params: Params, images: Array) -> jax.Array:
    """What the last instruction of a program, or of the beginning of one, makes of images of any height and width.

    Args:
      program: the network.
      params: its tensors by name; only position codes depend on the size of images, and theirs fits.
      images: `[B, H, W, 3]`, normalised.
    """
    return _execute(program, params, images, None, 0.0, _apply)


def _apply(primitive: Primitive, layer_params: Sequence[jax.Array], inputs: Sequence[Any], options):
    return primitive(layer_params, *inputs, **options)


_jitted = functools.partial(jax.jit, static_argnums=0)(_apply)


def _execute(
    program: Program,
    params: Params,
    images: Array,
    dropout_key: jax.Array | None,
    drop_path: float | jax.Array,
    apply: Callable[..., jax.Array],
) -> jax.Array:
    registers: dict[int, Any] = {INPUT: images}
    for register, instruction in enumerate(program.instructions, start=1):
        inputs = [None if r is None else registers[r] for r in instruction.inputs]
        layer_params = [params[tensor.name] for tensor in instruction.tensors]
        primitive = instruction.primitive
        options = {}
        if primitive.needs_key and dropout_key is not None:
            options = {"dropout_key": jax.random.fold_in(dropout_key, register)}
            options |= {"rate": drop_path} if primitive.takes_rate else {}
        registers[register] = apply(primitive, layer_params, inputs, options)
    return registers[len(program.instructions)]


def check_params(program: Program, params: Mapping[str, Any]) -> None:
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


def check_batch(program: Program, images: Array) -> None:
    """Raises ValueError unless `images` are `[B, size, size, 3]` for the program's task."""
    expected = program.register_shape(INPUT)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [batch, {', '.join(map(str, expected))}]")
