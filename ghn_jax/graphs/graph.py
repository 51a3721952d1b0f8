"""The computational graph of a network: what a hypernetwork reads.

`Graph` lives on the host as NumPy arrays and also knows which parameter tensors its nodes own.
`pad` turns it into a `jraph.GraphsTuple` of a fixed size, the only form that compiled code sees.

Source: Knyazev et al. 2021, section 2.2 (graphs) and section 4.1 (virtual edges).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from ghn_jax.errors import GHNError
from ghn_jax.graphs.tree import ParameterTree, Place

NODE_TYPES = (
    "max_pool",
    "avg_pool",
    "sep_conv",
    "dil_conv",
    "conv",
    "msa",
    "cse",
    "sum",
    "concat",
    "input",
    "bias",
    "bn",
    "ln",
    "pos_enc",
    "glob_avg",
)
"""Types of nodes, in the order of their ids."""

NODE_ID = {name: index for index, name in enumerate(NODE_TYPES)}

LONGEST_PATH = 250
"""Longest path whose length a graph stores, as the published files do."""


LARGEST_SIZE = (1 << 31) - 1
"""Of an axis of a tensor, as compiled code sees it."""

MOST_NODES = 1 << 13
"""Of a graph whose shortest paths are computed; several times what a hypernetwork takes."""


class GraphError(GHNError):
    """A graph that is cyclic, disconnected or too large.

    >>> ghn_jax.predict_params('resnet50')
    Traceback (most recent call last):
        ...
    ghn_jax.graphs.graph.GraphError: expected a ghn_jax Graph, got str
    """


class Role(enum.Enum):
    """How a parameter tensor is decoded from its node's embedding and normalised."""

    WEIGHT = "weight"
    DEPTHWISE_WEIGHT = "depthwise_weight"
    POSITION = "position"
    NORM_WEIGHT = "norm_weight"
    BIAS = "bias"
    CLASS_WEIGHT = "class_weight"
    CLASS_BIAS = "class_bias"
    EMBEDDING = "embedding"
    """A table of embeddings, in networks of users only: a weight whose input is one-hot, so its fan-in is 1."""


@dataclasses.dataclass(frozen=True, init=False)
class Tensor:
    """One parameter tensor of a target network.

    Attributes:
      name: its name, as in the PyTorch original ("cells.0._ops.1.to_qkv.weight").
      node: index of the graph node that owns it.
      role: how it is predicted.
      shape: its shape in JAX layout: convolutions `[kh, kw, in, out]` (depthwise `[kh, kw, 1, channels]`),
        linear layers `[in, out]`, positional encodings `[1, h, w, channels]`, others `[channels]`.
      place: where it belongs in the parameters of a traced model; None in the graph of a program.
    """

    name: str
    node: int
    role: Role
    shape: tuple[int, ...]
    place: Place | None = None

    def __init__(
        self, name: str, node: int, role: Role, shape: tuple[int, ...], place: Place | None = None
    ):  # that of a frozen dataclass takes three times as long, a third of the time that a graph takes
        own = self.__dict__
        own["name"], own["node"], own["role"], own["shape"], own["place"] = name, node, role, shape, place

    @property
    def placed(self) -> Place:
        """The place of a tensor of a traced model."""
        assert self.place is not None
        return self.place

    @property
    def shape4(self) -> tuple[int, int, int, int]:
        """Its shape as `(out, in, h, w)`, the order of the published method (section 4 of its appendix)."""
        return oihw(self.role, self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        if self.place is not None and self.place.cut is not None:
            return self.place.cut * self.shape[-1]
        return int(np.prod(self.shape))


def oihw(role: Role, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """`shape` in JAX layout as `(out, in, h, w)`; a vector of `c` elements is `(c, 1, 1, 1)`."""
    if len(shape) == 1:
        return (shape[0], 1, 1, 1)
    if len(shape) == 2:
        return (shape[1], shape[0], 1, 1)
    if len(shape) != 4:
        raise GraphError(f"a parameter tensor of shape {shape} has no (out, in, h, w) form")
    if role is Role.POSITION:
        one, height, width, channels = shape
        return (one, channels, height, width)
    height, width, inputs, outputs = shape
    return (outputs, inputs, height, width)


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A directed acyclic graph of operations in topological order, the input first and the output last.

    Attributes:
      node_types: int32 `[nodes]`, indices into `NODE_TYPES`.
      node_shapes: int32 `[nodes, 4]`, `(out, in, h, w)` of the node's parameter (its weight where it also owns a
        bias) or `(1, 1, kh, kw)` of a pooling window; zeros for a node without a shape.
      distances: int32 `[nodes, nodes]`, length of the shortest path from row to column, 1 for an edge and 0 where
        there is no path.
      tensors: the parameter tensors to be predicted, in the order of the network's instructions.
      tree: the parameter tree of a traced model; None in the graph of a program, whose parameters are a dictionary.

    >>> graph = ghn_jax.build_graph(ghn_jax.named('resnet50'))
    >>> graph.num_nodes, len(graph.tensors), graph.num_params
    (126, 161, 23520842)
    """

    node_types: np.ndarray
    node_shapes: np.ndarray
    distances: np.ndarray
    tensors: tuple[Tensor, ...]
    tree: ParameterTree | None = None

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_types)

    @property
    def num_params(self) -> int:
        """Number of parameters that a hypernetwork predicts for it."""
        return sum(tensor.size for tensor in self.tensors)


def shortest_paths(edges: Sequence[tuple[int, int]], num_nodes: int, cutoff: int) -> np.ndarray:
    """Lengths of the shortest directed paths, int32 `[num_nodes, num_nodes]`; 0 where there is none up to `cutoff`.

    Raises:
      GraphError: an edge that does not lead from a lower to a higher node number, as in a cyclic graph; or more nodes
        than `MOST_NODES`.
    """
    if num_nodes > MOST_NODES:
        raise GraphError(f"a graph of {num_nodes:,} nodes is too large: expected at most {MOST_NODES:,} nodes")
    successors: list[list[int]] = [[] for _ in range(num_nodes)]
    for start, end in edges:
        if not 0 <= start < end < num_nodes:
            raise GraphError(f"edge {start} -> {end} of {num_nodes} nodes breaks the topological order (a cycle?)")
        successors[start].append(end)
    return paths_along(successors, cutoff)


def paths_along(successors: Sequence[Sequence[int]], cutoff: int) -> np.ndarray:
    """`shortest_paths`, of the nodes that read each node; their numbers are higher than its own."""
    num_nodes = len(successors)
    # Backwards through the order, a node is one step further from everything than the nearest of its successors.
    distances = np.full((num_nodes, num_nodes), 2**14, np.int16)
    rows, one = list(distances), np.ones((), np.int16)  # NumPy converts its own scalars slowly
    for node in range(num_nodes - 1, -1, -1):
        row, nearest = rows[node], successors[node]
        if nearest:
            closest = rows[nearest[0]]
            for successor in nearest[1:]:
                closest = np.minimum(closest, rows[successor], out=row)
            np.add(closest, one, out=row)
        row[node] = 0
    distances *= distances <= min(cutoff, num_nodes)
    return distances.astype(np.int32)
