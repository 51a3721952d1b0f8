"""Which arrays are no parameters: what a model keeps beside them, and random keys.

An array is a state for the first of these reasons that holds:

  type      a random key, an integer or a truth value; a variable of NNX that is no `Param`
  user      named by the caller
  name      a collection beside "params", or a name that frameworks give running statistics
  returned  an argument that comes back beside the output (Haiku, Equinox, Keras)
  use       a running variance, whose root divides activations; the mean that goes with it
  gradient  it reaches the output through `stop_gradient` only
  random    it reaches the output through random numbers only
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.tracing.equations import SAME_ELEMENTS, Equation, Equations

_STATISTICS = re.compile(
    r"batch_stats|num_batches_tracked|(running|moving)_(mean|var|std|avg|average)\w*|(mean|var)_ema|ema_(mean|var)"
)

RANDOM = ("random_", "threefry2x32", "rng_")
"""How the names of operations begin that make random numbers of keys."""


class Uses(NamedTuple):
    """How values are used: numbers of running variances, of means, of keys and counters that only make random numbers,
    of those under `stop_gradient`, and of activations carried on.

    An activation that is carried from call to call, as in a recurrent network, is contracted with a parameter.
    """

    variances: set[int]
    means: set[int]
    keys: set[int]
    stopped: set[int]
    carried: set[int]


def by_type(array: Any) -> str | None:
    """Why an array is no parameter by its type; None for floating point numbers."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return "a random key"
    if not jnp.issubdtype(array.dtype, np.inexact):
        return f"its type is {np.dtype(array.dtype).name}, only floating point numbers are predicted"
    return None


def by_variable(tree: Any) -> list[str | None]:
    """Why each array of a tree is no parameter by the type of the NNX variable that it is in."""
    nnx = sys.modules.get("flax.nnx")  # a variable exists only where NNX was imported
    found: list[str | None] = []
    for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: nnx is not None and isinstance(leaf, nnx.Variable)):
        is_state = nnx is not None and isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.Param)
        reason = f"of type {type(leaf).__name__}, no Param" if is_state else None
        found += [reason for array in jax.tree.leaves(leaf) if hasattr(array, "shape") and hasattr(array, "dtype")]
    return found


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


def only_through(equations: Equations, numbers: Collection[int], names: tuple[str, ...]) -> set[int]:
    """Those of `numbers` that reach the outputs, but only through operations whose names begin so."""
    reached, moved = set(equations.outputs), set(equations.outputs)
    for equation in reversed(equations.equations):
        if not reached.isdisjoint(equation.outputs):
            reached.update(equation.inputs)
        if not equation.name.startswith(names) and not moved.isdisjoint(equation.outputs):
            moved.update(equation.inputs)
    return {number for number in numbers if number in reached and number not in moved}


def uses(equations: Equations, inputs: Collection[int], params: Collection[int]) -> Uses:
    """How the values that come from no input are used: see `Uses`."""
    reader = _UseReader(equations, inputs, params)
    for equation in equations.equations:
        reader.read(equation)
    given = (*equations.inputs, *equations.constants)
    keys, stopped = only_through(equations, given, RANDOM), only_through(equations, given, ("stop_gradient",))
    return Uses(reader.variances, reader.means, keys, stopped, reader.carried)


class _UseReader:
    """Follows elements of arrays as long as they are themselves, or a number is added to them."""

    def __init__(self, equations: Equations, inputs: Collection[int], params: Collection[int]):
        self.constants = equations.constants
        self.of_inputs = set(inputs)
        self.of_params = set(params)
        arrays = [number for number in (*equations.inputs, *equations.constants) if equations.shapes[number]]
        self.origin = {number: number for number in arrays}
        self.shifted = dict(self.origin)
        self.roots: dict[int, int] = {}
        self.inverse: dict[int, int] = {}
        self.centred: dict[int, int] = {}
        self.scaled: dict[int, int] = {}
        self.variances: set[int] = set()
        self.means: set[int] = set()
        self.carried: set[int] = set()

    def read(self, equation: Equation) -> None:
        inputs, outputs, name = equation.inputs, equation.outputs, equation.name
        for numbers in (self.of_inputs, self.of_params):
            if not numbers.isdisjoint(inputs):
                numbers.update(outputs)
        if name in SAME_ELEMENTS and len(inputs) == len(outputs):
            for known in (self.origin, self.shifted, self.roots, self.inverse, self.centred, self.scaled):
                known.update((out, known[own]) for own, out in zip(inputs, outputs, strict=True) if own in known)
            return
        if name in ("dot_general", "conv_general_dilated", "concatenate") and len(inputs) > 1:
            # An activation that is carried on goes through a layer, alone or together with an input.
            beside = self.of_inputs if name == "concatenate" else self.of_params
            if not beside.isdisjoint(inputs):
                self.carried.update(self.origin[number] for number in inputs if number in self.origin)
        elif inputs and outputs:
            self.statistics(equation)

    def statistics(self, equation: Equation) -> None:
        """Of operations element by element: what is a variance, and what is subtracted as a mean."""
        name, inputs, output = equation.name, equation.inputs, equation.outputs[0]
        first, last = inputs[0], inputs[-1]
        if first in self.shifted and first not in self.of_inputs and (power := self.root(equation)):
            (self.roots if power > 0 else self.inverse)[output] = self.shifted[first]
            return
        if name == "abs" and first in self.shifted:  # of a variance that rounding may make negative
            self.shifted[output] = self.shifted[first]
        if name in ("add", "max", "mul", "div") and len(inputs) == 2:
            for own, other in ((first, last), (last, first)):
                fixed = other not in self.of_inputs and other not in self.of_params
                if own in self.shifted and fixed and (other not in self.shifted or other in self.constants):
                    self.shifted[output] = self.shifted[own]
                if own in self.roots and fixed and not (name == "div" and own == last):
                    self.roots[output] = self.roots[own]
        divisors = self.divisors(equation)
        if divisors:
            if len(inputs) == 2 and self.constants.keys().isdisjoint(inputs):  # else it is the inverse of the root
                self.variances.update(divisors)
            if self.of_inputs.isdisjoint(inputs):
                self.inverse[output] = divisors[0]
        if name == "sub" and last in self.shifted:
            self.centred[output] = self.shifted[last]
        if name == "neg" and first in self.shifted:
            self.centred[output] = self.shifted[first]
        if name in ("mul", "div"):
            self.centred.update((output, self.centred[number]) for number in inputs if number in self.centred)
        if divisors:
            self.means.update(self.centred[number] for number in inputs if number in self.centred)
            self.scaled.update((output, self.origin[number]) for number in inputs if number in self.origin)
        if (name == "neg" or name == "sub") and last in self.scaled:
            self.means.add(self.scaled[last])

    def root(self, equation: Equation) -> float:
        """The power of a square root or of its inverse, 0 of other operations."""
        if equation.name == "pow":
            power = self.constants.get(equation.inputs[1], 0)
            return float(power) if np.ndim(power) == 0 and abs(power) == 0.5 else 0
        return {"sqrt": 0.5, "rsqrt": -0.5}.get(equation.name, 0)

    def divisors(self, equation: Equation) -> list[int]:
        """Variances by whose roots something is divided, or with whose inverse roots it is multiplied."""
        name, inputs = equation.name, equation.inputs
        if name == "integer_pow" and equation.params["y"] == -1:
            return [self.roots[number] for number in inputs if number in self.roots]
        if name not in ("mul", "div"):
            return []
        factors = inputs if name == "mul" else inputs[:1]
        found = [self.inverse[number] for number in factors if number in self.inverse]
        return found + [self.roots[number] for number in inputs[1:] if name == "div" and number in self.roots]
