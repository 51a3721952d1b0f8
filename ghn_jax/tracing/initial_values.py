"""How large a model's own initial values are, as far as that decides what is predicted.

Norm weights and biases are predicted within bounds.  A model that starts one beyond them does so on purpose (the time
steps of a state space model behind a softplus, the prior of a detector): what was read as a bias is more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jax.extend import core

from ghn_jax.graphs.graph import Role
from ghn_jax.tracing.corrections import function_of
from ghn_jax.tracing.equations import SAME_ELEMENTS, Equations, flatten

LARGEST_PREDICTED = {Role.BIAS: 1.0, Role.NORM_WEIGHT: 2.0}
"""Bounds of predicted values: the paper's normalisation of a bias is tanh(0.2 p), that of a norm weight 2 sigmoid(p/2)
(Knyazev et al. 2021, section 4.4)."""

Magnitudes = Callable[[Sequence[int]], Sequence[float | None]]
"""Root mean squares of the initial values of leaves with these indices; None for one that has none."""


def beyond(roles: Mapping[int, Role], magnitudes: Magnitudes) -> dict[int, str]:
    """Why some of these leaves, to be predicted as norm weights or biases, are better left, by index."""
    indices = [index for index, role in roles.items() if role in LARGEST_PREDICTED]
    found = {}
    for index, size in zip(indices, magnitudes(indices), strict=True):
        most, word = LARGEST_PREDICTED[roles[index]], "bias" if roles[index] is Role.BIAS else "norm weight"
        if size is not None and size > most:
            found[index] = f"its own initial values ({size:.2g}) are larger than any prediction of a {word} ({most:g})"
    return found


def of_arrays(values: Sequence[Any]) -> Magnitudes:
    """Of arrays that exist; shapes alone and values that are being traced have no magnitude."""

    def magnitudes(indices: Sequence[int]) -> list[float | None]:
        chosen = [values[index] for index in indices]
        known = [not isinstance(value, (jax.ShapeDtypeStruct, jax.core.Tracer)) for value in chosen]
        return [root_mean_square(value) if is_known else None for value, is_known in zip(chosen, known, strict=True)]

    return magnitudes


def of_program(staged: core.ClosedJaxpr, outputs: Sequence[int]) -> Magnitudes:
    """Of the outputs of an initialiser, whose first input is the seed.

    Nothing is run for those that are filled with a number, as biases mostly are.
    """

    def magnitudes(indices: Sequence[int]) -> list[float | None]:
        if not indices:
            return []
        program = flatten(_only(staged, [outputs[index] for index in indices]), 1, ())
        parts = [_parts(program, number) for number in program.outputs]
        numbers = list(dict.fromkeys(number for found in parts for number in found))
        sizes = {n: root_mean_square(program.constants[n]) for n in numbers if n in program.constants}
        others = [number for number in numbers if number not in sizes]
        known: dict[int, float | None] = {**sizes, **dict(zip(others, _computed(program, others), strict=True))}
        return [_joined([known[number] for number in found]) for found in parts]

    return magnitudes


def root_mean_square(values: Any) -> float:
    """Of all elements; 0 if there are none."""
    array = np.asarray(values)
    return float(np.sqrt(np.mean(np.square(np.abs(array), dtype=np.float64)))) if array.size else 0.0


def _only(closed: core.ClosedJaxpr, outputs: Sequence[int]) -> core.ClosedJaxpr:
    """The program of some of the outputs, without the equations that they do not need."""
    jaxpr = closed.jaxpr
    chosen = [jaxpr.outvars[index] for index in outputs]
    needed, kept = {var for var in chosen if not isinstance(var, core.Literal)}, []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(atom for atom in equation.invars if not isinstance(atom, core.Literal))
            kept.append(equation)
    return core.ClosedJaxpr(jaxpr.replace(eqns=kept[::-1], outvars=chosen), closed.consts)


def _parts(program: Equations, output: int) -> list[int]:
    """The values, of one size, that a value is a layout of or, in a loop over layers, a stack of."""
    made = {number: equation for equation in program.equations for number in equation.outputs}
    found, waiting = [], [output]
    while waiting:
        number = waiting.pop()
        name, inputs = (made[number].name, made[number].inputs) if number in made else ("", ())
        one = name in SAME_ELEMENTS and len(inputs) == 1
        if one or (name == "loop_stack" and len(inputs) == program.shapes[number][0]):
            waiting.extend(inputs)
        else:
            found.append(number)
    return found


def _joined(sizes: Sequence[float | None]) -> float | None:
    """The root mean square of several values of one size."""
    known = [size for size in sizes if size is not None]
    return root_mean_square(known) if len(known) == len(sizes) else None


def _computed(program: Equations, numbers: Sequence[int]) -> list[float | None]:
    """The magnitudes of values that depend on the seed, compiled together; None for what cannot be run alone."""
    functions = [function_of(program, number) for number in numbers]
    seed = program.inputs[0]
    runnable = [function for function in functions if function is not None]
    values = iter(
        jax.jit(lambda key: [function({seed: key}) for function in runnable])(np.int32(0)) if runnable else ()
    )
    return [None if function is None else root_mean_square(next(values)) for function in functions]
