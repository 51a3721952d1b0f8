"""References: what is read from one is what was last written into it.

Reads and writes become equations on what the reference holds, as if there were none.  Writes inside of a loop that is
entered once, or inside of one branch of several, cannot be followed so, nor reads and writes by lists of indices or
with steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import primitives

Emit = Callable[..., int]
"""`emit(primitive, params, inputs, output)`: the number of the value of an equation with one output."""

ConstantNumber = Callable[[Any], int]
"""The number of a constant."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of an array: the numbers of the indices where it begins, its sizes, and the axes that it has no more."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    dropped: tuple[int, ...]


class References:
    """What every reference holds, while a program is read in order.

    Attributes:
      contents: number of the value that a reference, by its number, holds.
      level: how many loops that are entered once, and branches, what is read now is inside of.
      made_at: at which level every reference was made.
    """

    def __init__(self) -> None:
        self.contents: dict[int, int] = {}
        self.level = 0
        self.made_at: dict[int, int] = {}

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What is read meanwhile is inside of a loop that is entered once, or of a branch."""
        self.level += 1
        try:
            yield
        finally:
            self.level -= 1

    def make(self, reference: int, content: int) -> None:
        """A new reference, by its number, to a value."""
        self.contents[reference] = content
        self.made_at[reference] = self.level

    def is_followed(self, name: str, reference: int) -> bool:
        """Whether an operation on a reference is one that is followed."""
        if reference not in self.contents:
            return False
        return name in ("get", "freeze") or self.made_at[reference] == self.level

    def read(self, reference: int, part: _Part | None, emit: Emit) -> int:
        """The number of what is read."""
        content = self.contents[reference]
        if part is None:
            return content
        sliced = emit(primitives.dynamic_slice_p, {"slice_sizes": part.sizes}, [content, *part.starts], part.sizes)
        if not part.dropped:
            return sliced
        shape = tuple(size for axis, size in enumerate(part.sizes) if axis not in part.dropped)
        return emit(primitives.squeeze_p, {"dimensions": part.dropped}, [sliced], shape)

    def write(self, reference: int, part: _Part | None, value: int, shape: Sequence[int], emit: Emit) -> None:
        """Writes a value into a reference to an array of this shape."""
        if part is not None:
            sizes = {"new_sizes": part.sizes, "dimensions": None, "sharding": None}
            value = emit(primitives.reshape_p, sizes, [value], part.sizes) if part.dropped else value
            inputs = [self.contents[reference], value, *part.starts]
            value = emit(primitives.dynamic_update_slice_p, {}, inputs, tuple(shape))
        self.contents[reference] = value


def part_of(tree: Any, indices: Sequence[int], constant: ConstantNumber) -> _Part | None:
    """The part of an array that an operation on a reference is about; None for all of it.

    Args:
      tree: the operation's own description of it.
      indices: numbers of the values that this refers to.
      constant: the number of a constant.

    Raises:
      ValueError: it is not one part without gaps.
    """
    transforms = jax.tree.unflatten(tree, indices)
    if not transforms:
        return None
    indexer = transforms[0]
    if len(transforms) > 1 or not hasattr(indexer, "indices") or tuple(indexer.int_indexer_shape):
        raise ValueError("no plain part")
    starts, sizes, dropped = [], [], []
    for axis, index in enumerate(indexer.indices):
        if hasattr(index, "size"):
            if index.stride != 1:
                raise ValueError("with steps")
            start, size = index.start, index.size
            starts.append(constant(np.int32(start)) if index.is_dynamic_start is False else start)
        else:
            starts.append(index)
            size = 1
            dropped.append(axis)
        sizes.append(size)
    whole = not dropped and tuple(sizes) == tuple(indexer.shape)
    return None if whole else _Part(tuple(starts), tuple(sizes), tuple(dropped))
