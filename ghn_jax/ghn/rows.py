"""Which rows a meta-batch needs decoded, and where each tensor finds its own.

Host code in NumPy: compiled code sees only arrays of a few fixed lengths.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.graphs.graph import Graph, GraphError, Role, Tensor


class Table(enum.IntEnum):
    """Tables of decoded rows, in the order of `hypernetwork.Decoded`."""

    DENSE = 0
    DEPTHWISE = 1
    VECTOR = 2
    CLASS_WEIGHT = 3
    CLASS_BIAS = 4


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


class Requests(NamedTuple):
    """Rows to decode, int32.

    A node index is `g * N + i` for node i of the g-th graph, padded to N nodes.  A position is `y * S + x` with S the
    side of the largest decoded kernel.  Rows of padding ask for node 0 and position 0; nothing reads them.

    Attributes:
      dense_node, dense_position: `[R]`.
      depthwise_node, depthwise_position: `[D]`.
      vector_node: `[V]`, a norm layer or a bias.
      class_weight_node, class_bias_node: `[K]` each.
    """

    dense_node: np.ndarray
    dense_position: np.ndarray
    depthwise_node: np.ndarray
    depthwise_position: np.ndarray
    vector_node: np.ndarray
    class_weight_node: np.ndarray
    class_bias_node: np.ndarray


class Placement(NamedTuple):
    """The rows of one tensor: `decoded[table][start : start + rows]`.

    The rows of a kernel are its positions in C order, those of one graph follow each other in every table.
    """

    table: Table
    start: int
    rows: int


class Sizes(NamedTuple):
    """Numbers of rows that requests are padded to."""

    dense: int
    depthwise: int
    vector: int
    classes: int


def rows_of(requests: Requests) -> Sizes:
    """Numbers of rows in `requests`, padding included."""
    return Sizes(
        dense=len(requests.dense_node),
        depthwise=len(requests.depthwise_node),
        vector=len(requests.vector_node),
        classes=max(len(requests.class_weight_node), len(requests.class_bias_node)),
    )


def request(
    graphs: Sequence[Graph], nodes: int, config: HypernetConfig
) -> tuple[Requests, tuple[tuple[Placement, ...], ...]]:
    """The rows that the tensors of `graphs` need.

    Args:
      graphs: of a meta-batch.
      nodes: what every graph is padded to.
      config: of the hypernetwork.

    Returns:
      Requests without padding, and for every graph a placement for each of its tensors, in their order.

    Raises:
      GraphError: a tensor whose shape does not suit its role, or a class layer of another number of classes.
    """
    dense, depthwise, vectors, class_weights, class_biases = _Rows(), _Rows(), _Rows(), _Rows(), _Rows()
    table_rows = (dense, depthwise, vectors, class_weights, class_biases)
    placements = []
    for offset, graph in zip(range(0, nodes * len(graphs), nodes), graphs, strict=True):
        vector_starts: dict[int, int] = {}
        placed = []
        for tensor in graph.tensors:
            check_tensor(tensor, config)
            table = _TABLE_OF[tensor.role]
            node = offset + tensor.node
            if table is Table.VECTOR:
                # The weight and the bias of a norm layer share a row.
                if node not in vector_starts:
                    vector_starts[node] = vectors.append(node, _ORIGIN)
                placed.append(Placement(table, vector_starts[node], 1))
                continue
            if table in (Table.CLASS_WEIGHT, Table.CLASS_BIAS):
                positions = _ORIGIN
            else:
                positions = kernel_positions(*tensor.shape4[2:], config.max_kernel)
            placed.append(Placement(table, table_rows[table].append(node, positions), len(positions)))
        placements.append(tuple(placed))
    requests = Requests(
        *dense.arrays(),
        *depthwise.arrays(),
        vectors.arrays()[0],
        class_weights.arrays()[0],
        class_biases.arrays()[0],
    )
    return requests, tuple(placements)


def pad_requests(requests: Requests, sizes: Sizes) -> Requests:
    """The requests padded to `sizes`.

    Raises:
      GraphError: more rows than `sizes` has room for.
    """
    lengths = (sizes.dense, sizes.dense, sizes.depthwise, sizes.depthwise, sizes.vector, sizes.classes, sizes.classes)
    for field, rows, length in zip(Requests._fields, requests, lengths, strict=True):
        if len(rows) > length:
            raise GraphError(f"{len(rows)} rows of {field} do not fit into {length}")
    return Requests(*(np.pad(rows, (0, n - len(rows))) for rows, n in zip(requests, lengths, strict=True)))


@functools.cache
def kernel_positions(height: int, width: int, side: int) -> np.ndarray:
    """Positions of a kernel in C order; beyond the largest decoded kernel they begin again, which repeats it."""
    rows = np.arange(height) % side
    columns = np.arange(width) % side
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


class _Rows:
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

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Node and position of every row."""
        empty = np.zeros(0, np.int32)
        return np.concatenate([empty, *self._nodes]), np.concatenate([empty, *self._positions])
