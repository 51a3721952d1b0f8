"""Looking at traced graphs: labels, edges and comparison up to the order of the nodes."""

from __future__ import annotations

from collections import Counter

import jax
import numpy as np

from ghn_jax.deepnets.files.matching import NodeRow, match_nodes
from ghn_jax.graphs.graph import NODE_TYPES, Graph


def node_types(graph: Graph) -> list[str]:
    """Types of the nodes, by name."""
    return [NODE_TYPES[node_type] for node_type in graph.node_types]


def counts(graph: Graph) -> Counter:
    """How many nodes there are of every type."""
    return Counter(node_types(graph))


def edges(graph: Graph) -> list[tuple[int, int]]:
    """Real edges."""
    return [(int(start), int(end)) for start, end in np.argwhere(graph.distances == 1)]


def labels(graph: Graph, names: bool) -> list[str]:
    """Type and shape of every node, and the names and roles of its tensors."""
    found = [f"{t} {s}" for t, s in zip(node_types(graph), graph.node_shapes.tolist(), strict=True)]
    for tensor in graph.tensors if names else ():
        found[tensor.node] += f" {tensor.name} {tensor.role.value}"
    return found


def assert_same_graph(graph: Graph, expected: Graph, names: bool = False) -> np.ndarray:
    """Checks that two graphs are the same but for the order of nodes; returns our node for every expected one."""
    rows = [NodeRow(0, label, False) for label in labels(expected, names)]
    places, _ = match_nodes(labels(graph, names), graph.distances, rows, expected.distances)
    return places


def assert_tree(params, expected) -> None:
    """Checks that a tree has the structure, shapes and types of another, and finite values."""
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(expected)]
    for path, leaf, like in zip(paths, jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert leaf.shape == like.shape and leaf.dtype == like.dtype, path
        assert np.isfinite(np.asarray(leaf, np.float32)).all(), path
