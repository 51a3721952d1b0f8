"""What decoding and fitting consist of as small programs, forwards and backwards, to be compiled once each.

Every class is a recipe (`execution.compiling.Recipe`): static, hashable, a pure function of arrays of known shapes.
Parameters of the hypernetwork have a leading axis of length 1, as the part of one device has of arrays that lie on
several.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ghn_jax.ghn.chunks import decode_chunk, rows_shape
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.fit import fit
from ghn_jax.ghn.hypernetwork import DECODER_MODULES, param_shapes
from ghn_jax.ghn.rows import Table, decoded_kernel, table_of_role
from ghn_jax.graphs.graph import Role, Tensor

_LEAST_NORM = 1e-12
"""A tensor of zeros has no direction to shrink in."""

_NUMBER = jax.ShapeDtypeStruct((), jnp.float32)


def decoder_params(params: Any) -> dict[str, Any]:
    """Those of the parameters that decoding needs."""
    return {name: params[name] for name in DECODER_MODULES}


@functools.cache
def _decoder_shapes(config: HypernetConfig) -> Any:
    params = decoder_params(param_shapes(config))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), params)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


@dataclasses.dataclass(frozen=True)
class Decode:
    """(decoder parameters, embeddings, nodes, positions) -> the rows of a chunk.

    Attributes:
      config: of the hypernetwork.
      table: of the chunk.
      rows: of the chunk.
      capacity: number of embeddings.
    """

    config: HypernetConfig
    table: Table
    rows: int
    capacity: int
    donated = ()

    @property
    def arguments(self):
        index = jax.ShapeDtypeStruct((self.rows,), jnp.int32)
        nodes = jax.ShapeDtypeStruct((1, self.capacity, self.config.hid), jnp.float32)
        return _decoder_shapes(self.config), nodes, index, index

    def __str__(self):
        return f"{self.rows} rows of the table {self.table.name}"

    def __call__(self, params, nodes, index, positions):
        return decode_chunk(self.config, _first(params), self.table, nodes[0], index, positions)


@dataclasses.dataclass(frozen=True)
class PullBackChunk:
    """(arguments of `Decode`, gradient of the rows, its sum of squares, gradients so far) -> gradients so far.

    Gradients are those of the decoder parameters and of the embeddings, without leading axes.

    Attributes:
      decode: the chunk.
      weight: of the network in the loss.
      clip_norm: a network whose gradient with respect to its own parameters is longer is scaled down to it; None for no
        limit.
    """

    decode: Decode
    weight: float
    clip_norm: float | None
    donated = (6,)

    @property
    def gradients(self) -> Any:
        """Shapes of the gradients."""
        params, nodes, _, _ = self.decode.arguments
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (params, nodes))

    @property
    def arguments(self):
        rows = rows_shape(self.decode.config, self.decode.table, self.decode.rows)
        return *self.decode.arguments, rows, _NUMBER, self.gradients

    def __str__(self):
        return f"gradient of {self.decode}"

    def __call__(self, params, nodes, index, positions, bar, square, gradients):
        scale = self.weight
        if self.clip_norm is not None:
            scale *= jnp.minimum(1.0, self.clip_norm / jnp.sqrt(square))

        def decode(params, nodes):
            return decode_chunk(self.decode.config, params, self.decode.table, nodes, index, positions)

        _, pull_back = jax.vjp(decode, _first(params), nodes[0])
        return jax.tree.map(jnp.add, gradients, pull_back(scale * bar))


@dataclasses.dataclass(frozen=True)
class Zeros:
    """() -> zeros in the form of a tree of shapes, which is given as its leaves and structure."""

    leaves: tuple[tuple[tuple[int, ...], str], ...]
    structure: Any
    donated = ()

    @classmethod
    def like(cls, shapes: Any) -> Zeros:
        """In the form of `jax.ShapeDtypeStruct`s."""
        leaves, structure = jax.tree.flatten(shapes)
        return cls(tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves), structure)

    @property
    def arguments(self):
        return ()

    def __str__(self):
        return f"zeros of {', '.join(str(shape) for shape, _ in self.leaves[:3])}"

    def __call__(self):
        return jax.tree.unflatten(self.structure, [jnp.zeros(shape, dtype) for shape, dtype in self.leaves])


@dataclasses.dataclass(frozen=True)
class MakeTensors:
    """(chunks, first rows) -> the tensors of one layer.

    Attributes:
      config: of the hypernetwork.
      tensors: role and shape of each.
      slots: which of the chunks each is cut out of; a norm's weight and bias share theirs.
      rows: rows of each chunk.
    """

    config: HypernetConfig
    tensors: tuple[tuple[Role, tuple[int, ...]], ...]
    slots: tuple[int, ...]
    rows: tuple[int, ...]
    donated = ()

    @functools.cached_property
    def chunks(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the chunks."""
        tables = {slot: table_of_role(role) for slot, (role, _) in zip(self.slots, self.tensors, strict=True)}
        return tuple(rows_shape(self.config, tables[slot], rows) for slot, rows in enumerate(self.rows))

    @property
    def arguments(self):
        return self.chunks, (jax.ShapeDtypeStruct((), jnp.int32),) * len(self.tensors)

    def __str__(self):
        return f"tensors of {' and '.join(f'{role.value} {shape}' for role, shape in self.tensors)}"

    def __call__(self, chunks, starts):
        cut = self.cut(chunks, starts)
        return tuple(self.make(rows, number) for number, rows in enumerate(cut))

    def cut(self, chunks, starts) -> list[jax.Array]:
        """The rows of every tensor."""
        kernels = [decoded_kernel(*_tensor(*tensor).shape4[2:], self.config) for tensor in self.tensors]
        lengths = [math.prod(kernel) for kernel in kernels]
        return [
            lax.dynamic_slice_in_dim(chunks[slot], start, length, allow_negative_indices=False)
            for slot, start, length in zip(self.slots, starts, lengths, strict=True)
        ]

    def make(self, rows: jax.Array, number: int) -> jax.Array:
        """A tensor of its rows."""
        return jnp.asarray(fit(rows, _tensor(*self.tensors[number]), self.config, jnp))


@dataclasses.dataclass(frozen=True)
class PullBackTensors:
    """(chunks, first rows, gradients of the tensors, those of chunks, sum of squares) -> those of chunks, sum.

    The gradients of a layer are put where its rows are, and the sum of their squares is added to the sum.

    Attributes:
      make: the layer.
      norm_penalty: this times the norm of every tensor is part of the loss.
    """

    make: MakeTensors
    norm_penalty: float
    donated = (3, 4)

    @property
    def arguments(self):
        chunks, starts = self.make.arguments
        bars = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for _, shape in self.make.tensors)
        return chunks, starts, bars, chunks, _NUMBER

    def __str__(self):
        return f"gradient of {self.make}"

    def __call__(self, chunks, starts, bars, gradients, square):
        gradients = list(gradients)
        cut = self.make.cut(chunks, starts)
        for number, (slot, start, bar) in enumerate(zip(self.make.slots, starts, bars, strict=True)):
            tensor, pull_back = jax.vjp(functools.partial(self.make.make, number=number), cut[number])
            if self.norm_penalty:
                bar += self.norm_penalty * tensor / jnp.maximum(jnp.linalg.norm(tensor.ravel()), _LEAST_NORM)
            (rows,) = pull_back(bar)
            if self.make.slots.count(slot) > 1:  # a norm's weight and bias share their row
                rows += lax.dynamic_slice_in_dim(gradients[slot], start, len(rows), allow_negative_indices=False)
            gradients[slot] = lax.dynamic_update_slice_in_dim(
                gradients[slot], rows, start, axis=0, allow_negative_indices=False
            )
            square += jnp.sum(jnp.square(bar))
        return tuple(gradients), square


def _tensor(role: Role, shape: tuple[int, ...]) -> Tensor:
    return Tensor("", 0, role, shape)
