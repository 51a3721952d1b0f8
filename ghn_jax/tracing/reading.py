"""Reads a flat program: which equations are nodes of the graph, and which parameters they use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from ghn_jax.tracing import layers, relayout
from ghn_jax.tracing.combination import combine, materialise, materialise_all, one_parameter, pooled
from ghn_jax.tracing.equations import Equation, Equations
from ghn_jax.tracing.errors import TraceError
from ghn_jax.tracing.network import TracedNetwork
from ghn_jax.tracing.values import CONSTANT, Activation, Constant, Scores, Statistic, TracedParameter, Value

ELEMENTWISE = frozenset(
    "abs acos acosh add add_any all_gather all_to_all and approx_top_k asin asinh atan atan2 atanh bessel_i0e"
    " bessel_i1e bitcast_convert_type branches cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos"
    " cosh cumlogsumexp cummax cummin cumprod cumsum device_put digamma div eq eq_to erf erf_inv erfc exp exp2 expm1"
    " fft floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min"
    " decided mul mulhi name ne neg nextafter not optimization_barrier or pbroadcast pmax pmean pmin polygamma"
    " population_count pow ppermute psum pvary real reduce_precision regularized_incomplete_beta rem round rsqrt"
    " nonbatchable unvmap_all unvmap_any unvmap_max select_if_vmap maybe_set"  # of Equinox
    " select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh sort sqrt"
    " square stop_gradient sub tan tanh tie top_k xor zeta".split()
)
"""Operations that compute every element of their outputs from elements of their inputs, one node's with one node's."""

SAME_VALUE = frozenset(
    "all_gather convert_element_type copy copy_p device_put name optimization_barrier pbroadcast psum pvary"
    " reduce_precision sharding_constraint stop_gradient tie".split()
)
"""Those that leave values as they are."""

COMPLEX = ("complex", "add", "sub", "add_any")
"""How complex numbers are made of two real ones."""

ROOTS = frozenset(("sqrt", "rsqrt", "pow"))


def read(equations: Equations, network: TracedNetwork, values: dict[int, Value]) -> list[int]:
    """Adds the nodes of a program to `network`; returns those of the outputs.

    Args:
      equations: the program.
      network: with the nodes of the inputs.
      values: what is known of the program's inputs, by number.
    """
    reader = _Reader(equations, network, values)
    for equation in equations.equations:
        reader.read(equation)
    outputs = [materialise(network, reader.value(number), "output") for number in equations.outputs]
    return list(dict.fromkeys(output.node for output in outputs if output is not None))


class _Reader:
    def __init__(self, equations: Equations, network: TracedNetwork, values: dict[int, Value]):
        self.known = equations.known
        self.shapes = equations.shapes
        self.program = equations
        self.network = network
        self.values = dict(values)

    def value(self, number: int) -> Value:
        return self.values.get(number, CONSTANT)

    def shape(self, number: int) -> tuple[int, ...]:
        return self.shapes[number]

    def read(self, equation: Equation) -> None:
        values = [self.value(number) for number in equation.inputs]
        if all(isinstance(value, Constant) for value in values):
            return
        default = _Reader.elementwise if equation.name in ELEMENTWISE else _Reader.unknown
        try:
            result = _RULES.get(equation.name, default)(self, equation, values)
        except Exception as error:
            place = equation.scope or "the model"
            raise TraceError(f"{equation.name!r} in {place} cannot be read: {error!r}") from error
        results = result if isinstance(result, list) else [result] * len(equation.outputs)
        for number, value in zip(equation.outputs, results, strict=True):
            self.values[number] = self.numbered(number, value)

    def numbered(self, number: int, value: Value) -> Value:
        """A parameter with the number of its value, and of its shape."""
        if not isinstance(value, TracedParameter):
            return value
        shape = self.shape(number)
        if not value.joined and value.view.shape != shape:
            value = relayout.lose(value, shape)
        return dataclasses.replace(value, number=number)

    def elementwise(self, equation: Equation, values: list[Value]) -> Value | list[Value]:
        axes = equation.params.get("axes", ()) if equation.name in ("psum", "pmax", "pmin") else ()
        if len(values) == 1 and axes and all(isinstance(axis, int) for axis in axes):  # of a mapped function
            return self.reduce(equation, values)
        if equation.name in ("branches", "decided"):
            return self.decided(equation, values)
        selects = equation.name in ("select_n", "select_if_vmap")
        if selects and not all(isinstance(value, Constant) for value in values[1:]):
            values = values[1:]  # what decides which value it is, is not part of it
        if 1 < len(equation.outputs) == len(values):
            return values  # optimization_barrier, sort, psum: one output for every input
        return self.combined(equation, values)

    def decided(self, equation: Equation, values: list[Value]) -> Value:
        """A value, or one of several: what decides which it is, is not part of it."""
        by, others = (values[0], values[1:]) if equation.name == "branches" else (values[1], values[:1])
        if isinstance(by, TracedParameter):
            layers.leave(self.network, by, "it only decides which way the computation takes")
        if all(isinstance(value, Constant) for value in others):
            return CONSTANT
        return others[0] if equation.name == "decided" else self.combined(equation, others)

    def rescaled(self, equation: Equation, values: list[Value]) -> TracedParameter | None:
        """A parameter with something that is computed from itself, as its norm; None if that is not all."""
        output = equation.outputs[0]
        if self.program.of_inputs[output]:
            return None
        clean = [
            value
            for value in values
            if isinstance(value, TracedParameter) and len(value.parts) == 1 and value.view.axes is not None
            if value.view.shape == self.shape(output) and len(value.view.varied) > 0
        ]
        if len(clean) != 1:
            return None
        (parameter,) = clean
        for number, value in zip(equation.inputs[-len(values) :], values, strict=True):
            of_itself = self.program.of_params[number] >> parameter.view.leaf & 1
            if value is not parameter and not isinstance(value, Constant) and not of_itself:
                return None
        return dataclasses.replace(parameter, changed=True)

    def combined(self, equation: Equation, values: list[Value]) -> Value:
        """What all outputs are, of values that are not all constants."""
        name = equation.name
        first, *others = [value for value in values if not isinstance(value, Constant)]
        if not others and isinstance(first, Activation) and name in SAME_VALUE:
            return first
        if isinstance(first, Statistic) and (name in ROOTS or (name == "integer_pow" and equation.params["y"] < 0)):
            return dataclasses.replace(first, root=True)
        parameters = [value for value in values if isinstance(value, TracedParameter)]
        if len(parameters) == 2 == len(values) and name in COMPLEX and self.is_complex(equation.outputs[0]):
            return relayout.pair(*parameters)
        rescaled = self.rescaled(equation, values)
        if rescaled is not None and len(others) > 0:
            return rescaled
        result = combine(self.network, name, values, equation.scope)
        if isinstance(result, TracedParameter):
            result = dataclasses.replace(result, changed=result.changed or name not in SAME_VALUE)
            shape = self.shape(equation.outputs[0])
            if shape != result.view.shape:
                result = relayout.broadcast_to(result, shape)
        return result

    def is_complex(self, number: int) -> bool:
        """Whether a value is of complex numbers."""
        dtype = self.program.dtypes[number]
        return dtype is not None and dtype.kind == "c"

    def unknown(self, equation: Equation, values: list[Value]) -> Value:
        name = equation.name
        place = f"{name!r} in {equation.scope or 'the model'}"
        for value in values:
            if isinstance(value, TracedParameter):
                for part in value.parts:
                    self.network.refuse(part.leaf, f"it is used by {place}, which tracing does not know")
        sources = materialise_all(
            self.network, [value for value in values if not isinstance(value, TracedParameter)], equation.scope
        )
        if "attention" in name and sources:
            return Activation(self.network.add("msa", sources, equation.scope), direct=True)
        self.network.unsupported.setdefault(place)
        if not sources:
            return CONSTANT
        return Activation(self.network.join("sum", sources, equation.scope))

    # Layout

    def layout(self, equation: Equation, values: list[Value]) -> Value:
        value = values[0]
        if not isinstance(value, TracedParameter):
            return value
        return relayout.change(value, equation.name, equation.params, self.shape(equation.outputs[0]))

    def slice(self, equation: Equation, values: list[Value]) -> Value:
        value, params = values[0], equation.params
        if not isinstance(value, TracedParameter):
            return value
        if any(step != 1 for step in params["strides"] or ()):
            return relayout.lose(value, self.shape(equation.outputs[0]))
        for axis, (start, stop) in enumerate(zip(params["start_indices"], params["limit_indices"], strict=True)):
            value = relayout.cut(value, axis, start, stop)
        return value

    def split(self, equation: Equation, values: list[Value]) -> list[Value]:
        value, axis = values[0], equation.params["axis"]
        if not isinstance(value, TracedParameter):
            return [value] * len(equation.outputs)
        pieces, start = [], 0
        for size in equation.params["sizes"]:
            pieces.append(relayout.cut(value, axis, start, start + int(size)))
            start += int(size)
        return pieces

    def dynamic_slice(self, equation: Equation, values: list[Value]) -> Value:
        value, *indices = values
        if isinstance(value, Constant):
            return _first_given(indices)
        if not isinstance(value, TracedParameter):
            return self.combined(dataclasses.replace(equation, name="slice"), [value])
        sizes = equation.params["slice_sizes"]
        chosen = [axis for axis, size in enumerate(sizes) if size < value.view.shape[axis]]
        if any(isinstance(index, Activation) for index in indices):
            (source, *_) = materialise_all(self.network, indices, equation.scope)
            return layers.embedding(self.network, source, value, chosen, equation.scope)
        numbers = equation.inputs[1:]
        if any(numbers[axis] not in self.known for axis in chosen):
            return relayout.lose(value, self.shape(equation.outputs[0]))
        for axis in chosen:
            last = value.view.shape[axis] - sizes[axis]
            start = min(max(self.known[numbers[axis]], 0), last)
            value = relayout.cut(value, axis, start, start + sizes[axis])
        return value

    def loop_slice(self, equation: Equation, values: list[Value]) -> Value:
        value, index = values[0], equation.params["index"]
        if not isinstance(value, TracedParameter):
            return value
        if index is None:
            return relayout.lose(value, self.shape(equation.outputs[0]))
        return relayout.pick(value, 0, index)

    def concatenate(self, equation: Equation, values: list[Value]) -> Value:
        given = [value for value in values if not isinstance(value, Constant)]
        scope, axis = equation.scope, equation.params.get("dimension", 0)
        parameters = [value for value in given if isinstance(value, TracedParameter)]
        if len(parameters) == len(given):
            joined = relayout.concatenate(parameters, axis)
            return joined if len(given) == len(values) else relayout.lose(joined, self.shape(equation.outputs[0]))
        scores = [value for value in given if isinstance(value, Scores)]
        if len(scores) == len(given):
            return Scores(tuple(dict.fromkeys(source for value in scores for source in value.sources)))
        if len(given) == 1:
            return given[0]
        statistics = [value for value in given if isinstance(value, Statistic)]
        if len(statistics) == len(given) and len({value.node for value in statistics}) == 1:
            if any(value.root for value in statistics) or not any(value.largest for value in statistics):
                return statistics[0]
        nodes = materialise_all(self.network, given, scope)
        if not nodes:
            return CONSTANT
        return Activation(self.network.join("concat", nodes, scope), direct=len(set(nodes)) > 1)

    def stack(self, equation: Equation, values: list[Value]) -> Value:
        """A concatenation along a new axis."""
        axis = equation.params.get("axis", 0)
        shape = self.shape(equation.outputs[0])
        if len(values) < shape[axis]:  # a loop that was entered once
            return relayout.lose(values[0], shape) if isinstance(values[0], TracedParameter) else values[0]
        single = (*shape[:axis], 1, *shape[axis + 1 :])
        expanded: list[Value] = [
            relayout.change(value, "expand_dims", {}, single) if isinstance(value, TracedParameter) else value
            for value in values
        ]
        return self.concatenate(dataclasses.replace(equation, params={"dimension": axis}), expanded)

    def unstack(self, equation: Equation, values: list[Value]) -> list[Value]:
        value, axis = values[0], equation.params["axis"]
        if not isinstance(value, TracedParameter):
            return [value] * len(equation.outputs)
        return [relayout.pick(value, axis, index) for index in range(len(equation.outputs))]

    def pad(self, equation: Equation, values: list[Value]) -> Value:
        given = [value for value in values if not isinstance(value, Constant)]
        if isinstance(given[0], TracedParameter) and len(given) == 1:
            return relayout.lose(given[0], self.shape(equation.outputs[0]))
        return combine(self.network, "add", given, equation.scope) if len(given) > 1 else given[0]

    # Layers

    def dot_general(self, equation: Equation, values: list[Value]) -> Value:
        (contracted, batch), scope = equation.params["dimension_numbers"], equation.scope
        left, right = values
        if isinstance(left, TracedParameter) and isinstance(right, TracedParameter):
            return self.parameter_product(equation, left, right)
        for side, kernel in enumerate(values):
            if isinstance(kernel, TracedParameter):
                source = materialise(self.network, values[1 - side], scope)
                if source is None and not _is_kernel(self.network.leaves[kernel.view.leaf].name):
                    # A matrix applied to a parameter, for example to resize positional encodings.
                    return relayout.lose(kernel, self.shape(equation.outputs[0]))
                node = self.network.constant() if source is None else source.node
                return layers.dense(self.network, node, kernel, contracted[side], batch[side], scope)
        if any(isinstance(value, Constant) for value in values):
            return combine(self.network, "dot_general", values, scope)
        if any(isinstance(value, Scores) for value in values):
            sources = []
            for value in values:
                nodes = value.sources if isinstance(value, Scores) else materialise_all(self.network, [value], scope)
                sources.extend(nodes)
            return Activation(self.network.add("msa", sources, scope), direct=True)
        return Scores(tuple(dict.fromkeys(materialise_all(self.network, values, scope))))

    def ragged_dot(self, equation: Equation, values: list[Value]) -> Value:
        """A linear layer for every group of rows, as in a mixture of experts."""
        numbers = equation.params["ragged_dot_dimension_numbers"]
        contracted, batch = numbers.dot_dimension_numbers
        source = materialise(self.network, values[0], equation.scope)
        if not isinstance(values[1], TracedParameter) or source is None:
            return self.unknown(equation, values)
        groups = (*batch[1], *numbers.rhs_group_dimensions)
        return layers.dense(self.network, source.node, values[1], contracted[1], groups, equation.scope)

    def parameter_product(self, equation: Equation, left: TracedParameter, right: TracedParameter) -> Value:
        """Learned activations (queries, latents) go through a layer; otherwise one parameter changes another."""
        kernels = [_is_kernel(self.network.leaves[value.view.leaf].name) for value in (left, right)]
        if kernels.count(True) == 1:
            side = kernels.index(True)
            (contracted, batch), scope = equation.params["dimension_numbers"], equation.scope
            source = layers.position(self.network, (right, left)[side], scope, "a learned activation")
            return layers.dense(self.network, source.node, (left, right)[side], contracted[side], batch[side], scope)
        return relayout.lose(one_parameter(self.network, [left, right]), self.shape(equation.outputs[0]))

    def convolution(self, equation: Equation, values: list[Value]) -> Value:
        image, kernel = values
        scope = equation.scope
        if isinstance(kernel, Constant):
            if isinstance(image, TracedParameter):
                return relayout.lose(image, self.shape(equation.outputs[0]))
            return combine(self.network, "conv_general_dilated", values, scope)
        source = materialise(self.network, image, scope)
        node = self.network.constant() if source is None else source.node
        if isinstance(kernel, TracedParameter):
            return layers.convolution(self.network, node, kernel, equation.params, scope)
        return Scores(tuple(dict.fromkeys([node, *materialise_all(self.network, [kernel], scope)])))

    def reduce(self, equation: Equation, values: list[Value]) -> Value:
        value = values[0]
        shape = self.shape(equation.inputs[0])
        reduced = equation.params["dimensions" if equation.name == "reduce" else "axes"]
        axes = [axis for axis in reduced if shape[axis] > 1]
        if isinstance(value, Statistic) and value.node is not None and not value.root:
            # Of something that is pooled already: a norm layer after the pooling, most likely.
            value = pooled(self.network, value, value.node, equation.scope)
        match value:
            case TracedParameter():
                return relayout.reduce(value, reduced, self.shape(equation.outputs[0]))
            case Activation(node):
                over_batch = 0 in reduced and len(reduced) < len(shape)
                first_alone = over_batch and tuple(reduced) == (0,)
                largest = equation.name in ("reduce_max", "argmax", "pmax")
                if first_alone and sum(size > 1 for size in shape[1:]) > 1:
                    over_batch = False  # positions keep statistics of their own
                return Statistic(node, over_batch, first_alone, largest, tuple(shape[axis] for axis in axes))
        return value

    def window(self, equation: Equation, values: list[Value]) -> Value:
        params, scope = equation.params, equation.scope
        value = materialise(self.network, combine(self.network, "window", values, scope), scope)
        if value is None:
            return CONSTANT
        sizes = tuple(params["window_dimensions"])
        spatial = [axis for axis, size in enumerate(sizes) if size > 1]
        if not spatial:
            return value
        extent = self.shape(equation.inputs[0])
        average = equation.name == "reduce_window_sum" or "add" in str(params.get("jaxpr", ""))
        if average and all(sizes[axis] == extent[axis] for axis in spatial) and 0 not in spatial:
            return Statistic(value.node, window=tuple(sizes[axis] for axis in spatial))
        # Height and width are the axes around the last of the window: 1 along the one that it does not pool.
        height, width = _window_size(sizes, spatial)
        pool = "avg_pool" if average else "max_pool"
        return Activation(self.network.add(pool, [value.node], scope, (1, 1, height, width)), direct=True)

    def gather(self, equation: Equation, values: list[Value]) -> Value:
        operand, indices = values[:2]
        indexed = list(equation.params["dimension_numbers"].start_index_map)
        if not isinstance(operand, TracedParameter):
            if isinstance(operand, Constant):
                return _soft(indices)
            return Activation(operand.node) if isinstance(operand, Activation) else operand
        source = materialise(self.network, indices, equation.scope)
        if source is None:
            return relayout.lose(operand, self.shape(equation.outputs[0]))
        return layers.embedding(self.network, source.node, operand, indexed, equation.scope)

    def update(self, equation: Equation, values: list[Value]) -> Value:
        """Operations that write one value into another."""
        shape = self.shape(equation.outputs[0])
        written = [values[0], values[2] if equation.name.startswith("scatter") else values[1]]
        given = [value for value in written if not isinstance(value, Constant)]
        if not given:
            return CONSTANT
        if len(given) == 1:
            return relayout.lose(given[0], shape) if isinstance(given[0], TracedParameter) else _soft(given[0])
        parameters = [value for value in given if isinstance(value, TracedParameter)]
        if len(parameters) == len(given):
            return relayout.lose(one_parameter(self.network, parameters), shape)
        nodes = materialise_all(self.network, given, equation.scope)
        kind = "sum" if "-" in equation.name else "concat"
        return Activation(self.network.join(kind, nodes, equation.scope), direct=True)

    def carry(self, equation: Equation, values: list[Value]) -> Value:
        """A carry that begins as a constant comes from what the loop reads."""
        for value in values:
            activation = materialise(self.network, value, equation.scope)
            if activation is not None:
                return Activation(activation.node)
        return CONSTANT


def _soft(value: Value) -> Value:
    return Activation(value.node) if isinstance(value, Activation) else value


def _first_given(values: Sequence[Value]) -> Value:
    return _soft(next(value for value in values if not isinstance(value, Constant)))


def _is_kernel(path: str) -> bool:
    name = path.rsplit("/", 1)[-1].lower()
    return name in ("kernel", "weight", "w") or name.endswith(("kernel", "weight"))


def _window_size(sizes: Sequence[int], spatial: Sequence[int]) -> tuple[int, int]:
    if len(spatial) >= 2:
        *others, last = (sizes[axis] for axis in spatial)
        return math.prod(others), last
    return (sizes[spatial[0]], 1)


_RULES: dict[str, Callable[[_Reader, Equation, list[Value]], Value | list[Value]]] = {
    **dict.fromkeys(relayout.OPERATIONS, _Reader.layout),
    "slice": _Reader.slice,
    "split": _Reader.split,
    "dynamic_slice": _Reader.dynamic_slice,
    "loop_slice": _Reader.loop_slice,
    "loop_carry": _Reader.carry,
    "loop_stack": _Reader.stack,
    "stack": _Reader.stack,
    "unstack": _Reader.unstack,
    "concatenate": _Reader.concatenate,
    "pad": _Reader.pad,
    "dot_general": _Reader.dot_general,
    "ragged_dot_general": _Reader.ragged_dot,
    "conv_general_dilated": _Reader.convolution,
    **dict.fromkeys(
        "reduce reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin".split(),
        _Reader.reduce,
    ),
    **dict.fromkeys(("reduce_window_max", "reduce_window_sum", "reduce_window_min", "reduce_window"), _Reader.window),
    "gather": _Reader.gather,
    **dict.fromkeys(
        "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max dynamic_update_slice".split(),
        _Reader.update,
    ),
}
