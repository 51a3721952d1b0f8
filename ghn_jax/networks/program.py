"""An architecture lowered to instructions: the one source of graph, parameter tree and execution."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

from ghn_jax.graphs.graph import Role
from ghn_jax.networks import primitives as ops
from ghn_jax.networks.architecture import Task

INPUT = 0
"""Register of the images; instruction `i` writes register `i + 1`."""


class ParameterTensor(NamedTuple):
    """A named parameter tensor: the original's name, how it is predicted and its JAX shape."""

    name: str
    role: Role
    shape: ops.Shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Instruction(NamedTuple):
    """One primitive with its input registers (None: an absent state), its tensors and its output shape."""

    primitive: ops.Primitive
    inputs: tuple[int | None, ...]
    tensors: tuple[ParameterTensor, ...]
    shape: ops.Shape

    @property
    def scope(self) -> str:
        """Name of the layer that owns the tensors."""
        return self.tensors[0].name.rpartition(".")[0]


@dataclasses.dataclass(frozen=True)
class Program:
    """A network as a topologically ordered list of instructions.

    Attributes:
      task: what it is applied to.
      instructions: those on a path from the images to the logits; the last one writes the logits.
      unused: tensors of layers whose output reaches nothing (behind 'none' edges).  The original allocates them and
        counts them in published parameter counts; they never change the logits and are not predicted.
    """

    task: Task
    instructions: tuple[Instruction, ...]
    unused: tuple[ParameterTensor, ...] = ()

    @functools.cached_property
    def tensors(self) -> tuple[ParameterTensor, ...]:
        """All parameter tensors that matter, in the order of the instructions."""
        return tuple(tensor for instruction in self.instructions for tensor in instruction.tensors)

    @property
    def num_params(self) -> int:
        """Number of parameters that matter."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def num_params_with_unused(self) -> int:
        """Number of parameters as the original counts them."""
        return self.num_params + sum(tensor.size for tensor in self.unused)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image, a measure of what running the network costs."""
        return sum(i.primitive.multiply_adds(i.shape) for i in self.instructions)

    def register_shape(self, register: int) -> ops.Shape:
        """Shape of a register, without the batch axis."""
        if register == INPUT:
            return (self.task.image_size, self.task.image_size, 3)
        return self.instructions[register - 1].shape
