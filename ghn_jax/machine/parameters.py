"""Where a machine's parameters come from: decoded rows of a hypernetwork, or one vector of given tensors.

An instruction knows where each of its tensors starts.  What it reads there (`raw`) becomes the tensor by a
differentiable function, and backwards the gradient of what it read is stored at the same place.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ghn_jax.ghn.fit import fit
from ghn_jax.ghn.hypernetwork import Decoded
from ghn_jax.ghn.requests import Placement, table_of_role
from ghn_jax.ghn.requests import Table as RowTable
from ghn_jax.graph import Tensor
from ghn_jax.primitives import Parameter
from ghn_jax.program import Program


class Parameters(Protocol):
    """A kind of parameters; `values` are arrays of that kind, `bars` gradients of the same form."""

    def layout(self, parameter: Parameter) -> Hashable:
        """Equal for tensors that are stored in the same place in the same form."""

    def read(self, values: Any, parameter: Parameter, start: jax.Array) -> jax.Array:
        """What is stored for a tensor."""

    def tensor(self, raw: jax.Array, parameter: Parameter) -> jax.Array:
        """The tensor made of it."""

    def write(self, bars: Any, raw_bar: jax.Array, parameter: Parameter, start: jax.Array) -> Any:
        """The gradients with that of one tensor."""


@dataclasses.dataclass(frozen=True)
class DecodedRows:
    """`Decoded` rows of a hypernetwork; slicing, tiling and normalising happens inside the machine."""

    weight_norm: bool

    def layout(self, parameter: Parameter) -> Hashable:
        """Table and number of rows."""
        return table_of_role(parameter.role), math.prod(_tensor(parameter).shape4[2:])

    def read(self, values: Decoded, parameter: Parameter, start: jax.Array) -> jax.Array:
        """The rows of a tensor."""
        kind, rows = self.layout(parameter)
        return lax.dynamic_slice_in_dim(values[kind], start, rows, allow_negative_indices=False)

    def tensor(self, raw: jax.Array, parameter: Parameter) -> jax.Array:
        """The tensor that fits the target."""
        return _fit(raw, parameter, self.weight_norm)

    def write(self, bars: Decoded, raw_bar: jax.Array, parameter: Parameter, start: jax.Array) -> Decoded:
        """Adds the gradient of the rows of a tensor."""
        kind = table_of_role(parameter.role)
        table = bars[kind]
        if kind is RowTable.VECTOR:  # a norm's weight and bias share their row
            raw_bar += lax.dynamic_slice_in_dim(table, start, len(raw_bar), allow_negative_indices=False)
        table = lax.dynamic_update_slice_in_dim(table, raw_bar, start, axis=0, allow_negative_indices=False)
        return bars._replace(**{Decoded._fields[kind]: table})

    @staticmethod
    def starts(placements: Sequence[Placement]) -> list[int]:
        """Where the tensors of a network start."""
        return [placement.start for placement in placements]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _fit(raw: jax.Array, parameter: Parameter, weight_norm: bool) -> jax.Array:
    """Under jit, so that it is traced and differentiated once for all operations with such a parameter."""
    return fit(raw, _tensor(parameter), weight_norm, jnp)


def _tensor(parameter: Parameter) -> Tensor:
    return Tensor("", 0, parameter.role, parameter.shape)


@dataclasses.dataclass(frozen=True)
class FlatVector:
    """One vector with the elements of all tensors of a network, in the order of `Program.tensors`."""

    def layout(self, parameter: Parameter) -> Hashable:
        """Number of elements."""
        return math.prod(parameter.shape)

    def read(self, values: jax.Array, parameter: Parameter, start: jax.Array) -> jax.Array:
        """The elements of a tensor."""
        return lax.dynamic_slice_in_dim(values, start, self.layout(parameter), allow_negative_indices=False)

    def tensor(self, raw: jax.Array, parameter: Parameter) -> jax.Array:
        """The tensor."""
        return raw.reshape(parameter.shape)

    def write(self, bars: jax.Array, raw_bar: jax.Array, parameter: Parameter, start: jax.Array) -> jax.Array:
        """Puts the gradient of a tensor in its place."""
        return lax.dynamic_update_slice_in_dim(bars, raw_bar, start, axis=0, allow_negative_indices=False)

    @staticmethod
    def starts(program: Program) -> list[int]:
        """Where the tensors of a network start."""
        return np.cumsum([0] + [tensor.size for tensor in program.tensors])[:-1].tolist()

    @staticmethod
    def flatten(program: Program, params: Mapping[str, np.ndarray], size: int) -> np.ndarray:
        """The tensors of a network as a vector with room for `size` elements."""
        vector = np.zeros(size, np.float32)
        start = 0
        for tensor in program.tensors:
            vector[start : start + tensor.size] = np.asarray(params[tensor.name]).reshape(-1)
            start += tensor.size
        return vector

    @staticmethod
    def unflatten(program: Program, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors of a network by name."""
        starts = FlatVector.starts(program)
        return {
            tensor.name: np.asarray(vector[start : start + tensor.size]).reshape(tensor.shape)
            for tensor, start in zip(program.tensors, starts, strict=True)
        }
