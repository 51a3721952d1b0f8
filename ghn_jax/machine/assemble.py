"""From a program to index arrays, all that a compiled machine needs to know of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ghn_jax.machine.memory import Lifetime, allocate
from ghn_jax.machine.table import MachineError, Table, signature_of
from ghn_jax.primitives import Shape
from ghn_jax.program import INPUT, Program

UNIT = 1024
"""Elements in a unit of memory; offsets count units, so that int32 reaches far enough."""

MAX_TENSORS = 2
"""Parameter tensors of an instruction: a weight and a bias."""

MAX_INPUTS = 10
"""Inputs of an instruction: the states that a cell concatenates."""


class Word(NamedTuple):
    """One instruction, or those of a network `[L, ...]`, or of several `[M, L, ...]`; int32.

    Attributes:
      opcode: number in the table.
      inputs: `[MAX_INPUTS]` offsets of the inputs.
      present: `[MAX_INPUTS]`, 0 for an absent input, which counts as zeros.
      output: offset of the output.
      parameters: `[MAX_TENSORS]` where its parameter tensors start.
      output_bar: offset of the gradient with respect to the output.
      inputs_bar: `[MAX_INPUTS]` offsets of the gradients with respect to the inputs.
      accumulate: `[MAX_INPUTS]`, 1 to add to what is there.
    """

    opcode: np.ndarray | jax.Array
    inputs: np.ndarray | jax.Array
    present: np.ndarray | jax.Array
    output: np.ndarray | jax.Array
    parameters: np.ndarray | jax.Array
    output_bar: np.ndarray | jax.Array
    inputs_bar: np.ndarray | jax.Array
    accumulate: np.ndarray | jax.Array


class Code(NamedTuple):
    """The instructions of networks.

    Attributes:
      length: int32 `[M]`, number of instructions; what follows is padding and never looked at.
      words: with leading axes `[M, L]`.
    """

    length: np.ndarray | jax.Array
    words: Word


class Assembled(NamedTuple):
    """A network for a machine: its instructions (leading axis `[L]`) and the units of memory that they need."""

    words: Word
    units: int


def units(shape: Shape, batch_size: int) -> int:
    """Units of memory that an activation takes."""
    return -(-math.prod(shape) * batch_size // UNIT)


def assemble(
    program: Program, starts: Sequence[int], table: Table, batch_size: int, training: bool = True
) -> Assembled:
    """The code of a program.

    Args:
      program: the network.
      starts: for each of its tensors, where it starts in the machine's parameters.
      table: of the machine.
      batch_size: images in a batch.
      training: whether the gradient follows; without it the code runs forwards only and needs less memory.

    Raises:
      MachineError: an operation that is not in the table.
    """
    count = len(program.instructions)
    lifetimes = _lifetimes(program, batch_size, training)
    offsets, size = allocate(lifetimes.blocks)

    opcode, output, output_bar = (np.zeros(count, np.int32) for _ in range(3))
    inputs, inputs_bar, present, accumulate = (np.zeros((count, MAX_INPUTS), np.int32) for _ in range(4))
    parameters = np.zeros((count, MAX_TENSORS), np.int32)
    touched = set()
    for index in range(count - 1, -1, -1):
        instruction = program.instructions[index]
        opcode[index] = table.number(signature_of(program, instruction))
        output[index] = offsets[lifetimes.activation[index + 1]]
        for position, register in enumerate(instruction.inputs):
            if register is not None and register != INPUT:
                inputs[index, position] = offsets[lifetimes.activation[register]]
            present[index, position] = register is not None
        if training:
            output_bar[index] = offsets[lifetimes.gradient[index + 1]]
            for position, register in enumerate(instruction.inputs):
                if register is None:
                    inputs_bar[index, position] = offsets[lifetimes.absent[index, position]]
                elif register != INPUT:
                    inputs_bar[index, position] = offsets[lifetimes.gradient[register]]
                    accumulate[index, position] = register in touched
                    touched.add(register)
    tensor = 0
    for index, instruction in enumerate(program.instructions):
        for position in range(len(instruction.tensors)):
            parameters[index, position] = starts[tensor]
            tensor += 1
    return Assembled(Word(opcode, inputs, present, output, parameters, output_bar, inputs_bar, accumulate), size)


def memory_units(program: Program, batch_size: int, training: bool = True) -> int:
    """Units of memory that a program needs."""
    return allocate(_lifetimes(program, batch_size, training).blocks)[1]


class _Lifetimes(NamedTuple):
    """Blocks of memory, and the number of the block of every register, its gradient and every absent input."""

    blocks: list[Lifetime]
    activation: dict[int, int]
    gradient: dict[int, int]
    absent: dict[tuple[int, int], int]


def _lifetimes(program: Program, batch_size: int, training: bool) -> _Lifetimes:
    """What has to be kept, and how long.

    Instruction i (from 1) runs at time i, the loss is computed at time T + 1, and instruction i is differentiated at
    time 2 T + 2 - i.  An activation is kept for its last reader, and for the gradients that depend on it.  The images
    lie outside of the memory.
    """
    count = len(program.instructions)
    loss = count + 1

    def backward(register: int) -> int:
        return 2 * loss - register

    last = [0] * (count + 1)
    first_gradient = [loss] * (count + 1)
    for register, instruction in enumerate(program.instructions, start=1):
        last[register] = max(last[register], register)
        for source in instruction.inputs:
            if source is not None:
                last[source] = register
                first_gradient[source] = backward(register)
    if training:
        for register in range(count, 0, -1):
            instruction = program.instructions[register - 1]
            if instruction.primitive.gradient_reads_inputs:
                for source in instruction.inputs:
                    if source is not None:
                        last[source] = backward(register)
    last[count] = max(last[count], loss)

    lifetimes = _Lifetimes([], {}, {}, {})
    blocks = lifetimes.blocks
    for register in range(1, count + 1):
        size = units(program.register_shape(register), batch_size)
        lifetimes.activation[register] = len(blocks)
        blocks.append(Lifetime(register, last[register], size))
        if training:
            lifetimes.gradient[register] = len(blocks)
            blocks.append(Lifetime(first_gradient[register], backward(register), size))
    if training:
        for index, instruction in enumerate(program.instructions):
            for position, source in enumerate(instruction.inputs):
                if source is None:
                    shape = next(program.register_shape(r) for r in instruction.inputs if r is not None)
                    time = backward(index + 1)
                    lifetimes.absent[index, position] = len(blocks)
                    blocks.append(Lifetime(time, time, units(shape, batch_size)))
    return lifetimes


def stack(networks: Sequence[Word], length: int) -> Code:
    """The code of several networks, each with room for `length` instructions.

    Raises:
      MachineError: one has more.
    """
    counts = [len(network.opcode) for network in networks]
    if max(counts) > length:
        raise MachineError(f"a network of {max(counts)} instructions: this machine has room for {length}")

    def padded(*values: np.ndarray) -> np.ndarray:
        return np.stack([np.pad(v, [(0, length - len(v))] + [(0, 0)] * (v.ndim - 1)) for v in values])

    return Code(np.array(counts, np.int32), jax.tree.map(padded, *networks))
