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
    """One primitive with its input registers (None: an absent state), the name of its layer and its output shape."""

    primitive: ops.Primitive
    inputs: tuple[int | None, ...]
    scope: str
    shape: ops.Shape

    @property
    def tensors(self) -> tuple[ParameterTensor, ...]:
        """Its parameter tensors, called after the layer."""
        return tensors_of(self.primitive, self.scope)


def tensors_of(primitive: ops.Primitive, scope: str) -> tuple[ParameterTensor, ...]:
    """The parameter tensors of a primitive in the layer `scope`."""
    return tuple([ParameterTensor(f"{scope}.{end}", role, shape) for end, role, shape in primitive.parameters])


@dataclasses.dataclass(frozen=True)
class Program:
    """A network as a topologically ordered list of instructions.

    Attributes:
      task: what it is applied to.
      instructions: those on a path from the images to the logits; the last one writes the logits.
      dead: primitives, with their layers, whose output reaches nothing (behind 'none' edges).
    """

    task: Task
    instructions: tuple[Instruction, ...]
    dead: tuple[tuple[ops.Primitive, str], ...] = ()

    @functools.cached_property
    def tensors(self) -> tuple[ParameterTensor, ...]:
        """All parameter tensors that matter, in the order of the instructions."""
        return tuple(tensor for instruction in self.instructions for tensor in instruction.tensors)

    @property
    def unused(self) -> tuple[ParameterTensor, ...]:
        """Tensors of dead layers.  The original allocates them and counts them in published parameter counts; they
        never change the logits and are not predicted."""
        return tuple(tensor for primitive, scope in self.dead for tensor in tensors_of(primitive, scope))

    @functools.cached_property
    def num_params(self) -> int:
        """Number of parameters that matter."""
        return sum([instruction.primitive.num_params for instruction in self.instructions])

    @functools.cached_property
    def num_params_with_unused(self) -> int:
        """Number of parameters as the original counts them."""
        return self.num_params + sum([primitive.num_params for primitive, _ in self.dead])

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image, a measure of what running the network costs."""
        return sum(i.primitive.multiply_adds(i.shape) for i in self.instructions)

    def register_shape(self, register: int) -> ops.Shape:
        """Shape of a register, without the batch axis."""
        if register == INPUT:
            return (self.task.image_size, self.task.image_size, 3)
        return self.instructions[register - 1].shape
