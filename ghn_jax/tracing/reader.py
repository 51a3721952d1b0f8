"""What rules for operations share: the values read so far, and what several of them make element by element."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from jax.extend.core import primitives

from ghn_jax.tracing import layers, relayout
from ghn_jax.tracing.combination import combine, materialise, materialise_all
from ghn_jax.tracing.equations import SAME_VALUES, Equation, Equations
from ghn_jax.tracing.network import TracedNetwork
from ghn_jax.tracing.values import CONSTANT, Activation, Constant, Statistic, TracedParameter, Value

COMPLEX = ("complex", "add", "sub", "add_any")
"""How complex numbers are made of two real ones."""

_INVERSES = {
    "sub": ("add", primitives.neg_p, {}),
    "div": ("mul", primitives.integer_pow_p, {"y": -1}),
}
"""The operation with the inverse, and what makes that."""

ROOTS = frozenset(("sqrt", "rsqrt", "pow"))


class Reader:
    """What is known while equations are read in order.

    Attributes:
      program: the equations.
      network: what was found.
      values: by number; others are constants.
      known, shapes: as in `Equations`.
      one_hot: numbers of comparisons of activations with constants.
      weighted: numbers of activations that were multiplied with a kernel, and have to be summed to be a layer's output.
    """

    def __init__(self, equations: Equations, network: TracedNetwork, values: dict[int, Value]):
        self.known = equations.known
        self.shapes = equations.shapes
        self.program = equations
        self.network = network
        self.values = dict(values)
        self.one_hot: set[int] = set()
        self.weighted: set[int] = set()
        self._readers: dict[int, list[Equation]] = defaultdict(list)
        for equation in equations.equations:
            for number in equation.inputs:
                self._readers[number].append(equation)

    def value(self, number: int) -> Value:
        return self.values.get(number, CONSTANT)

    def shape(self, number: int) -> tuple[int, ...]:
        return self.shapes[number]

    def numbered(self, number: int, value: Value) -> Value:
        """A parameter with the number of its value, and of its shape."""
        if not isinstance(value, TracedParameter):
            return value
        shape = self.shape(number)
        if not value.joined and value.view.shape != shape:
            value = relayout.lose(value, shape)
        return dataclasses.replace(value, number=number)

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

    def weighted_sum(self, equation: Equation, values: list[Value]) -> Value | None:
        """A linear layer that is spelled as a product and a sum along axes of the parameter; None if it is none."""
        parameters = [value for value in values if isinstance(value, TracedParameter)]
        output = equation.outputs[0]
        readers = self._readers[output]
        if equation.name != "mul" or len(parameters) != 1 or [reader.name for reader in readers] != ["reduce_sum"]:
            return None
        axes = set(readers[0].params["axes"]) & set(parameters[0].view.varied)
        (other,) = [value for value in values if value is not parameters[0]]
        source = materialise(self.network, other, equation.scope) if axes else None
        if source is None:
            return None
        self.weighted.add(output)
        return layers.dense(self.network, source.node, parameters[0], sorted(axes), (), equation.scope)

    def combined(self, equation: Equation, values: list[Value]) -> Value:
        """What all outputs are, of values that are not all constants."""
        name, values = self.in_normal_form(equation, values)
        first, *others = [value for value in values if not isinstance(value, Constant)]
        if not others and isinstance(first, Activation) and name in SAME_VALUES:
            return first
        if isinstance(first, Statistic) and (name in ROOTS or (name == "integer_pow" and equation.params["y"] < 0)):
            return dataclasses.replace(first, root=True)
        parameters = [value for value in values if isinstance(value, TracedParameter)]
        if len(parameters) == 2 == len(values) and name in COMPLEX and self.is_complex(equation.outputs[0]):
            return relayout.pair(*parameters)
        rescaled = self.rescaled(equation, values)
        if rescaled is not None and len(others) > 0:
            return rescaled
        result = self.weighted_sum(equation, values) or combine(self.network, name, values, equation.scope)
        if isinstance(result, TracedParameter):
            result = dataclasses.replace(result, changed=result.changed or name not in SAME_VALUES)
            shape = self.shape(equation.outputs[0])
            if shape != result.view.shape:
                result = relayout.broadcast_to(result, shape)
        return result

    def in_normal_form(self, equation: Equation, values: list[Value]) -> tuple[str, list[Value]]:
        """`x - b` as `x + (-b)`, and `x / b` as `x b^-1`: what is added, or multiplied, is what is predicted.

        Only of parameters with whatever comes from the inputs.
        """
        if equation.name not in _INVERSES or len(values) != 2 or not isinstance(values[1], TracedParameter):
            return equation.name, values
        if isinstance(values[0], (Constant, TracedParameter)):
            return equation.name, values
        name, primitive, params = _INVERSES[equation.name]
        parameter = dataclasses.replace(values[1], changed=True)
        number = self.program.append(primitive, params, equation.inputs[1], equation.scope)
        return name, [values[0], dataclasses.replace(parameter, number=number)]

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
