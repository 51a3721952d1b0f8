"""How operations are read that contract axes: products, convolutions, reductions, pooling; and look-ups in tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ghn_jax.tracing import layers, relayout
from ghn_jax.tracing.combination import combine, materialise, materialise_all, one_parameter, pooled
from ghn_jax.tracing.equations import Equation
from ghn_jax.tracing.reader import Reader
from ghn_jax.tracing.values import CONSTANT, Activation, Constant, Scores, Statistic, TracedParameter, Value, touched


def dot_general(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    (contracted, batch), scope = equation.params["dimension_numbers"], equation.scope
    left, right = values = _kernels(reader, equation, values)
    if isinstance(left, TracedParameter) and isinstance(right, TracedParameter):
        return _parameter_product(reader, equation, left, right)
    for side, kernel in enumerate(values):
        if isinstance(kernel, TracedParameter):
            source = materialise(reader.network, values[1 - side], scope)
            if source is None and not _is_kernel(reader.network.leaves[kernel.view.leaf].name):
                # A matrix applied to a parameter, for example to resize positional encodings.
                return relayout.lose(kernel, reader.shape(equation.outputs[0]))
            if source is not None and equation.inputs[1 - side] in reader.one_hot:
                return layers.embedding(reader.network, source.node, kernel, contracted[side], scope)
            node = reader.network.constant() if source is None else source.node
            return layers.dense(reader.network, node, kernel, contracted[side], batch[side], scope)
    if any(isinstance(value, Constant) for value in values):
        return combine(reader.network, "dot_general", values, scope)
    if any(isinstance(value, Scores) for value in values):
        sources = []
        for value in values:
            nodes = value.sources if isinstance(value, Scores) else materialise_all(reader.network, [value], scope)
            sources.extend(nodes)
        return Activation(reader.network.add("msa", sources, scope), direct=True)
    return Scores(tuple(dict.fromkeys(materialise_all(reader.network, values, scope))))


def _kernels(reader: Reader, equation: Equation, values: list[Value]) -> list[Value]:
    """Kernels that running statistics scale, where a norm layer is folded into one, as what they are."""
    found = list(values)
    for side, value in enumerate(values):
        scales = value.scales if isinstance(value, Statistic) and value.node is None else ()
        if any(len(scale.view.varied) > 1 for scale in scales):
            kernel = dataclasses.replace(one_parameter(reader.network, scales), changed=True)
            found[side] = reader.numbered(equation.inputs[side], kernel)
    return found


def ragged_dot(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    """A linear layer for every group of rows, as in a mixture of experts."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    contracted, batch = numbers.dot_dimension_numbers
    source = materialise(reader.network, values[0], equation.scope)
    if not isinstance(values[1], TracedParameter) or source is None:
        return reader.unknown(equation, values)
    groups = (*batch[1], *numbers.rhs_group_dimensions)
    return layers.dense(reader.network, source.node, values[1], contracted[1], groups, equation.scope)


def _parameter_product(reader: Reader, equation: Equation, left: TracedParameter, right: TracedParameter) -> Value:
    """Learned activations (queries, latents) go through a layer; otherwise one parameter changes another."""
    kernels = [_is_kernel(reader.network.leaves[value.view.leaf].name) for value in (left, right)]
    if kernels.count(True) == 1:
        side = kernels.index(True)
        (contracted, batch), scope = equation.params["dimension_numbers"], equation.scope
        source = layers.position(reader.network, (right, left)[side], scope, "a learned activation")
        return layers.dense(reader.network, source.node, (left, right)[side], contracted[side], batch[side], scope)
    return relayout.lose(one_parameter(reader.network, [left, right]), reader.shape(equation.outputs[0]))


def convolution(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    image, kernel = _kernels(reader, equation, values)
    scope = equation.scope
    if isinstance(kernel, Constant):
        if isinstance(image, TracedParameter):
            return relayout.lose(image, reader.shape(equation.outputs[0]))
        return combine(reader.network, "conv_general_dilated", values, scope)
    source = materialise(reader.network, image, scope)
    node = reader.network.constant() if source is None else source.node
    if isinstance(kernel, TracedParameter):
        return layers.conv(reader.network, node, kernel, equation.params, scope)
    return Scores(tuple(dict.fromkeys([node, *materialise_all(reader.network, [kernel], scope)])))


def reduction(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    value = values[0]
    if equation.inputs[0] in reader.weighted:
        return value
    shape = reader.shape(equation.inputs[0])
    reduced = equation.params["dimensions" if equation.name == "reduce" else "axes"]
    axes = [axis for axis in reduced if shape[axis] > 1]
    if isinstance(value, Statistic) and value.node is not None and not value.root:
        # Of something that is pooled already: a norm layer after the pooling, most likely.
        value = pooled(reader.network, value, value.node, equation.scope)
    match value:
        case TracedParameter():
            return relayout.reduce(value, reduced, reader.shape(equation.outputs[0]))
        case Activation(node):
            over_batch = 0 in reduced and len(reduced) < len(shape)
            first_alone = over_batch and tuple(reduced) == (0,)
            largest = equation.name in ("reduce_max", "argmax", "pmax")
            if first_alone and sum(size > 1 for size in shape[1:]) > 1:
                over_batch = False  # positions keep statistics of their own
            return Statistic(node, over_batch, first_alone, largest, tuple(shape[axis] for axis in axes))
    return value


def window(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    params, scope = equation.params, equation.scope
    value = materialise(reader.network, combine(reader.network, "window", values, scope), scope)
    if value is None:
        return CONSTANT
    sizes = tuple(params["window_dimensions"])
    spatial = [axis for axis, size in enumerate(sizes) if size > 1]
    if not spatial:
        return value
    extent = reader.shape(equation.inputs[0])
    average = equation.name == "reduce_window_sum" or "add" in str(params.get("jaxpr", ""))
    if average and all(sizes[axis] == extent[axis] for axis in spatial) and 0 not in spatial:
        return Statistic(value.node, window=tuple(sizes[axis] for axis in spatial))
    # Height and width are the axes around the last of the window: 1 along the one that it does not pool.
    height, width = _window_size(sizes, spatial)
    pool = "avg_pool" if average else "max_pool"
    return Activation(reader.network.add(pool, [value.node], scope, (1, 1, height, width)), direct=True)


def gather(reader: Reader, equation: Equation, values: list[Value]) -> Value:
    operand, indices = values[:2]
    indexed = list(equation.params["dimension_numbers"].start_index_map)
    if not isinstance(operand, TracedParameter):
        if isinstance(operand, Constant):
            return touched(indices)
        return Activation(operand.node) if isinstance(operand, Activation) else operand
    source = materialise(reader.network, indices, equation.scope)
    if source is None:
        return relayout.lose(operand, reader.shape(equation.outputs[0]))
    return layers.embedding(reader.network, source.node, operand, indexed, equation.scope)


def _is_kernel(path: str) -> bool:
    name = path.rsplit("/", 1)[-1].lower()
    return name in ("kernel", "weight", "w") or name.endswith(("kernel", "weight"))


def _window_size(sizes: Sequence[int], spatial: Sequence[int]) -> tuple[int, int]:
    if len(spatial) >= 2:
        *others, last = (sizes[axis] for axis in spatial)
        return math.prod(others), last
    return (sizes[spatial[0]], 1)
