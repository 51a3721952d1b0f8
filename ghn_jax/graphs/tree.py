"""Where predicted tensors belong: the parameter tree of a user's own model.

A hypernetwork predicts tensors of a few layouts (`graph.Tensor`).  A `Place` says which part of which leaf of the tree
a tensor is, and in which order its axes are there; `Target` describes the tree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of a parameter tree: its path ("Dense_0/kernel"), shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Place:
    """The part of a leaf that a tensor is.

    Attributes:
      leaf: its index.
      split: the leaf's shape with some of its axes split into several.
      parts: first and last index, exclusive, along every axis of `split`.
      order: the axes of `split` in the order in which the tensor has them.
      cut: the tensor's leading axes hold more than the leaf: as many of their elements, in C order, as it takes.
    """

    leaf: int
    split: tuple[int, ...]
    parts: tuple[tuple[int, int], ...]
    order: tuple[int, ...]
    cut: int | None = None

    def view(self, leaf: np.ndarray) -> np.ndarray:
        """The part, as a view of the leaf."""
        slices = tuple(slice(start, stop) for start, stop in self.parts)
        return leaf.reshape(self.split)[(*slices, ...)].transpose(self.order)

    def write(self, leaf: np.ndarray, values: np.ndarray) -> None:
        """Writes a tensor into its part of the leaf."""
        view = self.view(leaf)
        if self.cut is not None:
            values = values.reshape(-1, values.shape[-1])[: self.cut]
        view[...] = values.reshape(view.shape)

    def put(self, leaf: jax.Array, values: jax.Array) -> jax.Array:
        """The leaf with a tensor in its part: what `write` does, for arrays that cannot be written to."""
        if self.cut is not None:
            values = values.reshape(-1, values.shape[-1])[: self.cut]
        starts, stops = zip(*self.parts, strict=True) if self.parts else ((), ())
        part = values.reshape([stops[axis] - starts[axis] for axis in self.order])
        part = part.transpose(sorted(range(part.ndim), key=self.order.__getitem__))
        return lax.dynamic_update_slice(leaf.reshape(self.split), part, starts).reshape(leaf.shape)

    def buffer(self, leaf: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """The part as an array of the tensor's `shape` that shares the leaf's memory; None if there is none."""
        if self.cut is not None:
            return None
        view = self.view(leaf)
        array = view.reshape(shape)
        return array if np.may_share_memory(array, leaf) else None


def whole(index: int, leaf: Leaf) -> Place:
    """The place of a tensor that is a whole leaf as it stands."""
    return Place(index, leaf.shape, tuple((0, size) for size in leaf.shape), tuple(range(len(leaf.shape))))


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """A leaf that is computed from predicted ones.

    Attributes:
      leaf: its index.
      function: of the values of all leaves, by index; returns that of this leaf.
    """

    leaf: int
    function: Callable[[Mapping[int, Any]], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class ParameterTree:
    """The parameter tree of a model.

    Attributes:
      rebuild: makes the tree of a list of its leaves.
      leaves: all arrays of the tree.
      initial: the model's own initial values of the leaves with these indices, None for one that has none; `seed` is
        for those that are random.
      unpredicted: why a leaf, or part of it, is not predicted, by index.
      remarks: what makes a prediction doubtful beside its shape, by index of the leaf.
      unsupported: operations that tracing does not know, with their place in the model.
      inputs: shapes and types of the inputs, as text.
      states: why a leaf is no parameter, by index; it keeps its value.
      notes: what else is to be said of the model.
      corrections: of predicted leaves, in order: parameters that the model changes before it uses them.
    """

    rebuild: Callable[[list[Any]], Any]
    leaves: tuple[Leaf, ...]
    initial: Callable[[Sequence[int], int], list[Any]]
    unpredicted: dict[int, str]
    remarks: dict[int, str]
    unsupported: tuple[str, ...]
    inputs: tuple[str, ...]
    states: Mapping[int, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    corrections: tuple[Correction, ...] = ()

    @property
    def shortcomings(self) -> list[str]:
        """What is not read as what it is: what `strict` refuses."""
        left = [f"{self.leaves[index].name!r}: {reason}" for index, reason in sorted(self.unpredicted.items())]
        return left + [f"unknown operation {place}" for place in self.unsupported]

    def arrays(self, tree: Any) -> list[Any]:
        """The leaves of a tree that `rebuild` made, in the order of `leaves`."""
        return [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]

    @property
    def num_params(self) -> int:
        """Number of elements of all leaves."""
        return sum(leaf.size for leaf in self.leaves)
