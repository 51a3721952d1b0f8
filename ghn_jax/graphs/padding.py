"""Graphs of fixed sizes, the only form of a graph that compiled code sees.

Follows jraph's convention: the real graph comes first and one padding graph fills the rest; masks come from
`jraph.get_node_padding_mask` and `jraph.get_edge_padding_mask`.  There is one size to compile for, the number of
nodes: the number of edges follows from it.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jraph
import numpy as np

from ghn_jax.checks.fields import shown
from ghn_jax.graphs.graph import LARGEST_SIZE, NODE_TYPES, Graph, GraphError, Role, Tensor
from ghn_jax.graphs.tree import ParameterTree

NODE_BUCKETS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2304)
"""Numbers of nodes that graphs are padded to."""


def bucket(num_nodes: int, sizes: Sequence[int] = NODE_BUCKETS) -> int:
    """The smallest of `sizes` that holds `num_nodes` real nodes and one node of padding.

    Raises:
      GraphError: there is none.
    """
    for size in sizes:
        if num_nodes < size:
            return size
    raise GraphError(f"a graph of {num_nodes} nodes is too large: expected at most {sizes[-1] - 1} nodes")


def edge_bucket(nodes: int) -> int:
    """Number of edges that a graph is padded to along with `nodes`: all that a DAG of `nodes - 1` nodes can have."""
    return (nodes - 1) * (nodes - 2) // 2


def pad(graph: Graph, nodes: int, max_distance: int) -> jraph.GraphsTuple:
    """The graph and a padding graph, `nodes` nodes and `edge_bucket(nodes)` edges together, as NumPy arrays.

    Args:
      graph: the graph.
      nodes: at least one more than the graph has, usually `bucket(graph.num_nodes)`.
      max_distance: longest virtual edge; 1 leaves only the real edges.

    Returns:
      A `GraphsTuple` of the real edges, with two entries in `n_node` and three features of nodes: "type", int32
      `[nodes]`; "shape", int32 `[nodes, 4]` as `(out, in, h, w)`, zeros where there is none; "distances", int32
      `[nodes, nodes]`, to every other node, 1 along an edge and 0 where there is no path or a longer one.

    Raises:
      GraphError: arrays that do not fit together, a node out of topological order, or too many nodes.
    """
    check_graph(graph)
    if graph.num_nodes >= nodes:
        raise GraphError(f"a graph of {graph.num_nodes} nodes does not fit into {nodes} with one node of padding")
    if max_distance < 1:
        raise GraphError(f"max_distance={max_distance}: expected at least 1, the real edges")
    return jax.tree.map(lambda leaf: leaf[0], pad_checked([graph], nodes, max_distance))


def pad_checked(graphs: Sequence[Graph], nodes: int, max_distance: int) -> jraph.GraphsTuple:
    """`stack` of `pad` for graphs that were checked and fit: what `jraph.pad_with_graphs` returns, written once."""
    count, edges = len(graphs), edge_bucket(nodes)
    types, shapes = np.zeros((count, nodes), np.int32), np.zeros((count, nodes, 4), np.int32)
    distances = np.zeros((count, nodes, nodes), np.int32)
    senders, receivers = np.empty((count, edges), np.int32), np.empty((count, edges), np.int32)
    n_node, n_edge = np.empty((count, 2), np.int32), np.empty((count, 2), np.int32)
    for number, graph in enumerate(graphs):
        real = graph.num_nodes
        types[number, :real], shapes[number, :real] = graph.node_types, graph.node_shapes
        lengths = np.asarray(graph.distances)
        np.multiply(lengths, lengths <= max_distance, out=distances[number, :real, :real], casting="unsafe")
        for ends, found in zip((senders[number], receivers[number]), np.nonzero(lengths == 1), strict=True):
            ends[: len(found)] = found
            ends[len(found) :] = real  # the first node of padding
            n_edge[number] = len(found), edges - len(found)
        n_node[number] = real, nodes - real
    as_jraph: Any = jraph.GraphsTuple  # whose fields are JAX arrays to type checkers
    return as_jraph(
        nodes={"type": types, "shape": shapes, "distances": distances},
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=n_node,
        n_edge=n_edge,
    )


def node_features(graph: jraph.GraphsTuple) -> Any:
    """The features of nodes, which `pad` names; to type checkers a `GraphsTuple` may hold anything."""
    return graph.nodes


def stack(graphs: Sequence[jraph.GraphsTuple]) -> jraph.GraphsTuple:
    """A meta-batch: padded graphs of one size as one `GraphsTuple` whose leaves have a leading axis `[graphs]`.

    Raises:
      GraphError: no graphs, or graphs padded to different sizes.
    """
    sizes = sorted({len(node_features(graph)["type"]) for graph in graphs})
    if len(sizes) != 1:
        raise GraphError(f"a meta-batch needs graphs padded to one size, got sizes {sizes}")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *graphs)


def check_graph(graph: Graph) -> None:
    """Checks a graph as `check_form`, and that there is memory for all of its tensors.

    Raises:
      GraphError: naming what is not so.
    """
    check_form(graph)
    needed = 4 * sum(math.prod(tensor.shape) for tensor in graph.tensors)
    if needed > (memory := _memory()):
        raise GraphError(
            f"the parameters of this graph take {needed / 2**30:,.1f} GiB, this machine has {memory / 2**30:,.1f} GiB"
        )


def check_form(graph: Graph) -> None:
    """Checks that the arrays of a graph are integers, fit together, and are in topological order, and its tensors.

    Raises:
      GraphError: naming what is not so.
    """
    if not isinstance(graph, Graph):
        raise GraphError(f"expected a ghn_jax Graph, got {type(graph).__name__}")
    for field in ("node_types", "node_shapes", "distances"):
        found = getattr(graph, field)
        if not isinstance(found, (np.ndarray, jax.Array)) or found.dtype.kind not in "iu":
            kind = getattr(found, "dtype", type(found).__name__)
            raise GraphError(f"Graph.{field} is of type {kind}: expected an array of integers")
    count = graph.num_nodes if graph.node_types.ndim == 1 else 0
    if count < 1:
        raise GraphError("a graph without nodes")
    for field, expected in (("node_shapes", (count, 4)), ("distances", (count, count))):
        shape = np.shape(getattr(graph, field))
        if shape != expected:
            raise GraphError(f"Graph.{field} of {count} nodes has shape {shape}: expected {expected}")
    types = np.asarray(graph.node_types)
    if types.min() < 0 or types.max() >= len(NODE_TYPES):
        raise GraphError(f"Graph.node_types lie in {types.min()}..{types.max()}: expected 0..{len(NODE_TYPES) - 1}")
    if np.min(graph.node_shapes) < 0 or np.min(graph.distances) < 0:
        raise GraphError("Graph.node_shapes and Graph.distances must not be negative")
    if np.max(graph.node_shapes) > LARGEST_SIZE or np.max(graph.distances) > LARGEST_SIZE:
        raise GraphError(f"Graph.node_shapes and Graph.distances: expected numbers up to {LARGEST_SIZE:,}")
    if np.any(np.tril(graph.distances)):
        end, start = np.argwhere(np.tril(graph.distances))[0]
        raise GraphError(f"Graph.distances leads from node {end} back to node {start}: expected topological order")
    check_tensors(graph)


def check_tensors(graph: Graph) -> None:
    """Checks the tensors of a graph, and that they are of a traced model or of none.

    Raises:
      GraphError: naming the first that cannot be.
    """
    if graph.tree is not None and not isinstance(graph.tree, ParameterTree):
        raise GraphError(f"Graph.tree is a {type(graph.tree).__name__}: expected the ParameterTree of a model, or None")
    if not isinstance(graph.tensors, tuple):
        raise GraphError(f"Graph.tensors is a {type(graph.tensors).__name__}: expected a tuple of Tensors")
    for tensor in graph.tensors:
        if not isinstance(tensor, Tensor) or not isinstance(tensor.name, str) or not isinstance(tensor.role, Role):
            raise GraphError(f"Graph.tensors has {shown(tensor)}: expected a Tensor with a name and a Role")
        if not _is_size(tensor.node, 0, graph.num_nodes - 1):
            raise GraphError(f"{tensor.name!r} belongs to node {tensor.node!r}: expected 0..{graph.num_nodes - 1}")
        shape = tensor.shape
        if not isinstance(shape, tuple) or not all(_is_size(size, 1, LARGEST_SIZE) for size in shape):
            raise GraphError(f"{tensor.name!r} has shape {shown(shape)}: expected sizes from 1 to {LARGEST_SIZE:,}")


def _is_size(value: Any, low: int, high: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= int(value) <= high


@functools.cache
def _memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 1 << 40
