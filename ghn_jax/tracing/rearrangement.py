"""How operations are read that move elements about: slices, stacks, concatenations, what writes into another value."""

from __future__ import annotations

import dataclasses

from ghn_jax.tracing import layers, relayout
from ghn_jax.tracing.combination import combine, materialise, materialise_all, one_parameter
from ghn_jax.tracing.equations import Equation
from ghn_jax.tracing.reader import Reader
from ghn_jax.tracing.values import CONSTANT, Activation, Constant, Scores, Statistic, TracedParameter, Value, touched


def layout(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    value = values[0]
    if not isinstance(value, TracedParameter):
        return value
    return relayout.change(value, equation.name, equation.params, reader.shape(equation.outputs[0]))


def sliced(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    value, params = values[0], equation.params
    if not isinstance(value, TracedParameter):
        return value
    if any(step != 1 for step in params["strides"] or ()):
        return relayout.lose(value, reader.shape(equation.outputs[0]))
    for axis, (start, stop) in enumerate(zip(params["start_indices"], params["limit_indices"], strict=True)):
        value = relayout.cut(value, axis, start, stop)
    return value


def split(reader: Reader, equation: Equation, values: list[Value]) -> list[Value]:
    value, axis = values[0], equation.params["axis"]
    if not isinstance(value, TracedParameter):
        return [value] * len(equation.outputs)
    pieces, start = [], 0
    for size in equation.params["sizes"]:
        pieces.append(relayout.cut(value, axis, start, start + int(size)))
        start += int(size)
    return pieces


def dynamic_slice(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    value, *indices = values
    if isinstance(value, Constant):
        return touched(next(index for index in indices if not isinstance(index, Constant)))
    if not isinstance(value, TracedParameter):
        return reader.combined(dataclasses.replace(equation, name="slice"), [value])
    sizes = equation.params["slice_sizes"]
    chosen = [axis for axis, size in enumerate(sizes) if size < value.view.shape[axis]]
    if any(isinstance(index, Activation) for index in indices):
        (source, *_) = materialise_all(reader.network, indices, equation.scope)
        return layers.embedding(reader.network, source, value, chosen, equation.scope)
    numbers = equation.inputs[1:]
    if any(numbers[axis] not in reader.known for axis in chosen):
        return relayout.lose(value, reader.shape(equation.outputs[0]))
    for axis in chosen:
        last = value.view.shape[axis] - sizes[axis]
        start = min(max(reader.known[numbers[axis]], 0), last)
        value = relayout.cut(value, axis, start, start + sizes[axis])
    return value


def loop_slice(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    value, index = values[0], equation.params["index"]
    if not isinstance(value, TracedParameter):
        return value
    if index is None:
        return relayout.lose(value, reader.shape(equation.outputs[0]))
    return relayout.pick(value, 0, index)


def concatenate(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    given = [value for value in values if not isinstance(value, Constant)]
    scope, axis = equation.scope, equation.params.get("dimension", 0)
    parameters = [value for value in given if isinstance(value, TracedParameter)]
    if len(parameters) == len(given):
        joined = relayout.join_parameters(parameters, axis)
        return joined if len(given) == len(values) else relayout.lose(joined, reader.shape(equation.outputs[0]))
    scores = [value for value in given if isinstance(value, Scores)]
    if scores and len(scores) + len(parameters) == len(given):
        for parameter in parameters:
            layers.leave(reader.network, parameter, "it is one of the scores, as an attention sink is")
        return Scores(tuple(dict.fromkeys(source for value in scores for source in value.sources)))
    if len(given) == 1:
        return given[0]
    statistics = [value for value in given if isinstance(value, Statistic)]
    if len(statistics) == len(given) and len({value.node for value in statistics}) == 1:
        if any(value.root for value in statistics) or not any(value.largest for value in statistics):
            return statistics[0]
    nodes = materialise_all(reader.network, given, scope)
    if not nodes:
        return CONSTANT
    return Activation(reader.network.join("concat", nodes, scope), direct=len(set(nodes)) > 1)


def stack(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    """A concatenation along a new axis."""
    axis = equation.params.get("axis", 0)
    shape = reader.shape(equation.outputs[0])
    if len(values) < shape[axis]:  # a loop that was entered once
        return relayout.lose(values[0], shape) if isinstance(values[0], TracedParameter) else values[0]
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    expanded: list[Value] = [
        relayout.change(value, "expand_dims", {}, single) if isinstance(value, TracedParameter) else value
        for value in values
    ]
    return concatenate(reader, dataclasses.replace(equation, params={"dimension": axis}), expanded)


def unstack(reader: Reader, equation: Equation, values: list[Value]) -> list[Value]:
    value, axis = values[0], equation.params["axis"]
    if not isinstance(value, TracedParameter):
        return [value] * len(equation.outputs)
    return [relayout.pick(value, axis, index) for index in range(len(equation.outputs))]


def pad(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    given = [value for value in values if not isinstance(value, Constant)]
    if isinstance(given[0], TracedParameter) and len(given) == 1:
        return relayout.lose(given[0], reader.shape(equation.outputs[0]))
    return combine(reader.network, "add", given, equation.scope) if len(given) > 1 else given[0]


_IN_PLACE = {"scatter-add": "add", "scatter-sub": "sub", "scatter-mul": "mul"}
"""What computes with part of a value."""


def update(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    """Operations that write one value into another."""
    shape = reader.shape(equation.outputs[0])
    written = [values[0], values[2] if equation.name.startswith("scatter") else values[1]]
    given = [value for value in written if not isinstance(value, Constant)]
    if not given:
        return CONSTANT
    if len(given) == 1:
        return relayout.lose(given[0], shape) if isinstance(given[0], TracedParameter) else touched(given[0])
    parameters = [value for value in given if isinstance(value, TracedParameter)]
    if len(parameters) == len(given):
        return relayout.lose(one_parameter(reader.network, parameters), shape)
    if len(parameters) == 1 and isinstance(written[0], Activation) and equation.name in _IN_PLACE:
        return combine(reader.network, _IN_PLACE[equation.name], given, equation.scope)
    nodes = materialise_all(reader.network, given, equation.scope)
    kind = "sum" if "-" in equation.name else "concat"
    return Activation(reader.network.join(kind, nodes, equation.scope), direct=True)


def carry(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    """A carry that begins as a constant comes from what the loop reads."""
    for value in values:
        activation = materialise(reader.network, value, equation.scope)
        if activation is not None:
            return Activation(activation.node)
    return CONSTANT
