"""Runs code: networks one after the other, forwards to logits, or forwards and backwards to gradients.

A network of L instructions takes 2 L + 1 turns: its instructions, the loss, and its instructions in reverse.  All turns
of all networks are one loop with one memory, which is updated in place.  Activations are kept as long as a gradient
needs them, and nothing else is.

Source: Griewank and Walther, Evaluating Derivatives, chapter 3 (reverse mode with a tape of values).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ghn_jax.losses import cross_entropy
from ghn_jax.machine.assemble import UNIT, Code, Word
from ghn_jax.machine.operations import (
    Context,
    Gradients,
    Operation,
    backward,
    before_writing,
    forward,
    gradient_layout,
    output_layout,
    read,
    write,
)
from ghn_jax.machine.parameters import Parameters
from ghn_jax.machine.table import Signature, Table

Carry = TypeVar("Carry")


class Outcome(NamedTuple):
    """What networks say about a batch.

    Attributes:
      losses: `[M]`, mean cross-entropy.
      correct: int32 `[M]`, images classified correctly.
      norms: `[M]`, global norm of the gradient with respect to a network's tensors.
      bars: gradients of the networks' losses with respect to the parameters, in their form.
    """

    losses: jax.Array
    correct: jax.Array
    norms: jax.Array
    bars: Any


def new_memory(units: int, dtype=jnp.float32) -> jax.Array:
    """Memory of so many units, to be handed on from call to call (and donated to every one)."""
    return jnp.zeros((units, UNIT), dtype)


def run(table: Table, parameters: Parameters, code: Code, values: Any, images: jax.Array, memory: jax.Array):
    """Logits float32 `[M, B, classes]`, without dropout and with the statistics of the batch, and the memory.

    Args:
      table: the operations.
      parameters: the kind of `values`.
      code: `M` networks, assembled with `training=False`.
      values: their parameters.
      images: `[B, H, W, 3]`, normalised.
      memory: at least as large as the code needs; what it holds does not matter.
    """
    batch, classes = len(images), table.num_classes
    operations = _ways_there(table, parameters, batch, memory.dtype)

    def turn(state):
        network, index, memory, logits = state
        word = _fetch(code, network, index)
        memory = operations(memory, Context(word, images, values, None))
        found = read(memory, word.output, (classes,), batch).astype(jnp.float32)
        last = index == code.length[network] - 1
        logits = lax.dynamic_update_index_in_dim(logits, jnp.where(last, found, logits[network]), network, axis=0)
        return network + last, jnp.where(last, 0, index + 1), memory, logits

    count = len(code.length)
    logits = jnp.zeros((count, batch, classes), jnp.float32)
    state = (jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), memory, logits)
    _, _, memory, logits = lax.while_loop(lambda state: state[0] < count, turn, state)
    return logits, memory


def value_and_grad(
    table: Table,
    parameters: Parameters,
    code: Code,
    values: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    memory: jax.Array,
    dropout_keys: jax.Array,
    label_smoothing: float = 0.0,
) -> tuple[Outcome, jax.Array]:
    """Losses of networks on a batch and their gradients, in training mode (batch statistics, dropout).

    Args:
      table, parameters, code, values, images, memory: as for `run`, with `training=True`.
      labels: int32 `[B]`.
      dropout_keys: `[M]` PRNG keys; the instruction that writes register r uses its key folded with r.
      label_smoothing: see `cross_entropy`.

    Returns:
      The outcome and the memory.
    """
    there = _ways_there(table, parameters, len(images), memory.dtype)
    back = _grouped(
        table.signatures,
        functools.partial(gradient_layout, parameters=parameters),
        functools.partial(backward, parameters=parameters, batch=len(images), dtype=memory.dtype),
    )
    count = len(code.length)

    def turn(state):
        network, now, gradients, outcome = state
        length = code.length[network]
        index = jnp.where(now < length, now, jnp.maximum(2 * length - now, 0))
        word = _fetch(code, network, jnp.minimum(index, length - 1))
        key = jax.random.fold_in(dropout_keys[network], index + 1)
        context = Context(word, images, values, key)

        gradients = gradients._replace(square=jnp.where(now == 0, 0.0, gradients.square))
        memory = _once(now < length, functools.partial(there, context=context), gradients.memory)
        memory, outcome = _once(
            now == length,
            functools.partial(_loss, table, labels, label_smoothing, context, network),
            (memory, outcome),
        )
        gradients = _once(now > length, functools.partial(back, context=context), gradients._replace(memory=memory))
        done = now == 2 * length
        norm = jnp.where(done, jnp.sqrt(gradients.square), outcome.norms[network])
        outcome = outcome._replace(norms=outcome.norms.at[network].set(norm))
        return network + done, jnp.where(done, 0, now + 1), gradients, outcome

    zero = jnp.zeros((), jnp.float32)
    outcome = Outcome(jnp.zeros(count), jnp.zeros(count, jnp.int32), jnp.zeros(count), None)
    gradients = Gradients(memory, jax.tree.map(jnp.zeros_like, values), zero)
    state = (jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), gradients, outcome)
    _, _, gradients, outcome = lax.while_loop(lambda state: state[0] < count, turn, state)
    return outcome._replace(bars=gradients.bars), gradients.memory


def _loss(table, labels, label_smoothing, context: Context, network, carry):
    """The turn between the ways there and back: the loss, and the gradient of the logits into the memory."""
    memory, outcome = carry
    batch, word = len(labels), context.word

    def compute(memory):
        logits = read(memory, word.output, (table.num_classes,), batch).astype(jnp.float32)
        loss, bar = jax.value_and_grad(cross_entropy)(logits, labels, label_smoothing)
        return loss, jnp.sum(jnp.argmax(logits, -1) == labels, dtype=jnp.int32), bar

    shapes = (
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((batch, table.num_classes), jnp.float32),
    )
    first = jnp.minimum(word.opcode, 0)  # zero, which XLA does not know
    loss, correct, bar = before_writing(first, [compute], shapes, memory)
    losses = outcome.losses.at[network].set(loss)
    correct = outcome.correct.at[network].set(correct)
    return write(memory, bar, word.output_bar), outcome._replace(losses=losses, correct=correct)


def _fetch(code: Code, network: jax.Array, index: jax.Array) -> Word:
    """One instruction."""

    def pick(values):
        start = (network, index, *[0] * (values.ndim - 2))
        sizes = (1, 1, *values.shape[2:])
        return lax.dynamic_slice(values, start, sizes, allow_negative_indices=False)[0, 0]

    return jax.tree.map(pick, code.words)


def _once(predicate: jax.Array, function: Callable[[Carry], Carry], carry: Carry) -> Carry:
    """`function(carry)` if the predicate holds, else the carry, which is updated in place.

    `lax.cond` copies everything that a branch may change, here gigabytes; loops are updated in place.  So this is a
    loop that runs once or not at all.
    """
    return lax.while_loop(lambda state: state[0], lambda state: (False, function(state[1])), (predicate, carry))[1]


_FAN_OUT = 8
"""Children of a node of the tree in which an operation is looked for."""


def _ways_there(table: Table, parameters: Parameters, batch: int, dtype):
    make = functools.partial(forward, parameters=parameters, batch=batch, dtype=dtype)
    return _grouped(table.signatures, output_layout, make)


def _grouped(
    signatures: Sequence[Signature],
    layout: Callable[[Signature], Hashable],
    make: Callable[[Sequence[Signature]], Operation],
) -> Callable[[Carry, Context], Carry]:
    """The function `(carry, context) -> carry` that does what `context.word.opcode` says, in place.

    Operations that write the same kind of result are branches of one `lax.switch`, which returns it.  Which group it is
    decides a tree of loops that run once or not at all, since what is written there must not be copied.
    """
    groups: dict[Hashable, list[int]] = {}
    for opcode, signature in enumerate(signatures):
        groups.setdefault(layout(signature), []).append(opcode)
    operations, firsts, places = [], [], np.zeros(len(signatures), np.int32)
    for opcodes in groups.values():
        firsts.append(sum(len(group) for group in list(groups.values())[: len(firsts)]))
        places[opcodes] = firsts[-1] + np.arange(len(opcodes))
        operations.append(make([signatures[opcode] for opcode in opcodes]))

    def apply(carry: Carry, context: Context) -> Carry:
        place = jnp.asarray(places)[context.word.opcode]

        def subtree(first: int, last: int, carry: Carry) -> Carry:
            """Groups `first` to `last - 1`."""
            if last - first == 1:
                return operations[first](carry, place - firsts[first], context)
            bounds = np.unique(np.linspace(first, last, min(_FAN_OUT, last - first) + 1).astype(int)).tolist()
            for start, end in itertools.pairwise(bounds):
                here = (place >= firsts[start]) & (place < [*firsts, len(signatures)][end])
                carry = _once(here, functools.partial(subtree, start, end), carry)
            return carry

        return subtree(0, len(operations), carry)

    return apply
