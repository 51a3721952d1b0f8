"""Parameters that a model changes before it uses them: which values make the changed ones those predicted.

  1 + g, exp(s), softplus(s), w * c     element by element: solved for the parameter
  g * v / |v|                           v is the prediction, and g what makes the product equal to it
  w / |w|, (w - mean) / deviation       the direction is predicted, the scale is the model's own

Functions are evaluated by the model's own equations, so that no spelling has to be known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.graphs.tree import Correction
from ghn_jax.tracing.equations import Equation, Equations
from ghn_jax.tracing.states import SAME_ELEMENTS

_AFFINE = frozenset(("add", "sub", "mul", "div", "neg", "add_any"))

_ELEMENTWISE = _AFFINE | frozenset(
    "abs exp exp2 expm1 integer_pow log log1p logistic max min ne pow rsqrt select_n sign sqrt square tanh and or not"
    " eq gt ge lt le is_finite erf sin cos".split()
)

_LAYOUT = SAME_ELEMENTS | {"loop_slice", "rev"}

_PROBED = 1 << 16
"""Elements of a parameter up to which a function that is not affine is tried out."""

_BISECTIONS = 48
_LARGEST = 1e4


@dataclasses.dataclass(frozen=True)
class _Function:
    """The part of a program that computes one value from parameters.

    Attributes:
      equations: in order.
      constants: by number.
      target: number of the value.
    """

    equations: tuple[Equation, ...]
    constants: Mapping[int, Any]
    target: int

    def __call__(self, given: Mapping[int, Any], only_layout: int | None = None) -> Any:
        """The value for these parameters, by number; `only_layout` leaves out what changes elements of that one."""
        values = {**self.constants, **given}
        followed = {only_layout}
        for equation in self.equations:
            inputs = [values[number] for number in equation.inputs]
            passed = equation.name in _LAYOUT or equation.name in _ELEMENTWISE
            own = [number for number in equation.inputs if number in followed and passed]
            followed.update(equation.outputs if own else ())
            if own and only_layout is not None and equation.name not in _LAYOUT:
                shape = jnp.broadcast_shapes(*(jnp.shape(value) for value in inputs))
                results = [jnp.broadcast_to(values[own[0]], shape)]
            elif equation.name == "loop_slice":
                results = [inputs[0][equation.params["index"]]]
            else:
                result = equation.primitive.bind(*inputs, **equation.params)
                results = result if equation.primitive.multiple_results else [result]
            values.update(zip(equation.outputs, results, strict=True))
        return values[self.target]


def corrections(equations: Equations, number: int, leaf: int, vector: bool) -> tuple[Correction, ...] | str:
    """What makes the value `number`, which an operation uses, the one predicted for parameter `leaf`.

    Args:
      equations: the program.
      number: of the value.
      leaf: index of the parameter.
      vector: it scales or shifts, and is not a kernel.

    Returns:
      Corrections of this and of other parameters, in order; or why no values of it can be found.
    """
    function = function_of(equations, number)
    own = equations.inputs[leaf]
    names = _names_on_the_way(function, own)
    if not names:
        return ()
    word = ", ".join(sorted(names - _LAYOUT))
    if function is None:
        return () if not vector else f"it goes through {word} before it is used"
    params = [index for index in range(len(equations.inputs)) if equations.of_params[number] >> index & 1]
    others = [index for index in params if index != leaf]
    given = {index: equations.inputs[index] for index in others}
    if names <= _AFFINE and _is_linear(function, own):
        return (_affine_correction(function, own, leaf, given),)
    if not others and names <= _ELEMENTWISE:
        return _own_correction(function, own, leaf, equations.shapes[own], word)
    if vector:
        return f"it goes through {word} before it is used"
    return tuple(
        _scale_correction(function, equations.inputs, params, leaf, other)
        for other in others
        if _scales(function, equations.inputs[other])
    )


def scaled(leaf: int, factor: float) -> Correction:
    """A prediction times a number."""
    return Correction(leaf, lambda values: values[leaf] * np.float32(factor))


def function_of(equations: Equations, number: int) -> _Function | None:
    """The value as a function of parameters; None if it depends on anything else that is not known."""
    needed, kept, constants = {number}, [], {}
    for equation in reversed(equations.equations):
        if not needed.isdisjoint(equation.outputs):
            needed.update(equation.inputs)
            kept.append(equation)
    made = {out for equation in kept for out in equation.outputs}
    runnable = all(
        equation.primitive is not None or (equation.name == "loop_slice" and equation.params["index"] is not None)
        for equation in kept
    )
    for value in needed - made:
        if value in equations.constants:
            constants[value] = equations.constants[value]
        elif value in equations.known:
            constants[value] = equations.known[value]
        elif equations.of_params[value] == 0:
            runnable = False
    return _Function(tuple(kept[::-1]), constants, number) if runnable else None


def _names_on_the_way(function: _Function | None, own: int) -> frozenset[str]:
    """Operations that change elements, between a parameter and the value."""
    if function is None:
        return frozenset(("a computation",))
    followed, names = {own}, set()
    for equation in function.equations:
        if not followed.isdisjoint(equation.inputs):
            followed.update(equation.outputs)
            names.add(equation.name)
    return frozenset(names - _LAYOUT)


def _scales(function: _Function, own: int) -> bool:
    """Whether the value is linear in a parameter, which is multiplied with the rest."""
    followed = {own}
    for equation in function.equations:
        mine = [number for number in equation.inputs if number in followed]
        if not mine:
            continue
        if equation.name not in _LAYOUT and equation.name != "neg":
            numerator = equation.name == "div" and mine == [equation.inputs[0]]
            if not numerator and (equation.name != "mul" or len(mine) != 1):
                return False
        followed.update(equation.outputs)
    return function.target in followed


def _scale_correction(
    function: _Function, numbers: Sequence[int], params: Sequence[int], leaf: int, scale: int
) -> Correction:
    """The scale with which the value comes closest to the prediction (least squares)."""

    def solve(values: Mapping[int, Any]) -> Any:
        given = {numbers[index]: jnp.asarray(values[index]) for index in params}
        target = function(given, only_layout=numbers[leaf])

        def of_scale(value: Any) -> Any:
            return function({**given, numbers[scale]: value})

        unit, pull_back = jax.vjp(of_scale, jnp.ones_like(given[numbers[scale]]))
        (products,), (squares,) = pull_back(target.astype(unit.dtype)), pull_back(unit)
        return products / jnp.where(squares > 0, squares, 1)

    return Correction(scale, solve)


def _is_linear(function: _Function, own: int) -> bool:
    """Whether sums, differences, multiples and shares of a parameter with others, but not with itself, are all."""
    followed = {own}
    for equation in function.equations:
        mine = [number for number in equation.inputs if number in followed]
        followed.update(equation.outputs if mine else ())
        both = len(mine) > 1 and equation.name in ("mul", "div")
        if both or (equation.name == "div" and equation.inputs[1] in mine):
            return False
    return True


def _affine_correction(function: _Function, own: int, leaf: int, others: Mapping[int, int]) -> Correction:
    """Solves for a parameter that is scaled and shifted, by numbers or other parameters."""

    def solve(values: Mapping[int, Any]) -> Any:
        target = jnp.asarray(values[leaf])
        given = {number: jnp.asarray(values[index]) for index, number in others.items()}
        offset, uses = _in_own_layout(function, own, jnp.zeros_like(target), given)
        slope = _in_own_layout(function, own, jnp.ones_like(target), given)[0] - offset
        found = (target - offset) / jnp.where(slope == 0, 1, slope)
        return jnp.where((slope == 0) | (uses == 0), target, found)

    return Correction(leaf, solve)


def _own_correction(
    function: _Function, own: int, leaf: int, shape: tuple[int, ...], word: str
) -> tuple[Correction, ...] | str:
    """Solves a function element by element, if it takes the values that norm layers have."""

    def solve(values: Mapping[int, Any]) -> Any:
        return _bisect(function, own, jnp.asarray(values[leaf]))

    if np.prod(shape) > _PROBED:
        return f"it goes through {word} before it is used"
    target = jnp.linspace(0.5, 1.5, int(np.prod(shape)), dtype=jnp.float32).reshape(shape)
    found = _in_own_layout(function, own, solve({leaf: target}), {})[0]
    if not np.allclose(found, target, rtol=0.02):
        return f"no values of it give the predicted ones after {word}"
    return (Correction(leaf, solve),)


def _in_own_layout(function: _Function, own: int, values: Any, given: Mapping[int, Any]) -> tuple[Any, Any]:
    """The function, its results in the places of the elements that they are of; and how often each is used."""
    result, pull_back = jax.vjp(lambda value: function({**given, own: value}, only_layout=own), values)
    (uses,) = pull_back(jnp.ones_like(result))
    (summed,) = pull_back(function({**given, own: values}).astype(result.dtype))
    return jnp.where(uses > 0, summed / jnp.where(uses > 0, uses, 1), values), uses


def _bisect(function: _Function, own: int, target: Any) -> Any:
    """Values whose function is `target`, which is monotone, at least on the side of the positive numbers.

    Elements that do not reach the result are those of `target`.
    """

    def at(place: Any) -> tuple[Any, Any]:  # numbers are spaced by their logarithms
        values = jnp.sign(place) * jnp.expm1(jnp.abs(place))
        return jnp.nan_to_num(_in_own_layout(function, own, values, {})[0]), values

    below, half, one = (at(jnp.full_like(target, place))[0] for place in (-0.5, 0.5, 1.0))
    rising = one >= half
    monotone = (half >= below) == rising
    high = jnp.full_like(target, np.log1p(_LARGEST))
    low = jnp.where(monotone, -high, 0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        more = (at(middle)[0] < target) == rising
        low, high = jnp.where(more, middle, low), jnp.where(more, high, middle)
    _, uses = _in_own_layout(function, own, target, {})
    return jnp.where(uses > 0, at((low + high) / 2)[1], target)
