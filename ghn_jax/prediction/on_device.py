"""Prediction on an accelerator: embeddings, rows and parameters are computed there and stay there.

Three kinds of programs follow each other: the graph network, one for every size of graph; the decoders, one for every
table; and one for every kind of parameter, which cuts its rows out of the decoded ones, makes a tensor of them and puts
it where it belongs in a leaf of the model's own parameters.  Each is compiled when it is first met, several at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from ghn_jax.execution.compiling import Programs, Recipe, lower_for_results
from ghn_jax.ghn.chunks import ChunkLayout, chunk_rows, decode_chunk, lay_out
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.hypernetwork import Hypernetwork, param_shapes
from ghn_jax.ghn.programs import MakeTensors, decoder_params
from ghn_jax.ghn.rows import Table
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import Graph
from ghn_jax.graphs.tree import Leaf, Place, whole

if TYPE_CHECKING:
    from ghn_jax.ghn.model import GHN

PADDED_NODES = padding.NODE_BUCKETS[-1]
"""Embeddings are padded to this number of nodes, so that the decoders do not depend on the size of the graph."""


def predict_tensors(graph: Graph, ghn: GHN, device: Any) -> list[jax.Array]:
    """The tensors of a graph, in its order; see `predict_leaves`."""
    placed, leaves = _each_a_leaf(graph)
    predicted = predict_leaves(placed, leaves, {}, ghn, device)
    return [predicted[index] for index in range(len(leaves))]


def predict_leaves(
    graph: Graph, leaves: Sequence[Leaf], initial: Mapping[int, Any], ghn: GHN, device: Any
) -> dict[int, jax.Array]:
    """The leaves of a parameter tree that do not keep their initial values.

    Args:
      graph: whose tensors have places.
      leaves: of the tree.
      initial: values, by index, of the leaves that tensors do not make up, or not alone.
      ghn: the hypernetwork.
      device: that computes.

    Returns:
      Arrays by the index of their leaf, on the device; JAX may move them to others.

    Raises:
      GraphError: see `predict_params`.
      CompilationError: the device's compiler fails, naming the program.
    """
    plan = _plan(graph, leaves, initial, ghn.config)
    programs = programs_of(device)
    programs.begin(plan.recipes())
    params = _params_on(device, ghn)
    nodes = programs.get(plan.embed)(params, padding.pad_checked([graph], plan.embed.nodes, ghn.config.max_distance))
    rows = [
        programs.get(recipe)(decoder_params(params), nodes, chunk.nodes, chunk.positions)
        for recipe, chunk in zip(plan.decode, plan.layout.chunks, strict=True)
    ]

    def make(index: int, leaf: _Leaf) -> jax.Array:
        starts = tuple([programs.number(start) for start in leaf.starts])
        before = jax.device_put(initial[index], device) if leaf.make.partly else None
        return programs.get(leaf.make)(tuple([rows[chunk] for chunk in leaf.chunks]), starts, before)

    return {index: make(index, leaf) for index, leaf in plan.leaves.items()}


def embed_nodes(graph: Graph, ghn: GHN, device: Any) -> np.ndarray:
    """Embeddings of the nodes of a graph that was checked, `[nodes, hid]`."""
    embed = Embed(ghn.config, padding.bucket(graph.num_nodes))
    padded = padding.pad_checked([graph], embed.nodes, ghn.config.max_distance)
    return np.asarray(programs_of(device).get(embed)(_params_on(device, ghn), padded))[: graph.num_nodes]


def compile_ahead(config: HypernetConfig, buckets: Sequence[int], graphs: Sequence[Graph], device: Any) -> None:
    """Compiles what all predictions for graphs of these padded sizes share, and all that some graphs need."""
    recipes: list[Recipe] = [Embed(config, nodes) for nodes in buckets]
    recipes += [DecodeChunk(config, table, chunk_rows(config, table)) for table in Table]
    for graph in graphs:
        recipes += recipes_of(graph, config)
    programs = programs_of(device)
    programs.begin(recipes)
    for recipe in recipes:
        programs.get(recipe)


def recipes_of(graph: Graph, config: HypernetConfig) -> Iterator[Recipe]:
    """All programs that a prediction for a graph takes."""
    if graph.tree is None:
        return _plan(*_each_a_leaf(graph), (), config).recipes()
    return _plan(graph, graph.tree.leaves, {*graph.tree.unpredicted, *graph.tree.states}, config).recipes()


@functools.cache
def programs_of(device: Any) -> Programs:
    """The programs of all predictions on a device."""
    return Programs([device], lower=lower_for_results)


@dataclasses.dataclass(frozen=True)
class Embed:
    """(parameters of the hypernetwork, graph) -> embeddings of its nodes, `[PADDED_NODES, hid]`.

    Attributes:
      config: of the hypernetwork.
      nodes: that the graph is padded to.
    """

    config: HypernetConfig
    nodes: int
    donated = ()

    @property
    def arguments(self):
        return param_shapes(self.config), _graph_shapes(self.nodes)

    def __call__(self, params, graphs):
        nodes: Any = Hypernetwork(self.config).apply({"params": params}, graphs, method="embed")
        return jnp.pad(nodes[0], ((0, PADDED_NODES - self.nodes), (0, 0)))


@functools.cache
def _graph_shapes(nodes: int) -> jraph.GraphsTuple:
    one = Graph(np.zeros(1, np.int32), np.zeros((1, 4), np.int32), np.zeros((1, 1), np.int32), ())
    padded = padding.stack([padding.pad(one, nodes, max_distance=1)])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), padded)


@dataclasses.dataclass(frozen=True)
class DecodeChunk:
    """(decoder parameters, embeddings, nodes, positions) -> the rows of a chunk.

    Attributes:
      config: of the hypernetwork.
      table: of the chunk.
      rows: of the chunk.
    """

    config: HypernetConfig
    table: Table
    rows: int
    donated = ()

    @property
    def arguments(self):
        nodes = jax.ShapeDtypeStruct((PADDED_NODES, self.config.hid), jnp.float32)
        index = jax.ShapeDtypeStruct((self.rows,), jnp.int32)
        return decoder_params(param_shapes(self.config)), nodes, index, index

    def __call__(self, params, nodes, index, positions):
        return decode_chunk(self.config, params, self.table, nodes, index, positions)


@dataclasses.dataclass(frozen=True)
class MakeLeaf:
    """(chunks, first rows, initial values) -> a leaf of a parameter tree.

    Attributes:
      tensors: that the leaf consists of.
      places: theirs in the leaf, whose number does not count.
      shape, dtype: of the leaf.
      partly: whether parts of the leaf keep their initial values; there are none otherwise.
    """

    tensors: MakeTensors
    places: tuple[Place, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    partly: bool
    donated = ()

    @property
    def arguments(self):
        return *self.tensors.arguments, jax.ShapeDtypeStruct(self.shape, self.dtype) if self.partly else None

    def __call__(self, chunks, starts, initial):
        leaf = initial.astype(jnp.float32) if self.partly else jnp.zeros(self.shape, jnp.float32)
        for place, values in zip(self.places, self.tensors(chunks, starts), strict=True):
            leaf = place.put(leaf, values)
        return leaf.astype(self.dtype)


class _Leaf(NamedTuple):
    """How a leaf is made: the program, which chunks it is cut out of, and the first rows of its tensors."""

    make: MakeLeaf
    chunks: tuple[int, ...]
    starts: tuple[int, ...]


class _Plan(NamedTuple):
    """What a network needs.

    Attributes:
      embed, decode: programs, the latter one a chunk.
      layout: of the rows.
      leaves: by index.
    """

    embed: Embed
    decode: tuple[DecodeChunk, ...]
    layout: ChunkLayout
    leaves: dict[int, _Leaf]

    def recipes(self) -> Iterator[Recipe]:
        """All programs, in the order in which they are needed."""
        yield self.embed
        yield from self.decode
        yield from (leaf.make for leaf in self.leaves.values())


def _plan(graph: Graph, leaves: Sequence[Leaf], partly: Collection[int], config: HypernetConfig) -> _Plan:
    """What a network needs; `partly` are the leaves that have initial values."""
    layout = lay_out(graph, config)
    # Empty leaves have neither tensors nor initial values.
    tensors_of: dict[int, list[int]] = {index: [] for index in range(len(leaves)) if index not in partly}
    for number, tensor in enumerate(graph.tensors):
        tensors_of.setdefault(tensor.placed.leaf, []).append(number)

    def leaf_of(index: int, numbers: list[int]) -> _Leaf:
        tensors, places = [graph.tensors[n] for n in numbers], [layout.places[n] for n in numbers]
        chunks = tuple(dict.fromkeys(place.chunk for place in places))
        make = MakeLeaf(
            MakeTensors(
                config,
                tensors=tuple((tensor.role, tensor.shape) for tensor in tensors),
                slots=tuple(chunks.index(place.chunk) for place in places),
                rows=tuple(len(layout.chunks[chunk].nodes) for chunk in chunks),
            ),
            places=tuple(dataclasses.replace(tensor.placed, leaf=0) for tensor in tensors),
            shape=tuple(leaves[index].shape),
            dtype=jax.dtypes.canonicalize_dtype(leaves[index].dtype),
            partly=index in partly,
        )
        return _Leaf(make, chunks, tuple(place.start for place in places))

    return _Plan(
        Embed(config, padding.bucket(graph.num_nodes)),
        tuple(DecodeChunk(config, chunk.table, len(chunk.nodes)) for chunk in layout.chunks),
        layout,
        {index: leaf_of(index, numbers) for index, numbers in tensors_of.items()},
    )


def _each_a_leaf(graph: Graph) -> tuple[Graph, list[Leaf]]:
    """The graph of a program with every tensor in the place of a leaf, and these leaves."""
    leaves = [Leaf(tensor.name, tuple(tensor.shape), np.dtype(np.float32)) for tensor in graph.tensors]
    tensors = [dataclasses.replace(t, place=whole(i, leaves[i])) for i, t in enumerate(graph.tensors)]
    return dataclasses.replace(graph, tensors=tuple(tensors)), leaves


def _params_on(device: Any, ghn: GHN) -> Any:
    """The hypernetwork's parameters, in the form that programs expect; those that are there already stay."""
    shapes, structure = jax.tree.flatten(param_shapes(ghn.config))
    leaves = [jnp.asarray(leaf, like.dtype) for leaf, like in zip(jax.tree.leaves(ghn.params), shapes, strict=True)]
    return jax.tree.unflatten(structure, jax.device_put(leaves, device))
