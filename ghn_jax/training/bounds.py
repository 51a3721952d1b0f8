"""What a compiled training step has room for."""

from __future__ import annotations

import math
from typing import NamedTuple

from ghn_jax.ghn.requests import Table as RowTable
from ghn_jax.ghn.requests import table_of_role
from ghn_jax.graph import oihw
from ghn_jax.machine.assemble import UNIT, memory_units
from ghn_jax.machine.table import MachineError
from ghn_jax.training.targets import Target


class Needs(NamedTuple):
    """What one network takes, or the most that any network of a run may take.

    Attributes:
      nodes: of its graph.
      instructions: of its program.
      dense, depthwise, vector: rows to decode.
      units: of the machine's memory, for activations and their gradients.
    """

    nodes: int
    instructions: int
    dense: int
    depthwise: int
    vector: int
    units: int

    @property
    def memory_bytes(self) -> int:
        """Size of the machine's memory in float32."""
        return 4 * self.units * UNIT

    def union(self, other: Needs) -> Needs:
        """The larger of every number."""
        return Needs(*map(max, self, other))

    def with_margin(self, factor: float) -> Needs:
        """Every number times `factor`, rounded up."""
        return Needs(*(math.ceil(factor * number) for number in self))

    def check(self, target: Target, batch_size: int) -> None:
        """Raises MachineError naming the first bound that a network exceeds; `self` are the bounds."""
        for name, need, room in zip(self._fields, needs_of(target, batch_size), self, strict=True):
            if need > room:
                raise MachineError(f"architecture {target.number} needs {need} {name}, this run has room for {room}")


def needs_of(target: Target, batch_size: int) -> Needs:
    """What a network takes in training on batches of this size."""
    rows = {kind: 0 for kind in RowTable}
    for tensor in target.program.tensors:
        kind = table_of_role(tensor.role)
        _, _, height, width = oihw(tensor.role, tensor.shape)
        rows[kind] += 1 if kind is RowTable.VECTOR else height * width
    return Needs(
        nodes=target.graph.num_nodes,
        instructions=len(target.program.instructions),
        dense=rows[RowTable.DENSE],
        depthwise=rows[RowTable.DEPTHWISE],
        vector=rows[RowTable.VECTOR],
        units=memory_units(target.program, batch_size),
    )
