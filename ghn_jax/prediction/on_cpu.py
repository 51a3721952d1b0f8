"""Prediction on CPUs: embeddings of nodes and decoded rows, by programs that no architecture is compiled for.

There is a program for every size of graph (`embedders.sizes_to_predict`), and one for chunks of rows of every table.
Rows of dense tensors, the most work, have a second one, which decodes only the first half of both channels: narrow
networks need no more.  Programs are compiled when they are first met, several at once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import traverse_util

from ghn_jax.execution.compiling import Executable, Programs, Recipe, lower_for_results
from ghn_jax.ghn.chunks import decode_rows
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.decoders import decoder
from ghn_jax.ghn.embedders import sizes_to_predict
from ghn_jax.ghn.hypernetwork import DECODER_MODULES, Hypernetwork
from ghn_jax.ghn.rows import FORMS, Placement, Rows, Table
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import Graph, Role, Tensor
from ghn_jax.networks.platforms import known_options
from ghn_jax.runtime import own_settings

if TYPE_CHECKING:
    from ghn_jax.ghn.model import GHN

_ROWS = {Table.DENSE: 64, Table.DEPTHWISE: 256, Table.VECTOR: 128, Table.CLASS_WEIGHT: 1, Table.CLASS_BIAS: 1}
"""Rows of a table decoded at a time."""

_OPTIONS = (("xla_cpu_use_fusion_emitters", False),)
"""XLA's older way to compile elementwise operations: it takes half of the time, and its loops over nodes run faster.

It rounds in another order: predictions differ from those of its newer way by less than 1e-6.
"""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of parameters: a tree that can be hashed."""


def embed_nodes(graph: Graph, ghn: GHN, device: Any) -> np.ndarray:
    """Embeddings of the nodes of a graph that was checked, `[nodes, hid]`."""
    programs = _programs_of(ghn, device)
    nodes = padding.bucket(graph.num_nodes, sizes_to_predict(ghn.config.hypernet))
    padded = padding.pad_checked([graph], nodes, ghn.config.max_distance)
    return np.asarray(programs.embed(nodes)(programs.params, padded))[0, : graph.num_nodes]


class DecodedTable(NamedTuple):
    """The decoded rows of a table.

    Attributes:
      chunks: of rows, all of one length; the rows of some may have fewer channels.
      places: numbers of the requested rows in the chunks; None if they are in the order of the requests.
    """

    chunks: Sequence[np.ndarray]
    places: np.ndarray | None

    def rows(self, placement: Placement) -> np.ndarray:
        """The rows of a tensor, with all the channels that it has."""
        start, size = placement.start, len(self.chunks[0])
        if self.places is not None:
            start = int(self.places[start])
        chunk, first = divmod(start, size)
        if first + placement.rows <= size:
            return self.chunks[chunk][first : first + placement.rows]
        chunks = self.chunks[chunk : (start + placement.rows - 1) // size + 1]
        fewest = tuple(slice(length) for length in chunks[-1].shape[1:])  # those of the last chunk
        return np.concatenate([rows[:, *fewest] for rows in chunks])[first : first + placement.rows]


def decode_tables(
    graphs: Sequence[Graph],
    embeddings: np.ndarray,
    requests: Mapping[Table, Rows],
    placements: Sequence[Sequence[Placement]],
    ghn: GHN,
    device: Any,
) -> dict[Table, DecodedTable]:
    """The requested rows of every table.

    Args:
      graphs: whose tensors need them.
      embeddings: of their nodes, as the requests count them, `[nodes, hid]`.
      requests, placements: see `rows.request`.
      ghn: the hypernetwork.
      device: a CPU.
    """
    programs = _programs_of(ghn, device)
    begun, places = {}, {}
    for table, rows in requests.items():
        whole = len(rows.nodes)
        if table is Table.DENSE and programs.corner:
            wide = _wide_rows(graphs, placements, whole, programs.corner)
            order = np.argsort(~wide, kind="stable")
            rows = Rows(rows.nodes[order], rows.positions[order])
            places[table] = np.argsort(order)
            whole = int(np.count_nonzero(wide))
        begun[table] = list(_begin_chunks(programs, table, rows, whole, embeddings))
    return {
        table: DecodedTable([np.asarray(chunk) for chunk in chunks], places.get(table))
        for table, chunks in begun.items()
    }


def _begin_chunks(
    programs: _Programs, table: Table, rows: Rows, whole: int, embeddings: np.ndarray
) -> Iterator[jax.Array]:
    """The chunks of a table, which JAX computes meanwhile; rows after the first `whole` ones need only a corner."""
    size = _ROWS[table]
    for start in range(0, len(rows.nodes), size):
        nodes, positions = (values[start : start + size] for values in rows)
        params, program = programs.decode(table, corner=start >= whole)
        yield program(params, _pad_rows(embeddings[nodes], size), _pad_rows(positions, size))


def _pad_rows(rows: np.ndarray, size: int) -> np.ndarray:
    if len(rows) == size:
        return rows
    padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def _wide_rows(
    graphs: Sequence[Graph], placements: Sequence[Sequence[Placement]], count: int, corner: tuple[int, int]
) -> np.ndarray:
    """Which rows of the dense table have more channels than a corner `(in, out)`, bool `[count]`."""
    wide = np.zeros(count, bool)
    for graph, placed in zip(graphs, placements, strict=True):
        for tensor, (table, start, rows) in zip(graph.tensors, placed, strict=True):
            if table is Table.DENSE:
                inputs, outputs = _channels(tensor)
                if inputs > corner[0] or outputs > corner[1]:
                    wide[start : start + rows] = True
    return wide


def _channels(tensor: Tensor) -> tuple[int, int]:
    """Input and output channels of the rows that a tensor of the dense table is cut out of (`fit.block`)."""
    return (tensor.shape[-1], 1) if tensor.role is Role.POSITION else (tensor.shape[-2], tensor.shape[-1])


def begin(requests: Mapping[Table, Rows], nodes: Iterable[int], ghn: GHN, device: Any) -> None:
    """Begins to compile what some requests, and graphs padded to these numbers of nodes, need."""
    _programs_of(ghn, device).begin(nodes, [table for table, rows in requests.items() if len(rows.nodes)])


def compile_ahead(ghn: GHN, buckets: Sequence[int], device: Any) -> None:
    """Compiles what graphs padded to these numbers of nodes need."""
    programs = _programs_of(ghn, device)
    programs.begin(sorted(buckets, reverse=True), Table)
    for nodes in buckets:
        programs.embed(nodes)
    for table in Table:
        programs.decode(table, corner=False)
    if programs.corner:
        programs.decode(Table.DENSE, corner=True)


@dataclasses.dataclass(frozen=True)
class Embed:
    """(parameters of the hypernetwork, graphs) -> embeddings of their nodes, `[1, nodes, hid]`.

    Attributes:
      config: of the hypernetwork.
      shapes: of its parameters.
      nodes: that the graph is padded to.
    """

    config: HypernetConfig
    shapes: Shapes
    nodes: int
    donated = ()

    @property
    def arguments(self):
        one = Graph(np.zeros(1, np.int32), np.zeros((1, 4), np.int32), np.zeros((1, 1), np.int32), ())
        padded = padding.pad_checked([one], self.nodes, max_distance=1)
        return _structs(self.shapes), jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), padded)

    def __call__(self, params: Any, graphs: jraph.GraphsTuple):
        return Hypernetwork(self.config).apply({"params": params}, graphs, method="embed_without_gradient")


@dataclasses.dataclass(frozen=True)
class DecodeRows:
    """(parameters of a decoder, embeddings, positions) -> the rows of a chunk.

    Attributes:
      config: of the hypernetwork, or of one whose decoded tensors are corners of its own.
      shapes: of the parameters.
      table: of the chunk.
    """

    config: HypernetConfig
    shapes: Shapes
    table: Table
    donated = ()

    @property
    def arguments(self):
        rows = _ROWS[self.table]
        nodes = jax.ShapeDtypeStruct((rows, self.config.hid), jnp.float32)
        return _structs(self.shapes), nodes, jax.ShapeDtypeStruct((rows,), jnp.int32)

    def __call__(self, params, nodes, positions):
        return decode_rows(self.config, params, self.table, nodes, positions)


def _structs(shapes: Shapes) -> Any:
    leaves = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _shapes_of(params: Any) -> Shapes:
    flat: Any = traverse_util.flatten_dict(params, sep="/")
    return tuple((name, tuple(leaf.shape)) for name, leaf in sorted(flat.items()))


@functools.cache
def programs_on(device: Any) -> Programs:
    """The programs of all predictions on a device."""
    return Programs([device], options=known_options(_OPTIONS), lower=_lower)


def _lower(recipe: Recipe, device: Any) -> jax.stages.Lowered:
    with own_settings():  # they are those of a thread
        return lower_for_results(recipe, device)


class _Programs:
    """The parameters of a hypernetwork on a device, and its programs there.

    Attributes:
      params: those that embeddings are computed with.
      corner: input and output channels of the rows that are decoded for narrow tensors; None if there is one channel.
    """

    def __init__(self, ghn: GHN, device: Any):
        config = self._config = ghn.config
        leaves = {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float32)
            for path, leaf in jax.tree_util.tree_leaves_with_path(ghn.params)
        }
        params = traverse_util.unflatten_dict(leaves, sep="/")
        inputs, outputs = (math.ceil(size / 2) for size in (config.max_in, config.max_out))
        self.corner = (inputs, outputs) if (inputs, outputs) != (config.max_in, config.max_out) else None
        self._narrow = dataclasses.replace(config, max_shape=(outputs, inputs, *config.max_shape[2:]))
        decoders = {module: params.pop(module) for module in DECODER_MODULES}
        corner = _corner_of(decoders["decoder"], self._narrow)
        self.params, self._decoders, self._corner = jax.device_put((params, decoders, corner), device)
        self._programs = programs_on(device)
        self._shapes = _shapes_of(params)
        self._embed: dict[int, Executable] = {}
        self._decode: dict[tuple[Table, bool], tuple[Any, Executable]] = {}

    def embed(self, nodes: int) -> Executable:
        """The program for graphs padded to a number of nodes."""
        if nodes not in self._embed:
            self._embed[nodes] = self._programs.get(self._embed_recipe(nodes))
        return self._embed[nodes]

    def decode(self, table: Table, corner: bool) -> tuple[Any, Executable]:
        """The program for chunks of a table, or of the corners of its rows, and the parameters that it takes."""
        if (table, corner) not in self._decode:
            params, recipe = self._decode_recipe(table, corner)
            self._decode[table, corner] = params, self._programs.get(recipe)
        return self._decode[table, corner]

    def begin(self, nodes: Iterable[int], tables: Iterable[Table]) -> None:
        """Begins to compile those for some numbers of nodes and tables."""
        recipes: list[Recipe] = [self._embed_recipe(number) for number in nodes if number not in self._embed]
        for table in tables:
            for corner in (False, True) if table is Table.DENSE and self.corner else (False,):
                if (table, corner) not in self._decode:
                    recipes.append(self._decode_recipe(table, corner)[1])
        self._programs.begin(recipes)

    def _embed_recipe(self, nodes: int) -> Embed:
        return Embed(self._config, self._shapes, nodes)

    def _decode_recipe(self, table: Table, corner: bool) -> tuple[Any, DecodeRows]:
        params = self._corner if corner else self._decoders[FORMS[table].module]
        return params, DecodeRows(self._narrow if corner else self._config, _shapes_of(params), table)


def _corner_of(params: Any, narrow: HypernetConfig) -> Any:
    """The parameters of a decoder, cut to those of a narrower one."""
    module, one = decoder(narrow.decoder)(narrow), np.zeros(1, np.int32)

    def init():
        return module.init(jax.random.key(0), jnp.zeros((1, narrow.hid)), one, method=FORMS[Table.DENSE].method)

    flat: Any = traverse_util.flatten_dict(params)
    likes: Any = traverse_util.flatten_dict(jax.eval_shape(init)["params"])
    corner = {path: flat[path][tuple(map(slice, like.shape))] for path, like in likes.items()}
    return traverse_util.unflatten_dict(corner)


_made: weakref.WeakKeyDictionary[GHN, dict[Any, _Programs]] = weakref.WeakKeyDictionary()


def _programs_of(ghn: GHN, device: Any) -> _Programs:
    made = _made.setdefault(ghn, {})
    if device not in made:
        made[device] = _Programs(ghn, device)
    return made[device]
