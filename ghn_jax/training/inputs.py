"""From a meta-batch of architectures to the arrays of a training step, for every device its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jraph
import numpy as np

from ghn_jax import padding
from ghn_jax.ghn.chunks import CHUNK
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.requests import Requests, Sizes, pad_requests, request, rows_of
from ghn_jax.machine.assemble import Code, assemble, stack
from ghn_jax.machine.parameters import DecodedRows
from ghn_jax.machine.table import MachineError, Table
from ghn_jax.training.bounds import Needs
from ghn_jax.training.targets import Target

_NODES = 32
"""Graphs are padded to a multiple of it: the graph network takes nodes in blocks of this size."""


class StepInputs(NamedTuple):
    """What a step needs of the `M` architectures of one device.

    Attributes:
      graphs: padded to one size, leading axis `[M]`.
      requests: rows to decode, padded.
      rows: int32 `[2]`, dense and depthwise rows in use.
      code: of all networks.
      networks: int32 `[M]`, positions in the meta-batch, on which dropout depends.
    """

    graphs: jraph.GraphsTuple
    requests: Requests
    rows: np.ndarray | jax.Array
    code: Code
    networks: np.ndarray | jax.Array


def shares(costs: Sequence[float], devices: int) -> list[list[int]]:
    """Positions `0 .. len(costs) - 1` dealt out in equal numbers so that the sums of costs are about the same.

    The most expensive first, each to the device with the smallest sum that still has room.

    Raises:
      MachineError: the number of devices does not divide that of costs.
    """
    if len(costs) % devices:
        raise MachineError(f"config.meta_batch={len(costs)}: expected a multiple of {devices}, the number of devices")
    room = len(costs) // devices
    dealt: list[list[int]] = [[] for _ in range(devices)]
    sums = [0.0] * devices
    for position in sorted(range(len(costs)), key=lambda position: -costs[position]):
        device = min((d for d in range(devices) if len(dealt[d]) < room), key=lambda d: sums[d])
        dealt[device].append(position)
        sums[device] += costs[position]
    return [sorted(share) for share in dealt]


def step_inputs(
    targets: Sequence[Target],
    networks: Sequence[int],
    table: Table,
    bounds: Needs,
    ghn: HypernetConfig,
    batch_size: int,
) -> StepInputs:
    """The arrays for the architectures of one device.

    Args:
      targets: the architectures.
      networks: their positions in the meta-batch.
      table: operations of the machine.
      bounds: what there is room for, for every architecture.
      ghn: the hypernetwork.
      batch_size: number of images.

    Raises:
      MachineError: an architecture beyond the bounds, or with an operation that is not in the table.
    """
    for target in targets:
        bounds.check(target, batch_size)
    graphs = [target.graph for target in targets]
    nodes = -(-(bounds.nodes + 1) // _NODES) * _NODES
    requests, placements = request(graphs, nodes, ghn)
    rows = np.array(rows_of(requests)[:2], np.int32)
    count = len(targets)
    sizes = Sizes(  # a chunk at least: the decoders slice chunks out of them
        dense=-(-max(1, count * bounds.dense) // CHUNK) * CHUNK,
        depthwise=-(-max(1, count * bounds.depthwise) // CHUNK) * CHUNK,
        vector=count * bounds.vector,
        classes=count,
    )
    assembled = [
        assemble(target.program, DecodedRows.starts(places), table, batch_size)
        for target, places in zip(targets, placements, strict=True)
    ]
    return StepInputs(
        graphs=padding.stack([padding.pad(graph, nodes, ghn.max_distance) for graph in graphs]),
        requests=pad_requests(requests, sizes),
        rows=rows,
        code=stack([network.words for network in assembled], bounds.instructions),
        networks=np.array(networks, np.int32),
    )
