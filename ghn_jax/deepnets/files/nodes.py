"""How the published files spell out the nodes of a graph: a type, a cell and the name of an operation.

Types are those of `graph.NODE_TYPES`, but 1x1 convolutions and linear layers are set apart as "conv_1x1".  An operation
is called by its parameter without the cell ("_ops.1.op.2.weight"), or by its type where it has none ("sum").
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ghn_jax.deepnets.files.matching import NodeRow
from ghn_jax.errors import GHNError
from ghn_jax.graphs.graph import NODE_TYPES, Graph


class NamedNode(NamedTuple):
    """A node as the published files spell it out."""

    node_type: str
    cell: int
    operation: str


class UnknownIdError(GHNError):
    """A node with an id that nothing names."""

    def __init__(self, node: int):
        super().__init__(f"ids of node {node} without a name")
        self.node = node


def named_nodes(graph: Graph, num_cells: int) -> list[NamedNode]:
    """The nodes of `graph`, a network of `num_cells` cells, in their order.

    A node without parameters belongs to the cell last met, as in the original.
    """
    nodes, cell = [], 0
    for node_type, name in _types_and_names(graph):
        own, name = _cell_and_operation(name)
        if own is not None:
            cell = num_cells - 1 if own < 0 else own
        nodes.append(NamedNode(node_type, cell, name))
    return nodes


@functools.lru_cache(maxsize=1 << 15)  # a few thousand names recur in all networks
def _cell_and_operation(name: str) -> tuple[int | None, str]:
    """The cell of a node, -1 for the last and None if its name does not say; and the name without the cell."""
    if name.startswith("cells."):
        _, number, name = name.split(".", 2)
        return int(number), name
    if name.startswith("classifier"):
        return -1, name
    return (0 if name.startswith(("stem", "pos_enc")) else None), name


def spelled_out(
    nodes: Sequence[Sequence[int]], primitives: Mapping[int, str], operations: Mapping[int, str]
) -> list[NamedNode]:
    """Stored rows `(primitive id, cell, operation id)` with the names of their ids.

    Raises:
      UnknownIdError: an id that has no name.
    """
    named = []
    for node, (primitive, cell, operation) in enumerate(nodes):
        if primitive not in primitives or operation not in operations:
            raise UnknownIdError(node)
        named.append(NamedNode(primitives[primitive], cell, operations[operation]))
    return named


def matching_rows(nodes: Sequence[NamedNode]) -> list[NodeRow]:
    """What `matching.match_nodes` compares with `node_labels`."""
    rows = []
    for node_type, cell, name in nodes:
        in_cell = name.startswith(("preprocess", "_ops"))
        rows.append(NodeRow(cell, f"{node_type} {f'cells.{cell}.' if in_cell else ''}{name}", in_cell))
    return rows


def node_labels(graph: Graph) -> list[str]:
    """Type and parameter of every node ("conv_1x1 cells.0._ops.1.op.2.weight"), or the type twice ("sum sum")."""
    return [f"{node_type} {name}" for node_type, name in _types_and_names(graph)]


def plain_labels(graph: Graph) -> list[str]:
    """`node_labels` that do not set 1x1 convolutions apart."""
    types = [NODE_TYPES[node_type] for node_type in graph.node_types.tolist()]
    return [f"{node_type} {name}" for node_type, name in zip(types, _names(graph, types), strict=True)]


def _types_and_names(graph: Graph) -> Iterator[tuple[str, str]]:
    """Type of every node, 1x1 convolutions set apart, and the name of its parameter, or of its type if it has none."""
    types = [NODE_TYPES[node_type] for node_type in graph.node_types.tolist()]
    for node_type, name, shape in zip(types, _names(graph, types), graph.node_shapes.tolist(), strict=True):
        yield ("conv_1x1" if node_type == "conv" and shape[2:] == [1, 1] else node_type), name


def _names(graph: Graph, types: list[str]) -> list[str]:
    """Name of the first parameter of every node, or of its type."""
    names = list(types)
    for tensor in reversed(graph.tensors):
        names[tensor.node] = tensor.name
    return names
