"""Which arrays are no parameters: what a model keeps beside them, and random keys.

An array is a state for the first of these reasons that holds:

  type      a random key, an integer or a truth value
  user      named by the caller
  name      a collection beside "params", or a name that frameworks give running statistics
  returned  an argument that comes back beside the output (Haiku, Equinox, Keras)
  use       a running variance, whose root divides activations; the mean that goes with it
  gradient  it reaches the output through `stop_gradient` only
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.tracing.equations import Equation, Equations

SAME_ELEMENTS = frozenset(
    "reshape transpose squeeze expand_dims broadcast_in_dim slice convert_element_type copy copy_p stop_gradient"
    " optimization_barrier reduce_precision name psum pmean pvary".split()
)
"""Operations whose results are elements of their only operand."""

_STATISTICS = re.compile(
    r"batch_stats|num_batches_tracked|(running|moving)_(mean|var|std|avg|average)\w*|(mean|var)_ema|ema_(mean|var)"
)

_KEYS = ("random_wrap", "threefry2x32", "random_bits", "rng_bit_generator")


class Uses(NamedTuple):
    """How values are used: numbers of running variances, of means, of raw random keys, and of activations carried on.

    An activation that is carried from call to call, as in a recurrent network, is contracted with a parameter.
    """

    variances: set[int]
    means: set[int]
    keys: set[int]
    carried: set[int]


def by_type(array: Any) -> str | None:
    """Why an array is no parameter by its type; None for floating point numbers."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return "a random key"
    if not jnp.issubdtype(array.dtype, np.inexact):
        return f"its type is {np.dtype(array.dtype).name}, only floating point numbers are predicted"
    return None


def by_name(name: str, patterns: Sequence[str], collections: Collection[str]) -> str | None:
    """Why a leaf at this path is no parameter by its name.

    Args:
      name: its path, joined by "/".
      patterns: of the caller, as for `fnmatch`; one that fits a whole path, or its beginning up to a "/".
      collections: first names of paths that stand beside "params".
    """
    for pattern in patterns:
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*"):
            return "named by the caller"
    first, *_ = parts = name.split("/")
    if first in collections:
        return f"of the collection {first!r}, beside 'params'"
    return next((f"named {part!r}" for part in parts if _STATISTICS.fullmatch(part)), None)


def collections_of(tree: Any) -> frozenset[str]:
    """Names of the collections beside "params" in the variables of a Flax module; none of any other tree."""
    if isinstance(tree, Mapping) and isinstance(tree.get("params"), Mapping):
        return frozenset(str(key) for key in tree if key != "params")
    return frozenset()


def returned(argument: Any, output: Any, known: bool = False) -> list[int]:
    """Numbers of the leaves of `output` that are an argument of the same structure and shapes, beside other leaves.

    Only as a part of the output, and only of an argument that is a container, unless it is `known` to be a state.
    """
    like = _described(argument)
    if not like or (_is_leaf(argument) and not known):
        return []
    children = list(output) if isinstance(output, (tuple, list)) else []
    if isinstance(output, Mapping):
        children = [output[key] for key in sorted(output)]
    start, found = 0, []
    for child in children:
        number = len(jax.tree.leaves(child))
        if _described(child) == like:
            found = list(range(start, start + number))
        start += number
    return found


def _described(tree: Any) -> list[tuple[str, tuple[int, ...], Any]]:
    """Paths, shapes and types of the arrays of a tree, whatever its containers are."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    ]


def _is_leaf(tree: Any) -> bool:
    return jax.tree_util.treedef_is_leaf(jax.tree.structure(tree))


def stopped(equations: Equations, numbers: Collection[int]) -> set[int]:
    """Those of `numbers` that reach the outputs, but only through `stop_gradient`."""
    reached, moved = set(equations.outputs), set(equations.outputs)
    for equation in reversed(equations.equations):
        if not reached.isdisjoint(equation.outputs):
            reached.update(equation.inputs)
        if equation.name != "stop_gradient" and not moved.isdisjoint(equation.outputs):
            moved.update(equation.inputs)
    return {number for number in numbers if number in reached and number not in moved}


def uses(equations: Equations, inputs: Collection[int], params: Collection[int]) -> Uses:
    """How the values that come from no input are used: see `Uses`."""
    reader = _UseReader(equations, inputs, params)
    for equation in equations.equations:
        reader.read(equation)
    return Uses(reader.variances, reader.means, reader.wrapped - reader.other, reader.carried)


class _UseReader:
    """Follows elements of arrays as long as they are themselves, or a number is added to them."""

    def __init__(self, equations: Equations, inputs: Collection[int], params: Collection[int]):
        self.constants = equations.constants
        self.of_inputs = set(inputs)
        self.of_params = set(params)
        arrays = [number for number in (*equations.inputs, *equations.constants) if equations.shapes[number]]
        self.origin = {number: number for number in arrays}
        self.shifted = dict(self.origin)
        self.inverse: set[int] = set()
        self.centred: dict[int, int] = {}
        self.scaled: dict[int, int] = {}
        self.variances: set[int] = set()
        self.means: set[int] = set()
        self.wrapped: set[int] = set()
        self.other: set[int] = set()
        self.carried: set[int] = set()

    def read(self, equation: Equation) -> None:
        inputs, outputs, name = equation.inputs, equation.outputs, equation.name
        for numbers in (self.of_inputs, self.of_params):
            if not numbers.isdisjoint(inputs):
                numbers.update(outputs)
        if name in SAME_ELEMENTS and len(inputs) == len(outputs):
            for known in (self.origin, self.shifted, self.centred, self.scaled):
                known.update((out, known[own]) for own, out in zip(inputs, outputs, strict=True) if own in known)
            self.inverse.update(out for own, out in zip(inputs, outputs, strict=True) if own in self.inverse)
            return
        kinds = self.wrapped if name in _KEYS else self.other
        kinds.update(self.origin[number] for number in inputs if number in self.origin)
        if name in ("dot_general", "conv_general_dilated", "concatenate") and len(inputs) > 1:
            self.contracted(inputs, outputs[0], name)
        elif inputs and outputs:
            self.statistics(name, inputs, outputs[0])

    def contracted(self, inputs: Sequence[int], output: int, name: str) -> None:
        origins = [self.origin[number] for number in inputs if number in self.origin]
        if name == "concatenate":  # of a state and an input, before a layer
            if not self.of_inputs.isdisjoint(inputs):
                self.carried.update(origins)
        elif not self.of_params.isdisjoint(inputs):
            self.carried.update(origins)

    def statistics(self, name: str, inputs: Sequence[int], output: int) -> None:
        """Of operations element by element: what is a variance, and what is subtracted as a mean."""
        first, last = inputs[0], inputs[-1]
        if name in ("sqrt", "rsqrt", "pow") and first in self.shifted and first not in self.of_inputs:
            self.variances.add(self.shifted[first])
            self.inverse.add(output)
            return
        if name in ("add", "max", "mul", "div") and len(inputs) == 2:
            for own, other in ((first, last), (last, first)):
                fixed = other not in self.of_inputs and other not in self.of_params
                if own in self.shifted and fixed and (other not in self.shifted or other in self.constants):
                    self.shifted[output] = self.shifted[own]
                    if own in self.inverse:
                        self.inverse.add(output)
        roots = [number for number in inputs if number in self.inverse]
        if name in ("mul", "div", "integer_pow") and roots and self.of_inputs.isdisjoint(inputs):
            self.inverse.add(output)
        if name == "sub" and last in self.shifted:
            self.centred[output] = self.shifted[last]
        if name == "neg" and first in self.shifted:
            self.centred[output] = self.shifted[first]
        if name in ("mul", "div"):
            self.centred.update((output, self.centred[number]) for number in inputs if number in self.centred)
        if name in ("mul", "div") and roots:
            self.means.update(self.centred[number] for number in inputs if number in self.centred)
            self.scaled.update((output, self.origin[number]) for number in inputs if number in self.origin)
        if (name == "neg" or name == "sub") and last in self.scaled:
            self.means.add(self.scaled[last])
