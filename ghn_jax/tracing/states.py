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
import math
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

_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0, "abs": 1.0}
"""Powers that operations raise to; `abs` is of a variance that rounding may make negative."""

RANDOM_OPERATIONS = ("random_", "threefry2x32", "rng_")
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


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern, as for `fnmatch`, fits a whole path, or its beginning up to a "/"."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*")


def by_name(name: str, patterns: Sequence[str], collections: Collection[str]) -> str | None:
    """Why a leaf at this path is no parameter by its name.

    Args:
      name: its path, joined by "/".
      patterns: of the caller (`fits`).
      collections: first names of paths that stand beside "params".
    """
    if any(fits(name, pattern) for pattern in patterns):
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
    keys = only_through(equations, given, RANDOM_OPERATIONS)
    stopped = only_through(equations, given, ("stop_gradient",))
    return Uses(reader.variances, reader.means, keys, stopped, reader.carried)


class _UseReader:
    """Follows elements of arrays as long as they are themselves, or numbers are added to them and multiplied with them.

    Attributes:
      origin: the array whose elements a value has, as they are.
      powers: the array, with a number added or multiplied, and the power of it that a value is.
      logs: the same for values that are the logarithm of such a power, multiplied.
      numbers: constants that are one number, and logarithms of them.
      shares: values that are an array times a number between 0 and 1, as in a moving average.
      apart: the array that a value is the difference of, to something that comes from the inputs.
      centred: the array that was subtracted from a value.
      scaled: the array that was divided by the root of another one.
      of_elements: all of these, which keep what they know of a value whose elements only change places.
    """

    def __init__(self, equations: Equations, inputs: Collection[int], params: Collection[int]):
        self.constants = equations.constants
        self.dtypes = equations.dtypes
        self.of_inputs = set(inputs)
        self.of_params = set(params)
        arrays = [number for number in (*equations.inputs, *equations.constants) if equations.shapes[number]]
        self.origin = {number: number for number in arrays}
        self.powers = {number: (number, 1.0) for number in arrays}
        self.logs: dict[int, tuple[int, float]] = {}
        self.numbers: dict[int, float] = {}
        self.shares: dict[int, int] = {}
        self.apart: dict[int, int] = {}
        self.centred: dict[int, int] = {}
        self.scaled: dict[int, int] = {}
        self.of_elements: tuple[dict[int, Any], ...] = (
            self.origin, self.powers, self.logs, self.numbers, self.shares, self.apart, self.centred, self.scaled
        )  # fmt: skip
        self.variances: set[int] = set()
        self.means: set[int] = set()
        self.carried: set[int] = set()

    def read(self, equation: Equation) -> None:
        inputs, outputs, name = equation.inputs, equation.outputs, equation.name
        for numbers in (self.of_inputs, self.of_params):
            if not numbers.isdisjoint(inputs):
                numbers.update(outputs)
        if name in SAME_ELEMENTS and len(inputs) == len(outputs):
            for known in self.of_elements:
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
        last = inputs[-1]
        self.follow_power(equation)
        self.follow_average(equation)
        divisors = self.divisors(equation)
        if divisors and len(inputs) == 2 and self.constants.keys().isdisjoint(inputs):  # else it is an inverse root
            self.variances.update(divisors)
        if divisors and self.of_inputs.isdisjoint(inputs):  # a factor, such as a scale times the inverse root
            self.powers[output] = divisors[0], -0.5
        if name in ("sub", "neg") and self.power(last) == 1:
            self.centred[output] = self.powers[last][0]
        if name in ("mul", "div"):
            self.centred.update((output, self.centred[number]) for number in inputs if number in self.centred)
        if divisors:
            self.means.update(self.centred[number] for number in inputs if number in self.centred)
            self.scaled.update((output, self.origin[number]) for number in inputs if number in self.origin)
        if (name == "neg" or name == "sub") and last in self.scaled:
            self.means.add(self.scaled[last])

    def follow_power(self, equation: Equation) -> None:
        """What is a power of an array, or the logarithm of one."""
        name, inputs, output = equation.name, equation.inputs, equation.outputs[0]
        first, last = inputs[0], inputs[-1]
        if first in self.powers and name in (*_POWERS, "pow", "integer_pow"):
            self.powers[output] = self.raised(first, self.exponent(equation))
        elif first in self.powers and name == "log":
            self.logs[output] = self.powers[first]
        elif first in self.logs and name in ("exp", "exp2"):
            origin, power = self.logs[first]
            self.powers[output] = origin, power * (math.log(2) if name == "exp2" else 1)
        elif first in self.logs and name == "neg":
            self.logs[output] = self.logs[first][0], -self.logs[first][1]
        number = self.number(first)
        if name == "log" and number is not None and number > 0:
            self.numbers[output] = math.log(number)
        if name not in ("add", "add_any", "max", "mul", "div", "sub") or len(inputs) != 2:
            return
        for own, other in ((first, last), (last, first)):
            factor = self.number(other)
            if own in self.logs and factor and (name == "mul" or (name == "div" and own == first)):
                origin, power = self.logs[own]
                self.logs[output] = origin, power * factor if name == "mul" else power / factor
            if own in self.powers and name != "sub" and self.is_fixed(other):
                self.powers[output] = self.raised(own, -1 if name == "div" and own == last else 1)
                if name == "mul" and factor is not None and 0 < factor < 1 and self.power(own) == 1:
                    self.shares[output] = self.powers[own][0]

    def follow_average(self, equation: Equation) -> None:
        """An array that is averaged with what comes from the inputs: as `m a + (1 - m) x` or as `a + m (x - a)`."""
        output = equation.outputs[0]
        if equation.name in ("mul", "div"):
            self.apart.update((output, self.apart[number]) for number in equation.inputs if number in self.apart)
        if equation.name not in ("add", "add_any", "sub") or len(equation.inputs) != 2:
            return
        first, last = equation.inputs
        for own, other in ((first, last), (last, first)):
            if own in self.of_inputs or other not in self.of_inputs or self.power(own) != 1:
                continue
            array = self.powers[own][0]
            if equation.name == "sub":
                self.apart[output] = array
            if (own in self.shares and equation.name != "sub") or (own == first and self.apart.get(other) == array):
                self.powers[output] = array, 1.0

    def is_fixed(self, number: int) -> bool:
        """Whether a value depends on no input and no array but those that are constants."""
        of_outside = number in self.of_inputs or number in self.of_params
        return not of_outside and (number not in self.powers or number in self.constants)

    def number(self, value: int) -> float | None:
        """A constant that is one real number."""
        constant = self.constants.get(value, ())
        if value not in self.numbers and np.ndim(constant) == 0 and jnp.issubdtype(self.dtypes[value], np.floating):
            self.numbers[value] = float(constant)
        return self.numbers.get(value)

    def power(self, number: int) -> float:
        """Which power of an array a value is; 0 of others."""
        return round(self.powers[number][1], 4) if number in self.powers else 0

    def raised(self, number: int, exponent: float) -> tuple[int, float]:
        origin, power = self.powers[number]
        return origin, power * exponent

    def exponent(self, equation: Equation) -> float:
        """To which power an operation raises its first operand; 0 if that is not known."""
        if equation.name == "pow":
            return self.number(equation.inputs[1]) or 0
        return equation.params["y"] if equation.name == "integer_pow" else _POWERS[equation.name]

    def divisors(self, equation: Equation) -> list[int]:
        """Variances by whose roots something is divided, or with whose inverse roots it is multiplied."""
        name, inputs = equation.name, equation.inputs
        if name not in ("mul", "div"):
            return []
        factors = inputs if name == "mul" else inputs[:1]
        found = [self.powers[number][0] for number in factors if self.power(number) == -0.5]
        return found + [self.powers[number][0] for number in inputs[1:] if name == "div" and self.power(number) == 0.5]
