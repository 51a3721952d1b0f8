"""Reads a flat program: which equations are nodes of the graph, and which parameters they use."""

from __future__ import annotations

from collections.abc import Callable

from ghn_jax.tracing import contractions, rearrangement, relayout
from ghn_jax.tracing.combination import materialise
from ghn_jax.tracing.equations import SAME_ELEMENTS, SAME_VALUES, Equation, Equations
from ghn_jax.tracing.errors import TraceError
from ghn_jax.tracing.network import TracedNetwork
from ghn_jax.tracing.reader import Reader
from ghn_jax.tracing.states import RANDOM_OPERATIONS
from ghn_jax.tracing.values import CONSTANT, Constant, TracedParameter, Value

ELEMENTWISE = SAME_VALUES | frozenset(
    "abs acos acosh add add_any all_to_all and approx_top_k asin asinh atan atan2 atanh bessel_i0e bessel_i1e"
    " bitcast_convert_type branches cbrt ceil clamp clz complex conj cos cosh cumlogsumexp cummax cummin cumprod"
    " cumsum decided digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 fft floor ge gt igamma igammac imag"
    " integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul mulhi ne neg nextafter not or"
    " pmax pmin polygamma population_count pow ppermute real reduce_scatter regularized_incomplete_beta rem round"
    " rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sort sqrt square sub tan"
    " tanh top_k xor zeta"
    " nonbatchable unvmap_all unvmap_any unvmap_max select_if_vmap maybe_set".split()  # these of Equinox
)
"""Operations that compute every element of their outputs from elements of their inputs, one node's with one node's."""


def read(equations: Equations, network: TracedNetwork, values: dict[int, Value]) -> list[int]:
    """Adds the nodes of a program to `network`; returns those of the outputs.

    Args:
      equations: the program.
      network: with the nodes of the inputs.
      values: what is known of the program's inputs, by number.
    """
    reader = Reader(equations, network, values)
    network.unsupported |= dict.fromkeys(equations.unfollowed)
    for equation in tuple(equations.equations):  # rules may append to them
        _read(reader, equation)
    outputs = [materialise(network, reader.value(number), "output") for number in equations.outputs]
    return list(dict.fromkeys(output.node for output in outputs if output is not None))


def _read(reader: Reader, equation: Equation) -> None:
    values = [reader.value(number) for number in equation.inputs]
    if equation.name.startswith(RANDOM_OPERATIONS) or all(isinstance(value, Constant) for value in values):
        return
    default = _elementwise if equation.name in ELEMENTWISE else Reader.unknown
    try:
        result = _RULES.get(equation.name, default)(reader, equation, values)
    except Exception as error:  # a rule that fails, however it does: the user learns at which operation
        place = equation.scope or "the model"
        raise TraceError(f"{equation.name!r} in {place} cannot be read: {error!r}") from error
    results = result if isinstance(result, list) else [result] * len(equation.outputs)
    for number, value in zip(equation.outputs, results, strict=True):
        reader.values[number] = reader.numbered(number, value)


def _elementwise(reader: Reader, equation: Equation, values: list[Value]) -> Value | list[Value]:
    if equation.name == "eq" and any(isinstance(value, Constant) for value in values):
        reader.one_hot.update(equation.outputs)
    if equation.name in SAME_ELEMENTS and not reader.one_hot.isdisjoint(equation.inputs):
        reader.one_hot.update(equation.outputs)
    axes = equation.params.get("axes", ()) if equation.name in ("psum", "pmax", "pmin") else ()
    if len(values) == 1 and axes and all(isinstance(axis, int) for axis in axes):  # of a mapped function
        return contractions.reduction(reader, equation, values)
    if equation.name in ("branches", "decided"):
        return _decided(reader, equation, values)
    selects = equation.name in ("select_n", "select_if_vmap")
    if selects and not all(isinstance(value, Constant) for value in values[1:]):
        values = values[1:]  # what decides which value it is, is not part of it
    if 1 < len(equation.outputs) == len(values):
        return values  # optimization_barrier, sort, psum: one output for every input
    return reader.combined(equation, values)


def _decided(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    """A value, or one of several: what decides which it is, is not part of it."""
    by, others = (values[0], values[1:]) if equation.name == "branches" else (values[1], values[:1])
    if isinstance(by, TracedParameter):
        reader.network.deciding.update(part.leaf for part in by.parts)
    if all(isinstance(value, Constant) for value in others):
        return CONSTANT
    return others[0] if equation.name == "decided" else reader.combined(equation, others)


_RULES: dict[str, Callable[[Reader, Equation, list[Value]], Value | list[Value]]] = {
    **dict.fromkeys(relayout.OPERATIONS, rearrangement.layout),
    "slice": rearrangement.sliced,
    "split": rearrangement.split,
    "dynamic_slice": rearrangement.dynamic_slice,
    "loop_slice": rearrangement.loop_slice,
    "loop_carry": rearrangement.carry,
    "loop_stack": rearrangement.stack,
    "stack": rearrangement.stack,
    "unstack": rearrangement.unstack,
    "concatenate": rearrangement.concatenate,
    "pad": rearrangement.pad,
    "dot_general": contractions.dot_general,
    "ragged_dot_general": contractions.ragged_dot,
    "conv_general_dilated": contractions.convolution,
    **dict.fromkeys(
        "reduce reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin".split(),
        contractions.reduction,
    ),
    **dict.fromkeys(
        ("reduce_window_max", "reduce_window_sum", "reduce_window_min", "reduce_window"), contractions.window
    ),
    "gather": contractions.gather,
    **dict.fromkeys(
        "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max dynamic_update_slice".split(),
        rearrangement.update,
    ),
}
