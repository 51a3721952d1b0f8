"""What an operation on several values, element by element, makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ghn_jax.tracing import layers
from ghn_jax.tracing.network import TracedNetwork
from ghn_jax.tracing.values import CONSTANT, Activation, Constant, Scores, Statistic, TracedParameter, Value, touched

PRODUCTS = ("mul", "div")
KERNEL_AXES = 3
"""A parameter of at least so many axes that is multiplied with an activation is a kernel, not a scale."""

SUMS = ("add", "sub", "add_any", "select_n", "branches")

_Computed = Activation | Statistic | Scores
"""What comes from the inputs."""


def combine(network: TracedNetwork, name: str, values: Sequence[Value], scope: str) -> Value:
    """The value of operation `name` on `values`; constants change nothing but that something was computed."""
    given = [value for value in values if not isinstance(value, Constant)]
    parameters = [value for value in given if isinstance(value, TracedParameter)]
    others = [value for value in given if not isinstance(value, TracedParameter)]
    parameter = one_parameter(network, parameters) if parameters else None
    if not others:
        return parameter if parameter is not None else CONSTANT
    value: _Computed = others[0]
    if len(given) == 1:
        return touched(value)
    for other in others[1:]:
        value = _pair(network, name, value, other, scope)
    return value if parameter is None else _with_parameter(network, name, value, parameter, scope)


def materialise(network: TracedNetwork, value: Value, scope: str) -> Activation | None:
    """The value as an activation: a reduction becomes pooling, scores become attention; None for a constant."""
    match value:
        case Activation():
            return value
        case TracedParameter():
            return layers.position(network, value, scope, "a learned activation")
        case Scores(sources):
            return Activation(network.add("msa", sources, scope), direct=True)
        case Statistic(node=int(node)):
            return pooled(network, value, node, scope)
    return None


def pooled(network: TracedNetwork, statistic: Statistic, node: int, scope: str) -> Activation:
    """A reduction of what comes from `node`, as pooling."""
    if network.is_pooled(node) and not (statistic.scales or statistic.shifts):
        return Activation(node, direct=True)  # pooled step by step
    height, width = (*statistic.window[-2:], 1, 1)[:2]
    if statistic.largest:
        value = Activation(network.pool("max_pool", node, scope, (1, 1, height, width)), direct=True)
    else:
        value = Activation(network.pool("glob_avg", node, scope), direct=True)
    for scale in statistic.scales:
        value = layers.scale_by_parameter(network, value, scale, scope)
    for shift in statistic.shifts:
        value = layers.add_parameter(network, value, shift, scope)
    return value


def materialise_all(network: TracedNetwork, values: Sequence[Value], scope: str) -> list[int]:
    """Nodes of all values that are no constants."""
    activations = [materialise(network, value, scope) for value in values]
    return [activation.node for activation in activations if activation is not None]


def one_parameter(network: TracedNetwork, parameters: Sequence[TracedParameter]) -> TracedParameter:
    """Of several parameters that make one, the largest; the others are left as they are.

    Of equal ones the first that nothing was computed with: a bias, and not the scale of the mean that it is added to.
    """
    chosen = max(parameters, key=lambda parameter: (parameter.size, not parameter.changed))
    leaves = {part.leaf for part in chosen.parts}
    for parameter in parameters:
        for part in parameter.parts:
            if part.leaf not in leaves:
                network.refuse(part.leaf, f"it only changes {network.leaves[chosen.view.leaf].name!r}")
    return chosen


def _pair(network: TracedNetwork, name: str, first: _Computed, second: _Computed, scope: str) -> _Computed:
    if isinstance(first, Scores) or isinstance(second, Scores):
        sources = [value.sources if isinstance(value, Scores) else None for value in (first, second)]
        nodes = [
            list(known) if known is not None else materialise_all(network, [value], scope)
            for known, value in zip(sources, (first, second), strict=True)
        ]
        return Scores(tuple(dict.fromkeys(nodes[0] + nodes[1])))
    found = None
    if isinstance(first, Statistic):
        if isinstance(second, Statistic):
            found = _two_statistics(network, name, first, second, scope)
        else:
            found = _with_statistic(network, name, second, first, scope)
    elif isinstance(second, Statistic):
        found = _with_statistic(network, name, first, second, scope)
    if found is not None:
        return found
    nodes = materialise_all(network, [first, second], scope)
    if len(set(nodes)) == 1:
        return Activation(nodes[0])
    left, right = nodes
    if name in SUMS and (row := network.row_of_kernel(left, right)) is not None:
        return layers.written_out(network, left, right, row)
    unscaled = network.unscaled(left, right)
    if unscaled is not None:
        return Activation(unscaled)
    if name in PRODUCTS:
        return Activation(network.gate(left, right, scope), direct=True)
    return Activation(network.join("sum", nodes, scope), direct=True)


def _two_statistics(
    network: TracedNetwork, name: str, first: Statistic, second: Statistic, scope: str
) -> _Computed | None:
    """Two reductions of one activation, or one of it and one of its mean; None if they are of different ones."""
    if first.node is not None and network.pooled_from(second.node) == first.node:
        return _pair(network, name, pooled(network, first, first.node, scope), second, scope)
    if second.node is not None and network.pooled_from(first.node) == second.node:
        return _pair(network, name, pooled(network, second, second.node, scope), first, scope)
    if first.node == second.node or None in (first.node, second.node):
        return Statistic(
            node=second.node if first.node is None else first.node,
            over_batch=first.over_batch or second.over_batch,
            first_alone=first.first_alone or second.first_alone,
            largest=first.largest and second.largest,
            window=first.window or second.window,
            root=first.root or second.root,
            scales=tuple(dict.fromkeys(first.scales + second.scales)),
            shifts=tuple(dict.fromkeys(first.shifts + second.shifts)),
        )
    return None


def _with_statistic(
    network: TracedNetwork, name: str, value: Activation, statistic: Statistic, scope: str
) -> Activation | None:
    """An activation with a reduction of its own, or of what it was normalised from; None if it is of another one."""
    node = network.nodes[value.node]
    own = statistic.node in (None, value.node) or network.pooled_from(statistic.node) == value.node
    of_norm = node.type in ("bn", "ln") and value.direct and node.parents == [statistic.node]
    if not own and not of_norm:
        return None
    if statistic.node is None and statistic.root and name in PRODUCTS and node.bare and value.direct:
        value = layers.norm_of_scale(network, value)
        for scale in statistic.scales:
            value = layers.scale_by_parameter(network, value, scale, scope)
        return value
    if own and statistic.root and name in PRODUCTS:
        over_batch = statistic.over_batch or statistic.node is None
        normed = layers.norm(network, value.node, over_batch, statistic.scales, scope)
        network.nodes[normed.node].first_alone = statistic.first_alone
        for shift in statistic.shifts:
            normed = layers.add_parameter(network, normed, shift, scope)
        return normed
    if of_norm:
        for shift in statistic.shifts:
            value = layers.add_parameter(network, value, shift, scope)
        return value
    if statistic.shifts and name in SUMS:
        for shift in statistic.shifts:
            value = layers.add_parameter(network, value, shift, scope)
        return value
    for scale in statistic.scales:
        layers.leave(network, scale, "it scales a mean that only changes activations")
    return Activation(value.node)


def _with_parameter(
    network: TracedNetwork, name: str, value: _Computed, parameter: TracedParameter, scope: str
) -> _Computed:
    if name not in PRODUCTS and name not in SUMS:
        for part in parameter.parts:
            network.refuse(part.leaf, f"it is used by {name!r}, which no layer of the hypernetwork's networks does")
        return touched(value)
    match value:
        case Scores() if len(parameter.view.shape) - 1 not in parameter.view.varied and name in PRODUCTS:
            layers.leave(network, parameter, "it changes scores, as a temperature does")
            return value
        case Scores() if parameter.size == 1:
            layers.leave(network, parameter, "it is a single number that is added to scores")
            return value
        case Scores(sources) if name in PRODUCTS:
            scaled = network.add("bn", sources, scope)
            layers.scale_by_parameter(network, Activation(scaled, direct=True), parameter, scope)
            return Scores((scaled,))
        case Scores(sources):
            codes = layers.position(network, parameter, scope, "positions relative to each other")
            return Scores((*sources, codes.node))
        case Statistic() if name in PRODUCTS:
            return dataclasses.replace(value, scales=(*value.scales, parameter))
        case Statistic():
            return dataclasses.replace(value, shifts=(*value.shifts, parameter))
        case Activation() if name in PRODUCTS and len(parameter.view.varied) >= KERNEL_AXES:
            return layers.modulated(network, value, parameter, scope)
        case Activation() if name in PRODUCTS:
            return layers.scale_by_parameter(network, value, parameter, scope)
        case Activation() if name in ("select_n", "branches"):
            token = layers.position(network, parameter, scope, "a learned activation")
            return Activation(network.join("sum", [value.node, token.node], scope), direct=True)
    return layers.add_parameter(network, value, parameter, scope)
