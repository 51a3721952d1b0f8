"""Runs programs one compiled instruction at a time, so that a network never seen before costs no compilation.

XLA compiles a whole network in seconds, for many networks far longer than running it takes.  Networks of DeepNets-1M
are made of a few hundred signatures (a primitive with its input shapes): each is compiled once, forwards and backwards,
and any network is then a list of calls.  `interpreter.run` is the other choice, for one network that runs many times.

The values are those of `interpreter.run`; gradients come from `jax.vjp` of the same primitives, the registers being the
tape.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ghn_jax.interpreter import Params, check_images, check_params
from ghn_jax.losses import cross_entropy
from ghn_jax.primitives import BatchNorm, Linear, Moments, Primitive
from ghn_jax.program import INPUT, Instruction, Program


class Gradients(NamedTuple):
    """What one network says about one batch.

    Attributes:
      loss: mean cross-entropy, a scalar.
      correct: number of images classified correctly.
      params: gradient of the loss with respect to every parameter, by name.
    """

    loss: jax.Array
    correct: jax.Array
    params: dict[str, jax.Array]


def run(
    program: Program, params: Params, images: jax.Array, moments: Mapping[str, Moments] | None = None
) -> jax.Array:
    """Logits `[B, num_classes]`; arguments and errors as for `interpreter.run`."""
    check_params(program, params)
    check_images(program, images)
    last_use = {}
    for register, instruction in enumerate(program.instructions, start=1):
        last_use.update((r, register) for r in instruction.inputs if r is not None)
    registers = {INPUT: images}
    for register, instruction in enumerate(program.instructions, start=1):
        running = None if moments is None else moments.get(instruction.scope) if instruction.tensors else None
        registers[register] = _forward(instruction.primitive)(
            _layer_params(instruction, params), _inputs(instruction, registers), running
        )
        for spent in {r for r in instruction.inputs if r is not None and last_use[r] == register}:
            del registers[spent]
    return registers[len(program.instructions)]


def value_and_grad(
    program: Program,
    params: Params,
    images: jax.Array,
    labels: jax.Array,
    *,
    dropout_key: jax.Array,
    label_smoothing: float = 0.0,
) -> Gradients:
    """Loss of the network on a batch and its gradient, in training mode (batch statistics, dropout).

    Args:
      program: the network.
      params: its parameters by name, in JAX layout.
      images: `[B, H, W, 3]`, normalised.
      labels: int32 `[B]`.
      dropout_key: PRNG key for dropout.
      label_smoothing: share of the probability that is spread over all classes.

    Raises:
      ValueError: as for `interpreter.run`.
    """
    check_params(program, params)
    check_images(program, images)
    registers = [images]
    extras = []
    for register, instruction in enumerate(program.instructions, start=1):
        primitive = instruction.primitive
        drops = isinstance(primitive, Linear) and primitive.dropout
        extras.append(jax.random.fold_in(dropout_key, register) if drops else None)
        registers.append(
            _forward(primitive)(_layer_params(instruction, params), _inputs(instruction, registers), extras[-1])
        )

    loss, correct, cotangent = _loss_and_cotangent(registers.pop(), labels, label_smoothing)
    cotangents = {len(program.instructions): cotangent}
    gradients: dict[str, jax.Array] = {}
    for register in range(len(program.instructions), 0, -1):
        instruction = program.instructions[register - 1]
        layer_params, inputs = _layer_params(instruction, params), _inputs(instruction, registers)
        only_params = instruction.inputs == (INPUT,)
        backward = _backward(instruction.primitive, only_params)
        params_bar, inputs_bar = backward(layer_params, inputs, extras[register - 1], cotangents.pop(register))
        gradients.update(zip((t.name for t in instruction.tensors), params_bar, strict=True))
        if not only_params:
            for source, bar in zip(instruction.inputs, inputs_bar, strict=True):
                if source is not None and source != INPUT:
                    known = cotangents.get(source)
                    cotangents[source] = bar if known is None else _add(known, bar)
        if register < len(registers):
            registers[register] = None  # its last reader has been differentiated
    return Gradients(loss, correct, gradients)


def compile_signatures(programs: Sequence[Program], batch_size: int) -> int:
    """Compiles what training steps of `programs` on batches of this size need and no program needed before.

    Compilation runs on several threads, and may itself run beside a training step.  Returns the number of signatures.
    """
    new = {}
    for program in programs:
        for instruction in program.instructions:
            shapes = tuple(None if r is None else program.register_shape(r) for r in instruction.inputs)
            signature = (instruction.primitive, shapes, instruction.inputs == (INPUT,), batch_size)
            if signature not in _compiled:
                new[signature] = instruction.shape
    _compiled.update(new)
    list(_compilers().map(_compile_signature, new.items()))
    return len(new)


_compiled: set[tuple] = set()


@functools.cache
def _compilers() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ghn_jax_compile")


def _compile_signature(item) -> None:
    # A call on zeros: unlike ahead-of-time compilation it fills the cache that later calls look into.
    (primitive, shapes, only_params, batch_size), output = item
    params = tuple(jnp.zeros(parameter.shape) for parameter in primitive.parameters)
    inputs = tuple(None if shape is None else jnp.zeros((batch_size, *shape)) for shape in shapes)
    extra = jax.random.key(0) if isinstance(primitive, Linear) and primitive.dropout else None
    _forward(primitive)(params, inputs, extra)
    _backward(primitive, only_params)(params, inputs, extra, jnp.zeros((batch_size, *output)))
    _add(jnp.zeros((batch_size, *output)), jnp.zeros((batch_size, *output)))


def _layer_params(instruction: Instruction, params: Params) -> tuple[jax.Array, ...]:
    return tuple(params[tensor.name] for tensor in instruction.tensors)


def _inputs(instruction: Instruction, registers) -> tuple[jax.Array | None, ...]:
    return tuple(None if r is None else registers[r] for r in instruction.inputs)


def _call(primitive: Primitive, params, inputs, extra):
    """The primitive with what its mode adds: running moments of a batch norm, or the key of a dropout."""
    if isinstance(primitive, BatchNorm):
        return primitive(params, *inputs, moments=extra)
    if isinstance(primitive, Linear) and primitive.dropout:
        return primitive(params, *inputs, dropout_key=extra)
    return primitive(params, *inputs)


@functools.cache
def _forward(primitive: Primitive):
    return jax.jit(functools.partial(_call, primitive))


@functools.cache
def _backward(primitive: Primitive, only_params: bool):
    def backward(params, inputs, extra, cotangent):
        if only_params:
            _, pull_back = jax.vjp(lambda params: _call(primitive, params, inputs, extra), params)
            return *pull_back(cotangent), None
        _, pull_back = jax.vjp(lambda params, inputs: _call(primitive, params, inputs, extra), params, inputs)
        return pull_back(cotangent)

    return jax.jit(backward)


@jax.jit
def _add(a: jax.Array, b: jax.Array) -> jax.Array:
    return a + b


@functools.partial(jax.jit, static_argnames="label_smoothing")
def _loss_and_cotangent(logits: jax.Array, labels: jax.Array, label_smoothing: float):
    loss, cotangent = jax.value_and_grad(cross_entropy)(logits, labels, label_smoothing)
    return loss, jnp.sum(jnp.argmax(logits, -1) == labels), cotangent
