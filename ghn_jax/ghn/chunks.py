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
from ghn_jax.ghn.decoders import ConvDecoder, MLPDecoder, VectorDecoder
from ghn_jax.ghn.rows import Requests, Table, request
from ghn_jax.graphs.graph import Graph

_ROWS = {Table.DENSE: 128, Table.DEPTHWISE: 256, Table.VECTOR: 128, Table.CLASS_WEIGHT: 1, Table.CLASS_BIAS: 1}


def chunk_rows(config: HypernetConfig, table: Table) -> int:
    """Rows of a chunk of a table; a kernel of the largest decoded size fits into one."""
    positions = config.max_kernel**2 if table in (Table.DENSE, Table.DEPTHWISE) else 1
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


class Place(NamedTuple):
    """Where the rows of a tensor begin: in which chunk of the layout, and at which row of it."""

    chunk: int
    start: int


class Layout(NamedTuple):
    """The rows of one network.

    Attributes:
      chunks: to be decoded.
      places: one a tensor of the graph.
    """

    chunks: tuple[Chunk, ...]
    places: tuple[Place, ...]


def lay_out(graph: Graph, config: HypernetConfig, first_node: int = 0) -> Layout:
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
    places: dict[tuple[Table, int], Place] = {}
    for table in Table:
        size = chunk_rows(config, table)
        nodes, positions = _rows_of(requests, table)
        tensors = {placement.start: placement.rows for placement in placements if placement.table is table}
        chunk, used = None, 0
        for start, rows in sorted(tensors.items()):
            if chunk is None or used + rows > len(chunk.nodes):
                length = -(-rows // size) * size  # a kernel larger than the largest decoded one repeats its rows
                chunk, used = Chunk(table, np.zeros(length, np.int32), np.zeros(length, np.int32)), 0
                chunks.append(chunk)
            chunk.nodes[used : used + rows] = nodes[start : start + rows] + first_node
            chunk.positions[used : used + rows] = positions[start : start + rows]
            places[table, start] = Place(len(chunks) - 1, used)
            used += rows
    return Layout(tuple(chunks), tuple(places[placement.table, placement.start] for placement in placements))


def _rows_of(requests: Requests, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and positions of the rows of a table."""
    match table:
        case Table.DENSE:
            return requests.dense_node, requests.dense_position
        case Table.DEPTHWISE:
            return requests.depthwise_node, requests.depthwise_position
        case Table.VECTOR:
            nodes = requests.vector_node
        case Table.CLASS_WEIGHT:
            nodes = requests.class_weight_node
        case Table.CLASS_BIAS:
            nodes = requests.class_bias_node
    return nodes, np.zeros_like(nodes)


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
    features = nodes[index]
    decoder = ConvDecoder(config) if config.decoder == "conv" else MLPDecoder(config)
    of_decoder, of_vectors = {"params": params["decoder"]}, {"params": params["vector_decoder"]}
    match table:
        case Table.DENSE:
            return decoder.apply(of_decoder, features, positions, method="dense")
        case Table.DEPTHWISE:
            return decoder.apply(of_decoder, features, positions, method="depthwise")
        case Table.VECTOR:
            return VectorDecoder(config).apply(of_vectors, features, method="vector")
        case Table.CLASS_WEIGHT:
            return decoder.apply(of_decoder, features, method="class_weight")
        case Table.CLASS_BIAS:
            return VectorDecoder(config).apply(of_vectors, features, method="class_bias")


def rows_shape(config: HypernetConfig, table: Table, rows: int) -> jax.ShapeDtypeStruct:
    """Shape and type of a decoded chunk of so many rows."""
    channels = max(config.max_out, config.max_in)
    shape = {
        Table.DENSE: (rows, config.max_in, config.max_out),
        Table.DEPTHWISE: (rows, config.max_out),
        Table.VECTOR: (rows, 2, channels),
        Table.CLASS_WEIGHT: (rows, config.max_in, config.num_classes),
        Table.CLASS_BIAS: (rows, config.num_classes),
    }[table]
    return jax.ShapeDtypeStruct(shape, jnp.float32)
