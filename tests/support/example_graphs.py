"""Random graphs of plausible small networks."""

from __future__ import annotations

import numpy as np

from ghn_jax.graphs.graph import NODE_ID, Graph, Role, Tensor, oihw, shortest_paths

_SHAPES = {
    "conv": (Role.WEIGHT, ((3, 3, 16, 32), (1, 1, 96, 80), (1, 7, 64, 64), (20, 5), (130, 70))),
    "sep_conv": (Role.DEPTHWISE_WEIGHT, ((3, 3, 1, 32), (5, 5, 1, 100))),
    "dil_conv": (Role.DEPTHWISE_WEIGHT, ((5, 5, 1, 64),)),
    "pos_enc": (Role.POSITION, ((1, 11, 11, 96),)),
    "bn": (Role.NORM_WEIGHT, ((32,), (200,))),
    "ln": (Role.NORM_WEIGHT, ((64,),)),
    "bias": (Role.BIAS, ((80,), (10,))),
}
_PLAIN = ("max_pool", "avg_pool", "sum", "concat", "msa", "cse", "glob_avg")


def random_graph(seed: int, nodes: int, num_classes: int = 10) -> Graph:
    """A random connected graph of at least 3 nodes that starts with the input and ends with a classification layer."""
    rng = np.random.default_rng(seed)
    inner = rng.choice([*_SHAPES, *_PLAIN], nodes - 3)
    types = ["input", *inner.tolist(), "conv", "bias"]
    edges = {(int(rng.integers(max(0, end - 4), end)), end) for end in range(1, nodes)}
    edges |= {tuple(sorted(rng.choice(nodes, 2, replace=False).tolist())) for _ in range(nodes // 2)}
    distances = shortest_paths(sorted(edges), nodes, cutoff=250)
    shapes = np.zeros((nodes, 4), np.int32)
    tensors = []
    for node, node_type in enumerate(types):
        if node_type in ("max_pool", "avg_pool"):
            shapes[node] = (1, 1, 3, 3)
        if node >= nodes - 2:
            weight = node == nodes - 2
            role, shape = (Role.CLASS_WEIGHT, (144, num_classes)) if weight else (Role.CLASS_BIAS, (num_classes,))
        elif node_type in _SHAPES:
            role, choices = _SHAPES[node_type]
            shape = choices[rng.integers(len(choices))]
        else:
            continue
        tensors.append(Tensor(f"{node}.weight", node, role, shape))
        shapes[node] = oihw(role, shape)
        if role is Role.NORM_WEIGHT:
            tensors.append(Tensor(f"{node}.bias", node, Role.BIAS, shape))
    ids = np.array([NODE_ID[node_type] for node_type in types], np.int32)
    return Graph(ids, shapes, distances, tuple(tensors))


def reorder(graph: Graph, seed: int) -> tuple[Graph, np.ndarray]:
    """The graph with its nodes in another topological order, and where each node went, int `[nodes]`."""
    rng = np.random.default_rng(seed)
    remaining = list(range(graph.num_nodes))
    order = []
    while remaining:
        ready = [node for node in remaining if not any(graph.distances[other, node] for other in remaining)]
        order.append(int(rng.choice(ready)))
        remaining.remove(order[-1])
    place = np.argsort(order)
    tensors = tuple(Tensor(t.name, int(place[t.node]), t.role, t.shape) for t in graph.tensors)
    distances = graph.distances[np.ix_(order, order)]
    return Graph(graph.node_types[order], graph.node_shapes[order], distances, tensors), place
