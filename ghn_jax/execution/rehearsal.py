"""Dispatching programs for nothing but what they would take on a device: memory, and how often each runs.

A `Rehearsal` stands in for `Programs`.  Its programs return arrays of which there is only the size, so whatever runs
them (`operations.value_and_grad`, `training.decoded`) shows what is alive at once on a device that need not be there.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from ghn_jax.execution.compiling import Recipe


class Chip(NamedTuple):
    """Of a device: operations a second, bytes a second of its memory, and bytes of it."""

    flops: float
    bandwidth: float
    memory: float


class Facts(NamedTuple):
    """What is known of a compiled program.

    Attributes:
      arguments, results: trees of bytes on the device.
      temporaries: bytes taken while it runs.
      code: bytes; 0 where XLA does not tell.
      flops: operations, two for a multiply-add.
      traffic: bytes of arguments and results, which it reads and writes at least.
      accessed: bytes that its parts read and write, near or far; 0 where XLA does not tell.
    """

    arguments: Any
    results: Any
    temporaries: int
    code: int
    flops: float
    traffic: float
    accessed: float

    def seconds(self, chip: Chip) -> float:
        """What it takes at least: a roofline."""
        return max(self.flops / chip.flops, self.traffic / chip.bandwidth)


def facts_of(compiled: jax.stages.Compiled, flops: float) -> Facts:
    """The facts of a program.

    Args:
      compiled: the program.
      flops: taken where XLA counts none, for GPUs that are not there.
    """
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis() or {}
    return Facts(
        arguments=jax.tree.map(bytes_of, compiled.args_info[0], compiled.input_formats[0]),
        results=jax.tree.map(bytes_of, compiled.out_info, compiled.output_formats),
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=cost.get("flops", flops),
        traffic=memory.argument_size_in_bytes + memory.output_size_in_bytes,
        accessed=cost.get("bytes accessed", 0.0),
    )


def bytes_of(array: Any, form: Any) -> int:
    """Bytes of an array of this format; TPUs keep arrays in tiles, mostly of 8 x 128 values, which are filled up."""
    shape, layout = list(array.shape), form.layout
    if layout is not None and layout.tiling and len(layout.major_to_minor) == len(shape):
        tile = layout.tiling[0]
        shape = [1] * (len(tile) - len(shape)) + [shape[axis] for axis in layout.major_to_minor]
        for axis, unit in enumerate(tile, start=len(shape) - len(tile)):
            shape[axis] = -(-shape[axis] // unit) * unit
    return math.prod(shape) * array.dtype.itemsize


class ArrayFacts:
    """An array that has a size only; its memory is taken as long as anything refers to it."""

    def __init__(self, rehearsal: Rehearsal, size: int):
        self._rehearsal, self._size = rehearsal, size
        rehearsal.taken += size

    def give_up(self) -> None:
        """Gives its memory back, as an array does whose memory results take over."""
        self._rehearsal.taken -= self._size
        self._size = 0

    __del__ = give_up


class Rehearsal:
    """Programs that do nothing.

    Args:
      facts: of every recipe.

    Attributes:
      dispatched: how often each recipe was.
      taken, peak: bytes of memory now, and at most.
      moment: what ran when it was most: `doing`, and the recipe.
      doing: to be set by who dispatches.
    """

    def __init__(self, facts: Mapping[Recipe, Facts]):
        self._facts = facts
        self.dispatched: collections.Counter[Recipe] = collections.Counter()
        self.taken = self.peak = 0
        self.doing = self.moment = ""

    def begin(self, recipes: Iterable[Recipe]) -> None:
        """As `Programs.begin`: there is nothing to do."""

    def get(self, recipe: Recipe, device: int = 0) -> Callable[..., Any]:
        """As `Programs.get`."""
        return functools.partial(self._dispatch, recipe, self._facts[recipe])

    def number(self, value: int, device: int = 0) -> ArrayFacts:
        """As `Programs.number`."""
        return self.arrays(4)

    def arrays(self, sizes: Any) -> Any:
        """Arrays of these sizes, a tree."""
        return jax.tree.map(lambda size: ArrayFacts(self, size), sizes)

    def _dispatch(self, recipe: Recipe, facts: Facts, *arguments: Any) -> Any:
        self.dispatched[recipe] += 1
        for argument in recipe.donated:
            for array in jax.tree.leaves(arguments[argument]):
                array.give_up()
        results = self.arrays(facts.results)
        if self.taken + facts.temporaries > self.peak:
            self.peak, self.moment = self.taken + facts.temporaries, f"{self.doing}, {recipe}"
        return results
