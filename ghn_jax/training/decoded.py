"""The tensors of one network as a hypernetwork predicts them, on one device, and the way back of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax.execution.compiling import Programs
from ghn_jax.ghn.chunks import Chunk, ChunkLayout, lay_out, rows_shape
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.programs import Decode, MakeTensors, PullBackChunk, PullBackTensors, Zeros
from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.program import Program


class _Layer(NamedTuple):
    """The parameters of one instruction.

    Attributes:
      make, pull_back: their programs.
      chunks: which chunks they are cut out of.
      starts: their first rows, on the device.
    """

    make: Callable[..., tuple[jax.Array, ...]]
    pull_back: Callable[..., Any]
    chunks: tuple[int, ...]
    starts: tuple[jax.Array, ...]


class Decoding:
    """What the tensors of a network need: made ahead of time, used for one step.

    Args:
      program: the network.
      graph: its graph.
      config: of the hypernetwork.
      capacity: number of embeddings on a device.
      first_node: number of the graph's first node among them.
      weight: of the network in the loss.
      clip_norm: see `PullBackChunk`.
      norm_penalty: see `PullBackTensors`.
    """

    def __init__(
        self,
        program: Program,
        graph: Graph,
        config: HypernetConfig,
        *,
        capacity: int,
        first_node: int,
        weight: float,
        clip_norm: float | None,
        norm_penalty: float = 0.0,
    ):
        self._norm_penalty = norm_penalty
        self._layout = lay_out(graph, config, first_node)
        self._decode = [Decode(config, chunk.table, len(chunk.nodes), capacity) for chunk in self._layout.chunks]
        self._pull_back = [PullBackChunk(decode, weight, clip_norm) for decode in self._decode]
        self._layers = dict(_layers(program, self._layout, config))

    def recipes(self) -> Iterator[Any]:
        """What has to be compiled, in the order in which it is needed."""
        yield from self._decode
        yield from (make for make, _, _ in self._layers.values())
        yield from self._zeros()
        yield from (PullBackTensors(make, self._norm_penalty) for make, _, _ in self._layers.values())
        yield from self._pull_back

    def _zeros(self) -> list[Zeros]:
        """Of every chunk's gradient, then of the gradients of the network."""
        chunks = [Zeros.like(rows_shape(d.config, d.table, d.rows)) for d in self._decode]
        return [*chunks, Zeros.like((self._pull_back[0].gradients, jax.ShapeDtypeStruct((), np.float32)))]

    def prepare(self, programs: Programs, device: int) -> PreparedDecoding:
        """Ready for a device, when everything is compiled.

        Raises:
          CompilationError: naming a program that cannot be compiled.
        """
        programs.begin(self.recipes())
        layers = {
            index: _Layer(
                programs.get(make, device),
                programs.get(PullBackTensors(make, self._norm_penalty), device),
                chunks,
                tuple(programs.number(start, device) for start in starts),
            )
            for index, (make, chunks, starts) in self._layers.items()
        }
        return PreparedDecoding(
            chunks=self._layout.chunks,
            decode=tuple(programs.get(recipe, device) for recipe in self._decode),
            pull_back=tuple(programs.get(recipe, device) for recipe in self._pull_back),
            zeros=tuple(programs.get(recipe, device) for recipe in self._zeros()),
            layers=layers,
        )


class PreparedDecoding(NamedTuple):
    """A `Decoding` whose programs are compiled."""

    chunks: tuple[Chunk, ...]
    decode: tuple[Callable[..., jax.Array], ...]
    pull_back: tuple[Callable[..., Any], ...]
    zeros: tuple[Callable[[], Any], ...]
    layers: dict[int, _Layer]


def _layers(
    program: Program, layout: ChunkLayout, config: HypernetConfig
) -> Iterator[tuple[int, tuple[MakeTensors, tuple[int, ...], tuple[int, ...]]]]:
    """Recipe, chunks and first rows of every instruction that has parameters, with its index."""
    places = iter(layout.places)
    for index, instruction in enumerate(program.instructions):
        if not instruction.tensors:
            continue
        of_layer = [next(places) for _ in instruction.tensors]
        chunks = tuple(dict.fromkeys(place.chunk for place in of_layer))
        make = MakeTensors(
            config,
            tensors=tuple((tensor.role, tensor.shape) for tensor in instruction.tensors),
            slots=tuple(chunks.index(place.chunk) for place in of_layer),
            rows=tuple(len(layout.chunks[chunk].nodes) for chunk in chunks),
        )
        yield index, (make, chunks, tuple(place.start for place in of_layer))


class DecodedTensors:
    """The tensors of a network (`execution.operations.Parameters`), decoded from embeddings.

    Args:
      prepared: of the network.
      params: decoder parameters, with a leading axis of length 1.
      nodes: `[1, capacity, hid]`, embeddings.

    Attributes:
      square: sum of the squares of the gradients received so far.
    """

    def __init__(self, prepared: PreparedDecoding, params: Any, nodes: jax.Array):
        self._prepared = prepared
        self._given = params, nodes
        self._rows = [
            decode(params, nodes, chunk.nodes, chunk.positions)
            for decode, chunk in zip(prepared.decode, prepared.chunks, strict=True)
        ]
        *chunks, all_of_it = prepared.zeros
        self._bars = [zeros() for zeros in chunks]
        self._gradients, self.square = all_of_it()

    def tensors(self, index: int) -> tuple[jax.Array, ...]:
        layer = self._prepared.layers[index]
        return layer.make(tuple([self._rows[chunk] for chunk in layer.chunks]), layer.starts)

    def receive(self, index: int, bars: tuple[jax.Array, ...]) -> None:
        layer = self._prepared.layers[index]
        rows, gradients = (tuple([chunks[chunk] for chunk in layer.chunks]) for chunks in (self._rows, self._bars))
        gradients, self.square = layer.pull_back(rows, layer.starts, bars, gradients, self.square)
        for chunk, gradient in zip(layer.chunks, gradients, strict=True):
            self._bars[chunk] = gradient

    def gradients(self) -> Any:
        """Of the decoder parameters and the embeddings, when all tensors have got theirs; may be called once."""
        total, self._gradients = self._gradients, None
        for pull_back, chunk, bar in zip(self._prepared.pull_back, self._prepared.chunks, self._bars, strict=True):
            total = pull_back(*self._given, chunk.nodes, chunk.positions, bar, self.square, total)
        return total
