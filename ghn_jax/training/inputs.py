"""From a meta-batch of architectures to the arrays of a training step, for every device its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jraph
import numpy as np

from ghn_jax.deepnets.sampler import MAX_NODES_BATCH
from ghn_jax.execution.operations import ExecutionError
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import Graph

CAPACITY = 2304
"""Embeddings of a device: more than the nodes of any meta-batch (`MAX_NODES_BATCH`), so that one size is enough."""

NODES = (128, 256, 384, 512, 1024, CAPACITY)
"""Numbers of nodes that the graphs of a step are padded to: the graph network is compiled for each one met."""


class Graphs(NamedTuple):
    """The graphs of one device.

    Attributes:
      graphs: padded to one size, leading axis `[M]`.
      order: int32 `[CAPACITY]`, where the nodes of all graphs lie among the padded ones; zeros at the end.
    """

    graphs: jraph.GraphsTuple
    order: np.ndarray | jax.Array


def shares(costs: Sequence[float], devices: int) -> list[list[int]]:
    """Positions `0 .. len(costs) - 1` dealt out in equal numbers so that the sums of costs are about the same.

    The most expensive first, each to the device with the smallest sum that still has room.

    Raises:
      ExecutionError: the number of devices does not divide that of costs.
    """
    if len(costs) % devices:
        raise ExecutionError(f"config.meta_batch={len(costs)}: expected a multiple of {devices}, the number of devices")
    room = len(costs) // devices
    dealt: list[list[int]] = [[] for _ in range(devices)]
    sums = [0.0] * devices
    for position in sorted(range(len(costs)), key=lambda position: -costs[position]):
        device = min((d for d in range(devices) if len(dealt[d]) < room), key=lambda d: sums[d])
        dealt[device].append(position)
        sums[device] += costs[position]
    return [sorted(share) for share in dealt]


def padded_nodes(num_nodes: int) -> int:
    """What graphs of at most so many nodes are padded to.

    Raises:
      ExecutionError: more than any meta-batch may have.
    """
    for nodes in NODES:
        if num_nodes < nodes:
            return nodes
    raise ExecutionError(f"a network of {num_nodes} nodes: expected at most {MAX_NODES_BATCH}")


def graphs_of(graphs: Sequence[Graph], nodes: int, ghn: HypernetConfig) -> Graphs:
    """The graphs of one device, padded to `nodes` nodes each."""
    order = np.concatenate([number * nodes + np.arange(graph.num_nodes) for number, graph in enumerate(graphs)])
    if len(order) > CAPACITY:
        raise ExecutionError(f"networks of {len(order)} nodes together: expected at most {CAPACITY} on a device")
    padded = padding.stack([padding.pad(graph, nodes, ghn.max_distance) for graph in graphs])
    return Graphs(padded, np.pad(order, (0, CAPACITY - len(order))).astype(np.int32))


def first_nodes(graphs: Sequence[Graph]) -> list[int]:
    """Where the embeddings of each graph begin, among those that `Graphs.order` lists."""
    return np.cumsum([0] + [graph.num_nodes for graph in graphs])[:-1].tolist()
