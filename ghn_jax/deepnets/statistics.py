"""What the networks of a split are like, in the figures of the paper (table 1 and appendix A)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csgraph, csr_array

from ghn_jax.graphs.graph import NODE_TYPES, Graph
from ghn_jax.networks.architecture import AnyArchitecture, ResNet


@dataclasses.dataclass(frozen=True)
class NetworkStatistics:
    """Figures of one network.

    Attributes:
      cells: number of cells, or of the blocks of a ResNet.
      channels: channels of the first cells.
      nodes: number of nodes.
      params: number of parameters, unused ones included, in millions.
      degree: mean number of edges at a node, whatever their direction.
      path: mean length of the shortest path between two nodes, whatever the direction of the edges.
      types: number of nodes of every type, in the order of `NODE_TYPES`.
      norm: whether it has normalisation layers in its cells.
    """

    cells: int
    channels: int
    nodes: int
    params: float
    degree: float
    path: float
    types: tuple[int, ...]
    norm: bool


QUANTITIES = {
    "cells": "cells",
    "channels": "channels",
    "nodes": "nodes",
    "params": "parameters, M",
    "degree": "degree",
    "path": "shortest path",
}
"""Fields of `NetworkStatistics` that are numbers, and what they are called."""


def network_statistics(architecture: AnyArchitecture, graph: Graph, num_params: int) -> NetworkStatistics:
    """The figures of one network; degrees and paths are those of the undirected graph, as in the original."""
    edges = graph.distances == 1
    nodes = graph.num_nodes
    if isinstance(architecture, ResNet):
        cells, channels, norm = sum(architecture.depths), architecture.width, True
    else:
        cells, channels, norm = architecture.n_cells, architecture.C, architecture.norm is not None
    paths = csgraph.shortest_path(csr_array(edges.astype(np.int8)), directed=False, unweighted=True)
    return NetworkStatistics(
        cells=cells,
        channels=channels,
        nodes=nodes,
        params=num_params / 1e6,
        degree=2 * int(edges.sum()) / nodes,
        path=float(paths.sum() / (nodes * (nodes - 1))),
        types=tuple(np.bincount(graph.node_types, minlength=len(NODE_TYPES)).tolist()),
        norm=norm,
    )


def type_shares(statistics: Sequence[NetworkStatistics]) -> np.ndarray:
    """The share of every type among the nodes of each network, `[networks, types]`."""
    counts = np.array([s.types for s in statistics], np.float64)
    return counts / counts.sum(axis=1, keepdims=True)


def table(statistics: Sequence[NetworkStatistics]) -> str:
    """The figures of some networks as text."""
    lines = [f"{len(statistics)} networks", "", f"{'':16}{'min':>9}{'max':>9}{'mean':>10}{'sd':>9}"]
    for field, name in QUANTITIES.items():
        values = np.array([getattr(s, field) for s in statistics], np.float64)
        digits = 0 if values.dtype.kind == "f" and field in ("cells", "channels", "nodes") else 2
        lines.append(
            f"{name:16}{values.min():9.{digits}f}{values.max():9.{digits}f}{values.mean():10.2f}{values.std():9.2f}"
        )
    counts = np.sum([s.types for s in statistics], axis=0)
    lines += ["", f"{'type of node':16}{'nodes':>9}{'share':>9}{'networks with it':>18}"]
    for node_type in np.argsort(-counts, kind="stable"):
        with_it = np.mean([s.types[node_type] > 0 for s in statistics])
        share = counts[node_type] / counts.sum()
        lines.append(f"{NODE_TYPES[node_type]:16}{counts[node_type]:9,}{share:9.2%}{with_it:18.1%}")
    lines.append(f"\nnetworks without normalisation in their cells: {1 - np.mean([s.norm for s in statistics]):.1%}")
    return "\n".join(lines)
