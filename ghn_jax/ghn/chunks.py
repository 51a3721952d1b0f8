"""Decoding rows in chunks of fixed sizes, so that nothing is compiled for a new architecture.

The rows of one network are laid out in chunks, no tensor across two of them.  A chunk is decoded by a program that is
compiled once for every table; tensors are cut out of it (`programs.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.decoders import decoder
from ghn_jax.ghn.decoders.vector import VectorDecoder
from ghn_jax.ghn.rows import FORMS, Table, request
from ghn_jax.graphs.graph import Graph

_ROWS = {Table.DENSE: 128, Table.DEPTHWISE: 256, Table.VECTOR: 128, Table.CLASS_WEIGHT: 1, Table.CLASS_BIAS: 1}


def chunk_rows(config: HypernetConfig, table: Table) -> int:
    """Rows of a chunk of a table; a kernel of the largest decoded size fits into one."""
    positions = config.max_kernel**2 if FORMS[table].by_position else 1
    return max(_ROWS[table], positions)


class Chunk(NamedTuple):
    """Rows to decode together; rows of padding ask for node 0 and position 0, and nothing reads them.

    Attributes:
      table: of which they are.
      nodes: int32 `[rows]`, whose embeddings they are decoded from.
      positions: int32 `[rows]`, of the kernel.
    """

    table: Table
    nodes: np.ndarray
    positions: np.ndarray


class ChunkPlace(NamedTuple):
    """Where the rows of a tensor begin: in which chunk of the layout, and at which row of it."""

    chunk: int
    start: int


class ChunkLayout(NamedTuple):
    """The rows of one network.

    Attributes:
      chunks: to be decoded.
      places: one a tensor of the graph.
    """

    chunks: tuple[Chunk, ...]
    places: tuple[ChunkPlace, ...]


def lay_out(graph: Graph, config: HypernetConfig, first_node: int = 0) -> ChunkLayout:
    """The chunks that the tensors of a graph are cut out of.

    Args:
      graph: of the network.
      config: of the hypernetwork.
      first_node: number of the graph's first node among those that embeddings are given of.

    Raises:
      GraphError: a tensor whose shape does not suit its role, or a class layer of another number of classes.
    """
    requests, (placements,) = request([graph], graph.num_nodes, config)
    chunks: list[Chunk] = []
    places: dict[tuple[Table, int], ChunkPlace] = {}
    for table in Table:
        size = chunk_rows(config, table)
        nodes, positions = requests[table]
        tensors = {placement.start: placement.rows for placement in placements if placement.table is table}
        chunk, used = None, 0
        for start, rows in sorted(tensors.items()):
            if chunk is None or used + rows > len(chunk.nodes):
                length = -(-rows // size) * size  # a kernel larger than the largest decoded one repeats its rows
                chunk, used = Chunk(table, np.zeros(length, np.int32), np.zeros(length, np.int32)), 0
                chunks.append(chunk)
            chunk.nodes[used : used + rows] = nodes[start : start + rows] + first_node
            chunk.positions[used : used + rows] = positions[start : start + rows]
            places[table, start] = ChunkPlace(len(chunks) - 1, used)
            used += rows
    return ChunkLayout(tuple(chunks), tuple(places[placement.table, placement.start] for placement in placements))


def decode_chunk(
    config: HypernetConfig, params: Any, table: Table, nodes: jax.Array, index: jax.Array, positions: jax.Array
) -> jax.Array:
    """The rows of a chunk, as `Decoded` has them.

    Args:
      config: of the hypernetwork.
      params: its parameters, of which those of the decoders count.
      table: of the chunk.
      nodes: `[nodes, hid]`, embeddings.
      index, positions: of the chunk, `[rows]`.
    """
    return decode_rows(config, params[FORMS[table].module], table, nodes[index], positions)


def decode_rows(config: HypernetConfig, params: Any, table: Table, nodes: jax.Array, positions: jax.Array) -> jax.Array:
    """Rows of a table from embeddings `[rows, hid]` at positions `[rows]`, by the parameters of their decoder."""
    form = FORMS[table]
    module = {"decoder": decoder(config.decoder), "vector_decoder": VectorDecoder}[form.module](config)
    return module.apply({"params": params}, nodes, positions, method=form.method)


def rows_shape(config: HypernetConfig, table: Table, rows: int) -> jax.ShapeDtypeStruct:
    """Shape and type of a decoded chunk of so many rows."""
    return jax.ShapeDtypeStruct((rows, *FORMS[table].row(config)), jnp.float32)
