"""Parameters that a model changes before it uses them: which values make the changed ones those predicted.

  1 + g, exp(s), softplus(s), w * c     element by element: solved for the parameter
  g * v / |v|, exp(s) * v / |v|         v is the prediction, and g or s what makes the product equal to it
  w / |w|, (w - mean) / deviation       the direction is predicted, the scale is the model's own

Anything else is left as it is, with the names of the operations on the way.

Functions are evaluated by the model's own equations, so that no spelling has to be known.  What solves them is compiled
once for all layers, and all graphs, that spell the same: operation by operation it would take seconds for each.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.graphs.graph import Role
from ghn_jax.graphs.tree import Correction
from ghn_jax.tracing.equations import SAME_ELEMENTS, Equation, Equations

_AFFINE = frozenset(("add", "sub", "mul", "div", "neg", "add_any", "select_n"))

_ELEMENTWISE = _AFFINE | frozenset(
    "abs exp exp2 expm1 integer_pow log log1p logistic max min ne pow rsqrt select_n sign sqrt square tanh and or not"
    " eq gt ge lt le is_finite erf sin cos".split()
)

_LAYOUT = SAME_ELEMENTS | {"loop_slice", "rev", "concatenate"}

_MIXTURES = frozenset(("dot_general", "reduce_sum"))
"""Sums of elements: what is predicted for each of several kernels is predicted for their mixture."""

_VECTORS = {Role.NORM_WEIGHT: (0.5, 1.5), Role.BIAS: (-0.5, 0.5)}
"""Values that most predictions of scales and shifts are between."""

_PROBED = 1 << 16
"""Elements of a parameter up to which a function that is not affine is tried out."""

_BISECTIONS = 48
_SOLVERS = 256
"""Compiled programs that are kept."""
_LARGEST = 1e4


@dataclasses.dataclass(frozen=True, eq=False)
class _Function:
    """The part of a program that computes one value from parameters.

    Two are equal if they do the same with values of the same numbers.

    Attributes:
      equations: in order.
      constants: by number.
      target: number of the value.
    """

    equations: tuple[Equation, ...]
    constants: Mapping[int, Any]
    target: int

    @functools.cached_property
    def _key(self) -> Hashable:
        equations = tuple((e.name, e.primitive, tuple(e.params.items()), e.inputs, e.outputs) for e in self.equations)
        arrays = {number: np.asarray(value) for number, value in self.constants.items()}
        constants = tuple((number, array.dtype, array.shape, array.tobytes()) for number, array in arrays.items())
        return equations, constants, self.target

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Function) and self._key == other._key

    def renumbered(self) -> tuple[_Function, Mapping[int, int]]:
        """The function with numbers in the order in which it meets them, and these numbers."""
        met = [number for equation in self.equations for number in (*equation.inputs, *equation.outputs)]
        new = {number: index for index, number in enumerate(dict.fromkeys([*met, self.target]))}

        def renamed(numbers: Sequence[int]) -> tuple[int, ...]:
            return tuple(new[number] for number in numbers)

        equations = tuple(
            dataclasses.replace(equation, inputs=renamed(equation.inputs), outputs=renamed(equation.outputs))
            for equation in self.equations
        )
        constants = {new[number]: value for number, value in self.constants.items() if number in new}
        return _Function(equations, constants, new[self.target]), new

    def __call__(
        self, given: Mapping[int, Any], only_layout: int | None = None, among: Collection[int] | None = None
    ) -> Any:
        """The value for these parameters, by number.

        `only_layout` leaves out what changes elements of that one: all of it, or what makes one of the values `among`.
        """
        values = {**self.constants, **given}
        followed = {only_layout}
        for equation in self.equations:
            inputs = [values[number] for number in equation.inputs]
            passed = equation.name in _LAYOUT or equation.name in _ELEMENTWISE
            passed = passed and (among is None or equation.outputs[0] in among)
            own = [number for number in equation.inputs if number in followed and passed]
            followed.update(equation.outputs if own else ())
            if own and only_layout is not None and equation.name not in _LAYOUT:
                shape = jnp.broadcast_shapes(*(jnp.shape(value) for value in inputs))
                results = [jnp.broadcast_to(values[own[0]], shape)]
            elif equation.name == "loop_slice":
                results = [inputs[0][equation.params["index"]]]
            else:
                result = equation.primitive.bind(*_of_one_precision(inputs), **equation.params)
                results = result if equation.primitive.multiple_results else [result]
            values.update(zip(equation.outputs, results, strict=True))
        return values[self.target]


def corrections(
    equations: Equations, number: int, leaf: int, role: Role, shape: Sequence[int]
) -> tuple[Correction, ...] | str:
    """What makes the value `number`, which an operation uses, the one predicted for parameter `leaf`.

    Args:
      equations: the program.
      number: of the value.
      leaf: index of the parameter.
      role, shape: of the tensor that is predicted.

    Returns:
      Corrections of this and of other parameters, in order; or why no values of it can be found.
    """
    function = function_of(equations, number)
    own = equations.inputs[leaf]
    names = _names_on_the_way(function, own)
    if not names:
        return ()
    refused = f"it goes through {', '.join(sorted(names))} before it is used"
    if function is None:
        return refused if role in _VECTORS else ()
    params = [index for index in range(len(equations.inputs)) if equations.of_params[number] >> index & 1]
    shape_of_own = equations.shapes[own]
    function, new = function.renumbered()
    numbers = {index: new[equations.inputs[index]] for index in params if equations.inputs[index] in new}
    own = numbers[leaf]
    others = {index: other for index, other in numbers.items() if index != leaf}
    if names <= _AFFINE and _is_linear(function, own):
        shapes = {number: equations.shapes[equations.inputs[index]] for index, number in numbers.items()}
        if _meets_itself(function, own) and not _takes_any_values(function, own, shapes):
            return f"no values of it give the predicted ones after {', '.join(sorted(names))}"
        return (_affine_correction(function, own, leaf, others, role is Role.NORM_WEIGHT),)
    if not others and names <= _ELEMENTWISE:
        target = np.linspace(*_range(role, shape), math.prod(shape_of_own), dtype=np.float32)
        if target.size > _PROBED:
            return refused
        return _own_correction(function, own, leaf, target.reshape(shape_of_own), names)
    if role in _VECTORS or not _keeps_direction(function, own):
        return refused
    scales = {index: _scale_values(function, other) for index, other in others.items()}
    return tuple(
        _scale_correction(function, numbers, leaf, index, values) for index, values in scales.items() if values
    )


def _range(role: Role, shape: Sequence[int]) -> tuple[float, float]:
    """Values that most predictions of a tensor are between."""
    fan_in = 2 if role in (Role.POSITION, Role.EMBEDDING) else math.prod(shape[:-1])
    return _VECTORS.get(role, (-((2 / fan_in) ** 0.5), (2 / fan_in) ** 0.5))


def scaled(leaf: int, factor: float) -> Correction:
    """A prediction times a number."""
    return Correction(leaf, lambda values: values[leaf] * np.float32(factor))


def function_of(equations: Equations, number: int) -> _Function | None:
    """The value as a function of parameters; None if it depends on anything else that is not known."""
    kept, needed = _needed(equations.equations, number)
    constants = {}
    runnable = all(
        equation.primitive is not None or (equation.name == "loop_slice" and equation.params["index"] is not None)
        for equation in kept
    )
    for value in needed:
        if value in equations.constants:
            constants[value] = _typed(equations.constants[value], equations.dtypes[value])
        elif value in equations.known:
            constants[value] = _typed(equations.known[value], equations.dtypes[value])
        elif equations.of_params[value] == 0:
            runnable = False
    return _Function(kept, constants, number) if runnable else None


def _typed(value: Any, dtype: Any) -> Any:
    """An array, or a number of the program's type: JAX would give it that of Python's numbers."""
    return value if isinstance(value, jax.Array) else np.asarray(value, dtype)


def _of_one_precision(values: Sequence[Any]) -> Sequence[Any]:
    """Values whose floating-point numbers have the widest type among them: what is given may be wider than the program.

    Parameters of bfloat16 are solved for in float32, beside constants of bfloat16.
    """
    floats = {value.dtype for value in values if jnp.issubdtype(value.dtype, np.floating)}
    if len(floats) < 2:
        return values
    wide = jnp.result_type(*floats)
    return [value.astype(wide) if value.dtype in floats else value for value in values]


def _needed(equations: Sequence[Equation], number: int) -> tuple[tuple[Equation, ...], set[int]]:
    """The equations that a value needs, in order, and the values that none of them makes."""
    needed, kept = {number}, []
    for equation in reversed(equations):
        if not needed.isdisjoint(equation.outputs):
            needed.update(equation.inputs)
            kept.append(equation)
    return tuple(kept[::-1]), needed - {out for equation in kept for out in equation.outputs}


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


def _keeps_direction(function: _Function, own: int) -> bool:
    """Whether a kernel is only shifted and scaled, by whatever it may be, or mixed with others, on the way."""
    followed, reached = {own}, {own}
    for equation in function.equations:
        mine = [number for number in equation.inputs if number in followed]
        divides = equation.name == "div" and equation.inputs[1] in mine
        decides = equation.name == "select_n" and equation.inputs[0] in reached
        passed = equation.name in _LAYOUT or equation.name in _AFFINE or equation.name in _MIXTURES
        passed = passed and (len(mine) == 1 or equation.name not in ("mul", "div", "dot_general"))
        if mine and passed and not divides and not decides:
            followed.update(equation.outputs)
        if not reached.isdisjoint(equation.inputs):
            reached.update(equation.outputs)
    return function.target in followed


def _scale_values(function: _Function, own: int) -> tuple[int, ...]:
    """Numbers of a parameter and of what is computed of it alone, element by element, up to what scales the rest.

    Empty if nothing does.
    """
    if _scales(function, own):
        return (own,)
    alone, used = [own], set()
    for equation in function.equations:
        mine = {number for number in equation.inputs if number in alone}
        known = all(number in mine or number in function.constants for number in equation.inputs)
        if mine and known and (equation.name in _LAYOUT or equation.name in _ELEMENTWISE):
            alone.extend(equation.outputs)
        else:
            used |= mine
    (last,) = used if len(used) == 1 else (own,)
    return (*alone[: alone.index(last)], last) if _scales(function, last) else ()


def _scales(function: _Function, own: int) -> bool:
    """Whether the value is linear in another one, which is multiplied with the rest."""
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
    function: _Function, numbers: Mapping[int, int], leaf: int, scale: int, among: Sequence[int]
) -> Correction:
    """The scale with which the value comes closest to the prediction (least squares).

    The value is linear in the last of the values `among`, which are those of `_scale_values`.
    """
    solve = _solve_scale(function, numbers[leaf], numbers[scale], tuple(among))
    return Correction(scale, lambda values: solve(_given(values, numbers)))


@functools.lru_cache(_SOLVERS)
def _solve_scale(function: _Function, leaf: int, own: int, among: tuple[int, ...]) -> Callable[..., Any]:
    @jax.jit
    def solve(given: Mapping[int, Any]) -> Any:
        target = function(given, only_layout=leaf)

        def of_scale(value: Any) -> Any:
            return function({**given, own: value}, only_layout=own, among=among)

        unit, pull_back = jax.vjp(of_scale, jnp.ones_like(given[own]))
        (products,), (squares,) = pull_back(target.astype(unit.dtype)), pull_back(unit)
        found = products / jnp.where(squares > 0, squares, 1)
        if len(among) == 1:
            return found
        changed = dataclasses.replace(function, equations=_needed(function.equations, among[-1])[0], target=among[-1])
        return _bisect(changed, own, found)

    return solve


def _given(values: Mapping[int, Any], numbers: Mapping[int, int]) -> dict[int, Any]:
    """Values of leaves, by their numbers in a function."""
    return {number: jnp.asarray(values[index]) for index, number in numbers.items()}


def _is_linear(function: _Function, own: int) -> bool:
    """Whether sums, differences, multiples and shares of a parameter with others, but not with itself, are all."""
    followed = {own}
    for equation in function.equations:
        mine = [number for number in equation.inputs if number in followed]
        followed.update(equation.outputs if mine else ())
        both = len(mine) > 1 and equation.name in ("mul", "div")
        divides = equation.name == "div" and equation.inputs[1] in mine
        if both or divides or (equation.name == "select_n" and equation.inputs[0] in mine):
            return False
    return True


def _meets_itself(function: _Function, own: int) -> bool:
    """Whether elements of a parameter are summed with others of the same one, as in `w + w.T`."""
    followed = {own}
    for equation in function.equations:
        mine = [number for number in equation.inputs if number in followed]
        followed.update(equation.outputs if mine else ())
        if len(mine) > 1:
            return True
    return False


def _takes_any_values(function: _Function, own: int, shapes: Mapping[int, tuple[int, ...]]) -> bool:
    """Whether the solution of a linear function solves it: not if it ties elements to each other, as symmetry does."""
    random = np.random.default_rng(0)
    given = {number: jnp.asarray(random.standard_normal(shape), np.float32) for number, shape in shapes.items()}
    target = given.pop(own)
    found = _solve_affine(function, own, positive=False)(target, given)
    at_found, at_target, at_zero = (
        _in_own_layout(function, own, values, given)[0] for values in (found, target, jnp.zeros_like(target))
    )
    moves = at_target != at_zero
    return bool(jnp.allclose(at_found[moves], target[moves], rtol=1e-3, atol=1e-3))


def _affine_correction(
    function: _Function, own: int, leaf: int, others: Mapping[int, int], positive: bool
) -> Correction:
    """Solves for a parameter that is scaled and shifted, by numbers or other parameters.

    A `positive` one stays so where only its sign is changed: that belongs to what is computed with it.
    """

    solve = _solve_affine(function, own, positive)
    return Correction(leaf, lambda values: solve(jnp.asarray(values[leaf]), _given(values, others)))


@functools.lru_cache(_SOLVERS)
def _solve_affine(function: _Function, own: int, positive: bool) -> Callable[..., Any]:
    @jax.jit
    def solve(target: Any, given: Mapping[int, Any]) -> Any:
        offset, uses = _in_own_layout(function, own, jnp.zeros_like(target), given)
        slope = _in_own_layout(function, own, jnp.ones_like(target), given)[0] - offset
        slope = jnp.where((offset == 0) & positive, jnp.abs(slope), slope)
        found = (target - offset) / jnp.where(slope == 0, 1, slope)
        return jnp.where((slope == 0) | (uses == 0), target, found)

    return solve


def _own_correction(
    function: _Function, own: int, leaf: int, target: np.ndarray, names: Collection[str]
) -> tuple[Correction, ...] | str:
    """Solves a function element by element, if it takes the values of `target`, or is constant."""

    solve = _solve_own(function, own)
    values, found = solve(jnp.asarray(target))
    if not (np.isclose(found, target, rtol=0.02, atol=0.02 * np.ptp(target)) | (values == target)).all():
        return f"no values of it give the predicted ones after {', '.join(sorted(names))}"
    return (Correction(leaf, lambda values: solve(jnp.asarray(values[leaf]))[0]),)


@functools.lru_cache(_SOLVERS)
def _solve_own(function: _Function, own: int) -> Callable[[Any], tuple[Any, Any]]:
    @jax.jit
    def solve(target: Any) -> tuple[Any, Any]:
        values = _bisect(function, own, target.astype(jnp.promote_types(target.dtype, np.float32)))
        return values, _in_own_layout(function, own, values, {})[0]

    return solve


def _in_own_layout(function: _Function, own: int, values: Any, given: Mapping[int, Any]) -> tuple[Any, Any]:
    """The function, its results in the places of the elements that they are of; and how often each is used."""
    result, pull_back = jax.vjp(lambda value: function({**given, own: value}, only_layout=own), values)
    (uses,) = pull_back(jnp.ones_like(result))
    (summed,) = pull_back(function({**given, own: values}).astype(result.dtype))
    return jnp.where(uses > 0, summed / jnp.where(uses > 0, uses, 1), values), uses


def _bisect(function: _Function, own: int, target: Any) -> Any:
    """Values whose function is `target`, which is monotone, at least on the side of the positive numbers.

    Elements that do not reach the result, or on which it does not depend, are those of `target`.
    """

    def at(place: Any) -> tuple[Any, Any]:  # numbers are spaced by their logarithms
        values = jnp.sign(place) * jnp.expm1(jnp.abs(place))
        return jnp.nan_to_num(_in_own_layout(function, own, values, {})[0]), values

    end = np.log1p(_LARGEST)
    least, below, half, one, most = (at(jnp.full_like(target, place))[0] for place in (-end, -0.5, 0.5, 1.0, end))
    constant = (least == below) & (below == half) & (half == one) & (one == most)
    rising = one >= half
    high = jnp.full_like(target, end)
    low = jnp.where((half >= below) == rising, -high, 0)

    def halve(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        middle = (low + high) / 2
        more = (at(middle)[0] < target) == rising
        return jnp.where(more, middle, low), jnp.where(more, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    _, uses = _in_own_layout(function, own, target, {})
    return jnp.where((uses > 0) & ~constant, at((low + high) / 2)[1], target)
