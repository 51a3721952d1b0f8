"""How a value that is a parameter, seen through reshapes, transposes, slices and broadcasts, lies in it.

An axis of the parameter may be split into several `Atom`s, like a number into digits, and an axis of the value may
consist of several atoms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ghn_jax.graphs.tree import Place

REPEATED = -1
"""Stands for the axis of an atom that belongs to no axis of the parameter: a broadcast."""


@dataclasses.dataclass(frozen=True)
class Atom:
    """Part of an axis: index `stride * (start + i)` of `axis` for i below `count`; `size` values exist."""

    axis: int
    size: int
    stride: int
    start: int
    count: int

    def __lt__(self, other: Atom) -> bool:
        """Whether it comes first in the parameter."""
        return (self.axis, -self.stride) < (other.axis, -other.stride)

    @property
    def whole(self) -> bool:
        """Whether all values are there."""
        return self.count == self.size


Axis = tuple[Atom, ...]


@dataclasses.dataclass(frozen=True)
class View:
    """A value that is (part of) a parameter in another layout.

    Attributes:
      leaf: number of the parameter.
      leaf_shape: its shape.
      axes: of the value; None if the layout is lost.
      shape: of the value.
      fixed: atoms along which a single index was picked.
    """

    leaf: int
    leaf_shape: tuple[int, ...]
    axes: tuple[Axis, ...] | None
    shape: tuple[int, ...]
    fixed: tuple[Atom, ...] = ()

    @classmethod
    def of(cls, leaf: int, shape: tuple[int, ...]) -> View:
        """The parameter itself."""
        axes = tuple((Atom(axis, size, 1, 0, size),) if size > 1 else () for axis, size in enumerate(shape))
        return cls(leaf, shape, axes, shape)

    def lost(self, shape: Sequence[int]) -> View:
        """A value of the parameter whose layout is not known."""
        return dataclasses.replace(self, axes=None, shape=tuple(shape))

    @property
    def laid_out(self) -> tuple[Axis, ...]:
        """The axes of a view whose layout is known."""
        assert self.axes is not None
        return self.axes

    @property
    def picked(self) -> View:
        """The parameter, less the axes along which an index was picked, in its own layout."""
        fixed = {atom.axis: atom for atom in self.fixed if atom.size == self.leaf_shape[atom.axis]}
        view = View.of(self.leaf, self.leaf_shape)
        kept = [axis for axis in range(len(self.leaf_shape)) if axis not in fixed]
        return dataclasses.replace(
            view,
            axes=tuple(view.laid_out[axis] for axis in kept),
            shape=tuple(self.leaf_shape[axis] for axis in kept),
            fixed=tuple(fixed.values()),
        )

    def known(self) -> View:
        """Itself, or if the layout is lost, the parameter in its own."""
        return self.picked if self.axes is None else self

    @property
    def varied(self) -> tuple[int, ...]:
        """Axes along which the parameter differs."""
        if self.axes is None:
            return tuple(axis for axis, size in enumerate(self.shape) if size > 1)
        return tuple(axis for axis, atoms in enumerate(self.axes) if any(atom.axis != REPEATED for atom in atoms))

    @property
    def size(self) -> int:
        """Number of different elements."""
        if self.axes is None:
            return math.prod(self.picked.shape)
        return math.prod(atom.count for atoms in self.axes for atom in atoms if atom.axis != REPEATED)

    def transpose(self, order: Sequence[int]) -> View:
        """`jnp.transpose`."""
        shape = tuple(self.shape[axis] for axis in order)
        if self.axes is None:
            return self.lost(shape)
        return dataclasses.replace(self, axes=tuple(self.axes[axis] for axis in order), shape=shape)

    def squeeze(self, axes: Sequence[int]) -> View:
        """`jnp.squeeze`."""
        kept = [axis for axis in range(len(self.shape)) if axis not in axes]
        return self.transpose(kept)

    def broadcast(self, shape: Sequence[int], dimensions: Sequence[int]) -> View:
        """`lax.broadcast_in_dim`."""
        if self.axes is None:
            return self.lost(shape)
        axes: list[Axis] = [_repeated(size) for size in shape]
        for own, axis in enumerate(dimensions):
            if self.shape[own] == shape[axis]:
                axes[axis] = self.axes[own]
        return dataclasses.replace(self, axes=tuple(axes), shape=tuple(shape))

    def reshape(self, shape: Sequence[int]) -> View:
        """`jnp.reshape`; the layout is lost if it cuts through atoms."""
        if self.axes is None or math.prod(shape) != math.prod(self.shape):
            return self.lost(shape)
        atoms = [atom for axis in self.axes for atom in axis][::-1]
        axes = []
        for size in shape:
            axis: list[Atom] = []
            while size > 1:
                atom = atoms.pop()
                if atom.count > size or size % atom.count:
                    if not atom.whole or atom.count % size:
                        return self.lost(shape)
                    inner = atom.size // size
                    atoms.append(Atom(atom.axis, inner, atom.stride, 0, inner))
                    atom = Atom(atom.axis, size, atom.stride * inner, 0, size)
                axis.append(atom)
                size //= atom.count
            axes.append(tuple(axis))
        return dataclasses.replace(self, axes=tuple(axes), shape=tuple(shape))

    def slice(self, axis: int, start: int, stop: int) -> View:
        """Indices from `start` up to `stop` along an axis."""
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        if shape == self.shape:
            return self
        if self.axes is None:
            return self.lost(shape)
        axes = list(self.axes)
        fixed = list(self.fixed)
        atoms = axes[axis]
        if stop - start == 1:
            index = start
            for atom in reversed(atoms):
                fixed.append(dataclasses.replace(atom, start=atom.start + index % atom.count, count=1))
                index //= atom.count
            axes[axis] = ()
        else:
            outer, *inner = atoms
            step = math.prod(atom.count for atom in inner)
            if start % step or stop % step:
                return self.lost(shape)
            first, count = outer.start + start // step, (stop - start) // step
            axes[axis] = (dataclasses.replace(outer, start=first, count=count), *inner)
        fixed = [atom for atom in fixed if atom.axis != REPEATED]
        return dataclasses.replace(self, axes=tuple(axes), shape=shape, fixed=tuple(fixed))

    def rows(self) -> tuple[frozenset[int] | None, ...]:
        """Which indices of every axis of the parameter are in the value; None for all."""
        if self.axes is None:
            return self.picked.rows()
        rows: list[frozenset[int] | None] = [None] * len(self.leaf_shape)
        partial = {atom.axis for atom in self.atoms if not atom.whole}
        for axis in partial:
            indices = [0]
            for atom in self.atoms:
                if atom.axis == axis:
                    steps = range(atom.start * atom.stride, (atom.start + atom.count) * atom.stride, atom.stride)
                    indices = [index + step for index in indices for step in steps]
            rows[axis] = frozenset(indices)
        return tuple(rows)

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """All atoms that belong to an axis of the parameter."""
        return self.fixed + tuple(atom for axis in self.axes or () for atom in axis if atom.axis != REPEATED)

    def place(self, groups: Sequence[Sequence[Atom]], cut: int | None = None) -> Place | None:
        """Where a tensor belongs whose axes consist of these atoms of the value; None if that is no part of it."""
        chosen = [*self.fixed, *(atom for group in groups for atom in group if atom.axis != REPEATED)]
        order_of_split = sorted(chosen)
        split, parts = [], []
        for axis, size in enumerate(self.leaf_shape):
            digits = [atom for atom in order_of_split if atom.axis == axis]
            if math.prod(atom.size for atom in digits) != size:
                return None
        for atom in order_of_split:
            split.append(atom.size)
            parts.append((atom.start, atom.start + atom.count))
        order = tuple(order_of_split.index(atom) for atom in chosen)
        if len(set(order)) != len(order):
            return None
        return Place(self.leaf, tuple(split), tuple(parts), order, cut)


def _repeated(size: int) -> Axis:
    return (Atom(REPEATED, size, 0, 0, size),) if size > 1 else ()


def count(atoms: Sequence[Atom]) -> int:
    """Number of elements of a group of atoms, those of a broadcast left out."""
    return math.prod(atom.count for atom in atoms if atom.axis != REPEATED)
