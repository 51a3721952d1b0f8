"""Computational graphs as tables and as networkx graphs, to look at, to measure and to edit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ghn_jax.checks.fields import Is, Several, Whole, shown, taken
from ghn_jax.errors import extra
from ghn_jax.graphs.graph import (
    LARGEST_SIZE,
    LONGEST_PATH,
    NODE_ID,
    NODE_TYPES,
    Graph,
    GraphError,
    Tensor,
    shortest_paths,
)
from ghn_jax.graphs.padding import check_form

with extra("plot"):
    import networkx as nx


def node_table(graph: Graph) -> np.ndarray:
    """The nodes as a structured array `[nodes]`; `pandas.DataFrame(node_table(graph))` is its data frame.

    Fields: `node`, `type`, `out`, `in`, `height`, `width` (the node's shape, zeros where there is none), `in_degree`
    and `out_degree` (of real edges), `params` (number of parameters), `parameter` (name of the first tensor, or "").

    >>> graph = ghn_jax.build_graph(ghn_jax.named('resnet50'))
    >>> ghn_jax.node_table(graph)[['node', 'type', 'out', 'in']][:2].tolist()
    [(0, 'input', 0, 0), (1, 'conv', 64, 3)]
    """
    check_form(graph)
    edges = graph.distances == 1
    params = np.zeros(graph.num_nodes, np.int64)
    names = [""] * graph.num_nodes
    for tensor in reversed(graph.tensors):
        params[tensor.node] += tensor.size
        names[tensor.node] = tensor.name
    columns = {
        "node": np.arange(graph.num_nodes),
        "type": np.array([NODE_TYPES[node_type] for node_type in graph.node_types.tolist()]),
        "out": graph.node_shapes[:, 0],
        "in": graph.node_shapes[:, 1],
        "height": graph.node_shapes[:, 2],
        "width": graph.node_shapes[:, 3],
        "in_degree": edges.sum(axis=0),
        "out_degree": edges.sum(axis=1),
        "params": params,
        "parameter": np.array(names),
    }
    return _structured(columns)


def edge_table(graph: Graph, max_distance: int = 1) -> np.ndarray:
    """The edges as a structured array with fields `start`, `end` and `distance`, sorted by start and end.

    With `max_distance` above 1, virtual edges up to that length too.

    Raises:
      GraphError: something that is no valid Graph, or a distance below 1.

    >>> graph = ghn_jax.build_graph(ghn_jax.named('resnet50'))
    >>> ghn_jax.edge_table(graph)[:2].tolist()
    [(0, 1, 1), (1, 2, 1)]
    """
    check_form(graph)
    max_distance = taken(max_distance, _DISTANCE, GraphError, "max_distance")
    start, end = np.nonzero((graph.distances >= 1) & (graph.distances <= max_distance))
    return _structured({"start": start, "end": end, "distance": graph.distances[start, end]})


def _structured(columns: dict[str, np.ndarray]) -> np.ndarray:
    table = np.empty(len(next(iter(columns.values()))), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def to_networkx(graph: Graph, max_distance: int = 1) -> nx.DiGraph:
    """The graph for networkx.

    Nodes have the attributes `type` (its name), `shape` (`(out, in, h, w)`) and `tensors` (those it owns, in the order
    of the network); edges have `distance`.  With `max_distance` above 1, virtual edges up to that length are edges too.

    >>> graph = ghn_jax.to_networkx(ghn_jax.build_graph(ghn_jax.named('resnet50')))
    >>> graph.nodes[0]['type'], graph.number_of_edges()
    ('input', 141)
    """
    check_form(graph)
    result = nx.DiGraph()
    for node, (node_type, shape) in enumerate(zip(graph.node_types.tolist(), graph.node_shapes.tolist(), strict=True)):
        result.add_node(node, type=NODE_TYPES[node_type], shape=tuple(shape), tensors=())
    for tensor in graph.tensors:
        result.nodes[tensor.node]["tensors"] += (tensor,)
    for start, end, distance in edge_table(graph, max_distance).tolist():
        result.add_edge(start, end, distance=distance)
    return result


def from_networkx(edited: nx.DiGraph) -> Graph:
    """A graph from one that `to_networkx` made and that was edited since: nodes and edges added, changed or removed.

    Nodes may have any names.  Edges with a `distance` above 1 are left out and shortest paths are worked out anew.
    Nodes are put into topological order, as near as possible to the order in which they were added.

    Raises:
      GraphError: a cycle, no nodes, or a node or an edge with an attribute that it cannot have.

    >>> edited = ghn_jax.to_networkx(ghn_jax.build_graph(ghn_jax.named('vit')))
    >>> ghn_jax.from_networkx(edited).num_nodes
    129
    """
    if not isinstance(edited, nx.Graph):
        raise GraphError(f"expected a graph of networkx, got {type(edited).__name__}")
    real = nx.DiGraph()
    real.add_nodes_from(edited.nodes)
    for start, end, distance in edited.edges(data="distance", default=1):
        if taken(distance, _DISTANCE, GraphError, f"distance of the edge {start!r} -> {end!r}") == 1:
            real.add_edge(start, end)
    position = {node: place for place, node in enumerate(edited.nodes)}
    try:
        order = list(nx.lexicographical_topological_sort(real, key=position.get))
    except nx.NetworkXUnfeasible:
        cycle = " -> ".join(repr(start) for start, _ in nx.find_cycle(real))
        raise GraphError(f"a graph must have no cycles, nodes {cycle} form one") from None
    if not order:
        raise GraphError("a graph without nodes")
    number = {node: place for place, node in enumerate(order)}
    attributes = [_checked(node, edited.nodes[node]) for node in order]
    edges = [(number[start], number[end]) for start, end in real.edges]
    return Graph(
        node_types=np.array([NODE_ID[a["type"]] for a in attributes], np.int32),
        node_shapes=np.array([a["shape"] for a in attributes], np.int32),
        distances=shortest_paths(edges, len(order), LONGEST_PATH),
        tensors=tuple(
            Tensor(tensor.name, place, tensor.role, tensor.shape)
            for place, a in enumerate(attributes)
            for tensor in a["tensors"]
        ),
    )


def _checked(node: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    kind = attributes.get("type")
    if not isinstance(kind, str) or kind not in NODE_ID:
        raise GraphError(f"node {node!r} has type {shown(kind)}: expected one of {', '.join(NODE_TYPES)}")
    shape = taken(attributes.get("shape", (0, 0, 0, 0)), _SHAPE, GraphError, f"shape of node {node!r}")
    tensors = taken(attributes.get("tensors", ()), _TENSORS, GraphError, f"tensors of node {node!r}")
    return {"type": kind, "shape": shape, "tensors": tensors}


_DISTANCE = Whole(1, LARGEST_SIZE)
_SHAPE = Several(Whole(0, LARGEST_SIZE), 4, 4)
_TENSORS = Several(Is(Tensor), 0, 1 << 20)
