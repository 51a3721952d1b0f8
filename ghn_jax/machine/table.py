"""The finite table of operations that a compiled machine knows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

from ghn_jax.primitives import Linear, Primitive, Shape
from ghn_jax.program import INPUT, Instruction, Program


class MachineError(ValueError):
    """A network outside of what a machine was built for."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """A primitive with the shapes (without the batch axis) that it is applied to.

    Attributes:
      primitive: the operation.
      inputs: shapes of its inputs; an absent input of a concatenation has the shape of the others.
      output: shape of its output.
      from_images: whether it reads the images, which need no gradient.
    """

    primitive: Primitive
    inputs: tuple[Shape, ...]
    output: Shape
    from_images: bool


def signature_of(program: Program, instruction: Instruction) -> Signature:
    """The signature of an instruction of `program`."""
    shapes = [None if register is None else program.register_shape(register) for register in instruction.inputs]
    present = next(shape for shape in shapes if shape is not None)
    inputs = tuple(present if shape is None else shape for shape in shapes)
    return Signature(instruction.primitive, inputs, instruction.shape, instruction.inputs == (INPUT,))


@dataclasses.dataclass(frozen=True)
class Table:
    """Signatures in a fixed order; their numbers are what instructions are made of."""

    signatures: tuple[Signature, ...]

    @functools.cached_property
    def _numbers(self) -> dict[Signature, int]:
        return {signature: number for number, signature in enumerate(self.signatures)}

    @property
    def num_classes(self) -> int:
        """Classes of the networks, all of which end in a classifier."""
        return next(s.output[-1] for s in self.signatures if isinstance(s.primitive, Linear) and s.primitive.classifier)

    def __contains__(self, signature: Signature) -> bool:
        return signature in self._numbers

    def number(self, signature: Signature) -> int:
        """Number of a signature.

        Raises:
          MachineError: it is not in the table.
        """
        try:
            return self._numbers[signature]
        except KeyError:
            raise MachineError(
                f"{signature.primitive} applied to {' and '.join(map(str, signature.inputs))} is not among the "
                f"{len(self.signatures)} operations of this machine"
            ) from None


def signatures_of(program: Program) -> set[Signature]:
    """The signatures of all instructions of a program."""
    return {signature_of(program, instruction) for instruction in program.instructions}


def table_of(signatures: Iterable[Signature]) -> Table:
    """The table of these signatures, in an order that does not depend on theirs."""
    return Table(tuple(sorted(set(signatures), key=repr)))
