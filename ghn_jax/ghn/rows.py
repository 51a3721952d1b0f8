"""Which rows a meta-batch needs decoded, and where each tensor finds its own.

Host code in NumPy: compiled code sees only arrays of a few fixed lengths.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.decoders import decoder
from ghn_jax.graphs.graph import Graph, GraphError, Role, Tensor


class Table(enum.IntEnum):
    """Tables of decoded rows; `FORMS` describes them."""

    DENSE = 0
    DEPTHWISE = 1
    VECTOR = 2
    CLASS_WEIGHT = 3
    CLASS_BIAS = 4


class Form(NamedTuple):
    """A table of rows: where they come from and what they look like.

    Attributes:
      module: of the hypernetwork, that decodes them.
      method: of the module: embeddings `[R, hid]` and positions `[R]` -> rows.
      by_position: a tensor has a row for every position of its kernel; otherwise one alone.
      row: from a configuration to the shape of a row.
    """

    module: str
    method: str
    by_position: bool
    row: Callable[[HypernetConfig], tuple[int, ...]]


FORMS = {
    Table.DENSE: Form("decoder", "dense", True, lambda c: (c.max_in, c.max_out)),
    Table.DEPTHWISE: Form("decoder", "depthwise", True, lambda c: (c.max_out,)),
    # A norm's weight and bias; a bias is the second.
    Table.VECTOR: Form("vector_decoder", "vector", False, lambda c: (2, max(c.max_out, c.max_in))),
    Table.CLASS_WEIGHT: Form("decoder", "class_weight", False, lambda c: (c.max_in, c.num_classes)),
    Table.CLASS_BIAS: Form("vector_decoder", "class_bias", False, lambda c: (c.num_classes,)),
}

_TABLE_OF = {
    Role.WEIGHT: Table.DENSE,
    Role.POSITION: Table.DENSE,
    Role.DEPTHWISE_WEIGHT: Table.DEPTHWISE,
    Role.NORM_WEIGHT: Table.VECTOR,
    Role.BIAS: Table.VECTOR,
    Role.CLASS_WEIGHT: Table.CLASS_WEIGHT,
    Role.CLASS_BIAS: Table.CLASS_BIAS,
    Role.EMBEDDING: Table.DENSE,
}


def table_of_role(role: Role) -> Table:
    """The table in which tensors of a role have their rows."""
    return _TABLE_OF[role]


class Rows(NamedTuple):
    """Rows of a table to decode, int32 `[R]` each.

    A node index is `g * N + i` for node i of the g-th graph, padded to N nodes.  A position is `y * S + x` with S the
    side of the largest decoded kernel.  Rows of padding ask for node 0 and position 0; nothing reads them.

    Attributes:
      nodes: whose embeddings they are decoded from.
      positions: of the kernel; zeros in tables without positions.
    """

    nodes: np.ndarray
    positions: np.ndarray

    def padded(self, length: int) -> Rows:
        """The rows, padded to a length.

        Raises:
          GraphError: there are more.
        """
        if len(self.nodes) > length:
            raise GraphError(f"{len(self.nodes)} rows do not fit into {length}")
        return Rows(*(np.pad(values, (0, length - len(values))) for values in self))


class Placement(NamedTuple):
    """The rows of one tensor: `decoded[table][start : start + rows]`.

    The rows of a kernel are those of `kernel_positions`, those of one graph follow each other in every table.
    """

    table: Table
    start: int
    rows: int


def request(
    graphs: Sequence[Graph], nodes: int, config: HypernetConfig
) -> tuple[dict[Table, Rows], tuple[tuple[Placement, ...], ...]]:
    """The rows that the tensors of `graphs` need.

    Args:
      graphs: of a meta-batch.
      nodes: what every graph is padded to.
      config: of the hypernetwork.

    Returns:
      The rows of every table, and for every graph a placement for each of its tensors, in their order.

    Raises:
      GraphError: a tensor whose shape does not suit its role, or a class layer of another number of classes.
    """
    collected = {table: _Collected() for table in Table}
    placements = []
    for offset, graph in zip(range(0, nodes * len(graphs), nodes), graphs, strict=True):
        vector_starts: dict[int, int] = {}
        placed = []
        for tensor in graph.tensors:
            check_tensor(tensor, config)
            table, node = _TABLE_OF[tensor.role], offset + tensor.node
            positions = _ORIGIN
            if FORMS[table].by_position:
                positions = kernel_positions(*tensor.shape4[2:], config)
            start = vector_starts.get(node) if table is Table.VECTOR else None
            if start is None:
                start = collected[table].append(node, positions)
            if table is Table.VECTOR:
                vector_starts[node] = start  # the weight and the bias of a norm layer share a row
            placed.append(Placement(table, start, len(positions)))
        placements.append(tuple(placed))
    return {table: rows.rows() for table, rows in collected.items()}, tuple(placements)


def decoded_kernel(height: int, width: int, config: HypernetConfig) -> tuple[int, int]:
    """Height and width of what is decoded for a kernel; `fit` interpolates where they are smaller."""
    if not decoder(config.decoder).centered:
        return height, width
    return min(height, config.max_kernel), min(width, config.max_kernel)


@functools.cache
def kernel_positions(height: int, width: int, config: HypernetConfig) -> np.ndarray:
    """Positions of what is decoded for a kernel (`decoded_kernel`), in C order.

    Without a centre, positions begin again beyond the largest decoded kernel, which repeats it.
    """
    side = config.max_kernel
    height, width = decoded_kernel(height, width, config)
    centered = decoder(config.decoder).centered
    top, left = (side // 2 - height // 2, side // 2 - width // 2) if centered else (0, 0)
    rows = (top + np.arange(height)) % side
    columns = (left + np.arange(width)) % side
    return (rows[:, None] * side + columns[None, :]).reshape(-1).astype(np.int32)


_ORIGIN = np.zeros(1, np.int32)

_RANKS = {
    Role.WEIGHT: (2, 4),
    Role.DEPTHWISE_WEIGHT: (4,),
    Role.POSITION: (4,),
    Role.NORM_WEIGHT: (1,),
    Role.BIAS: (1,),
    Role.CLASS_WEIGHT: (2,),
    Role.CLASS_BIAS: (1,),
    Role.EMBEDDING: (2,),
}


def check_tensor(tensor: Tensor, config: HypernetConfig) -> None:
    """Raises `GraphError` if the hypernetwork cannot predict a tensor of this role and shape."""
    shape = tensor.shape
    if len(shape) not in _RANKS[tensor.role] or min(shape) < 1:
        raise GraphError(
            f"{tensor.name!r} of role {tensor.role.value} has shape {shape}: expected "
            f"{' or '.join(map(str, _RANKS[tensor.role]))} positive sizes"
        )
    if tensor.role is Role.DEPTHWISE_WEIGHT and shape[2] != 1:
        raise GraphError(f"{tensor.name!r} of role depthwise_weight has shape {shape}: expected [kh, kw, 1, channels]")
    if tensor.role is Role.POSITION and shape[0] != 1:
        raise GraphError(f"{tensor.name!r} of role position has shape {shape}: expected [1, h, w, channels]")
    if tensor.role in (Role.CLASS_WEIGHT, Role.CLASS_BIAS) and shape[-1] != config.num_classes:
        raise GraphError(
            f"{tensor.name!r} has {shape[-1]} classes, but the hypernetwork predicts for {config.num_classes}"
        )


class _Collected:
    """Rows of one table while they are collected."""

    def __init__(self):
        self._nodes: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._length = 0

    def append(self, node: int, positions: np.ndarray) -> int:
        """Adds the rows of a tensor and returns the number of the first."""
        start = self._length
        self._nodes.append(np.full(len(positions), node, np.int32))
        self._positions.append(positions)
        self._length += len(positions)
        return start

    def rows(self) -> Rows:
        """All of them."""
        empty = np.zeros(0, np.int32)
        return Rows(np.concatenate([empty, *self._nodes]), np.concatenate([empty, *self._positions]))
