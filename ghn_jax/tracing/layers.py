"""Operations that use parameters: which nodes they are, and how their parameters are to be predicted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ghn_jax.graphs.graph import Role
from ghn_jax.tracing.layout import REPEATED, Atom, View, count
from ghn_jax.tracing.network import NO_SHAPE, Claim, TracedNetwork
from ghn_jax.tracing.values import Activation, TracedParameter

LOST_LAYOUT = "its layout is changed by operations other than reshapes, the prediction is for its own"


def dense(
    network: TracedNetwork,
    source: int,
    kernel: TracedParameter,
    contracted: Sequence[int],
    batch: Sequence[int],
    scope: str,
) -> Activation:
    """A linear layer: the kernel's axes `contracted` are summed over, those in `batch` are shared with the input."""
    free = [axis for axis in range(len(kernel.view.shape)) if axis not in (*contracted, *batch)]
    if any(part.axes is None for part in kernel.parts):
        node = network.add("conv", [source], scope)
        for part in kernel.parts:
            _own_layout(network, node, Role.WEIGHT, part, kernel.use, used=math.prod(kernel.view.shape))
        network.nodes[node].features = math.prod(kernel.view.shape[axis] for axis in free) or 1
        return Activation(node, direct=True)
    node = network.add("conv", [source], scope)
    features = 0
    for part in kernel.parts:
        # In the order of the parameter's own axes, however the product names them.
        inputs = sorted(atom for axis in contracted for atom in part.laid_out[axis])
        outputs = sorted(atom for axis in (*batch, *free) for atom in part.laid_out[axis])
        shape = (count(inputs), count(outputs))
        network.claim(node, Role.WEIGHT, part, (inputs, outputs), shape, use=kernel.use)
        features = count(outputs) if kernel.paired else features + count(outputs)
    if kernel.joined:
        inputs = count([atom for axis in contracted for atom in kernel.view.laid_out[axis]])
        network.nodes[node].shape = (features, inputs, 1, 1)
    network.nodes[node].features = features
    return Activation(node, direct=True)


def conv(
    network: TracedNetwork, source: int, kernel: TracedParameter, params: Mapping[str, Any], scope: str
) -> Activation:
    """A convolution over any number of spatial axes.

    One spatial axis is the height of the predicted tensor.  (As its width, it would be normalised like the first half
    of a factorised convolution, which no ReLU follows.)  Of three or more, all but the last are its height.
    """
    out_axis, in_axis, *spatial = params["dimension_numbers"].rhs_spec
    groups = params["feature_group_count"]
    node_type, role = "conv", Role.WEIGHT
    if groups > 1 and kernel.view.shape[in_axis] == 1:
        node_type, role = "sep_conv", Role.DEPTHWISE_WEIGHT
        if any(dilation > 1 for dilation in params["rhs_dilation"]):
            node_type = "dil_conv"
    node = network.add(node_type, [source], scope)
    features = kernel.view.shape[out_axis]
    network.nodes[node].features = features
    for part in kernel.parts:
        if part.axes is None:
            _own_layout(network, node, role, part, kernel.use, used=math.prod(kernel.view.shape))
            continue
        axes = part.axes
        height = [atom for axis in (spatial[:-1] or spatial) for atom in axes[axis]]
        width = list(axes[spatial[-1]]) if len(spatial) > 1 else []
        atoms = (height, width, list(axes[in_axis]), list(axes[out_axis]))
        shape = tuple(count(group) for group in atoms)
        remark = "" if len(spatial) < 3 else f"a kernel of {len(spatial)} axes, predicted as {shape[0]}x{shape[1]}"
        network.claim(node, role, part, atoms, shape, remark, use=kernel.use)
    return Activation(node, direct=True)


def embedding(
    network: TracedNetwork, source: int, table: TracedParameter, indexed: Sequence[int], scope: str
) -> Activation:
    """A look-up in a table: a linear layer on one-hot vectors."""
    node = network.add("conv", [source], scope)
    for part in table.parts:
        view = part.known()
        looked_up = [axis for axis in indexed if axis < len(view.shape)] or [0]
        rows = [atom for axis in looked_up for atom in view.laid_out[axis]]
        features = [atom for axis in range(len(view.shape)) if axis not in looked_up for atom in view.laid_out[axis]]
        shape = (count(rows), count(features))
        network.claim(node, Role.EMBEDDING, view, (rows, features), shape, "a table of embeddings", use=table.use)
        network.nodes[node].features = shape[1]
    return Activation(node, direct=True)


def add_parameter(network: TracedNetwork, value: Activation, parameter: TracedParameter, scope: str) -> Activation:
    """A norm layer's or a layer's bias, a bias of its own, or a positional encoding."""
    node = network.nodes[value.node]
    if parameter.size == 1 and node.features != 1 and not (value.direct and node.type in ("bn", "ln")):
        leave(network, parameter, "it is a single number that is added to activations, no bias of a layer")
        return Activation(value.node)
    if value.direct and node.type in ("bn", "ln") and not node.shifted:
        vector = parameter.size == node.shape[0] if node.weighted else len(parameter.view.varied) <= 1
        if vector:
            node.shifted = True
            _claim_vectors(network, value.node, Role.BIAS, parameter)
            return value
    row = parameter.view.axes is None and parameter.size > math.prod(parameter.view.shape)  # of a table of positions
    if row and value.direct and node.features == math.prod(parameter.view.shape) < node.shape[0]:
        row = False  # of biases, as the kernel is of a stack, in a loop over layers of which one stands for all
    if (len(parameter.view.varied) <= 1 and not row) or parameter.size == node.features:
        bias = network.add("bias", [value.node], scope, features=parameter.size)
        _claim_vectors(network, bias, Role.BIAS, parameter)
        return Activation(bias, direct=True)
    codes = position(network, parameter, scope, "")
    return Activation(network.add("sum", [value.node, codes.node], scope))


def scale_by_parameter(network: TracedNetwork, value: Activation, parameter: TracedParameter, scope: str) -> Activation:
    """A norm layer's weight, or a scale of its own: a norm layer that has been told its statistics."""
    node = network.nodes[value.node]
    if value.direct and node.type in ("bn", "ln") and not node.weighted:
        number, remark = value.node, ""
        if node.first_alone and parameter.view.varied:
            node.type = "ln" if parameter.view.varied == (0,) else "bn"
    elif node.bare and {part.leaf for part in parameter.parts} & network.leaves_of(value.node):
        network.leave_scales([value.node])  # as of softplus(a x) / a
        return Activation(node.parents[0])
    elif parameter.size == 1:
        leave(network, parameter, "it is a single number that scales activations, no norm layer")
        return Activation(value.node)
    else:
        number = network.add("bn", [value.node], scope)
        network.nodes[number].bare = True
        remark = "a scale without normalisation, predicted as that of a norm layer"
    network.nodes[number].weighted = True
    _claim_vectors(network, number, Role.NORM_WEIGHT, parameter, remark)
    return Activation(number, direct=True)


def written_out(network: TracedNetwork, first: int, second: int, row: Claim) -> Activation:
    """A depthwise convolution that is a sum of shifted copies of its input: `first` becomes the node of its kernel."""
    network.claims = [claim for claim in network.claims if claim.node not in (first, second)]
    node = network.nodes[first]
    node.type, node.shape, node.bare, node.weighted = "sep_conv", NO_SHAPE, False, False
    view = View.of(row.place.leaf, network.leaves[row.place.leaf].shape)
    height, channels = (
        [atom for axis, rows in zip(view.laid_out, row.rows, strict=True) if (rows is None) == whole for atom in axis]
        for whole in (False, True)
    )
    node.features = count(channels)
    network.claim(
        first, Role.DEPTHWISE_WEIGHT, view, (height, [], [], channels), (count(height), 1, 1, node.features),
        "a kernel that is used row by row",
    )  # fmt: skip
    return Activation(first, direct=True)


def leave(network: TracedNetwork, parameter: TracedParameter, reason: str) -> None:
    """Lets a parameter keep its initial value."""
    for part in parameter.parts:
        network.refuse(part.leaf, reason)


def modulated(network: TracedNetwork, value: Activation, kernel: TracedParameter, scope: str) -> Activation:
    """A kernel whose channels an activation scales, before it is used: a layer that reads the activation."""
    node = network.add("conv", [value.node], scope)
    for part in kernel.parts:
        _own_layout(network, node, Role.WEIGHT, part, kernel.use, "activations scale it")
    return Activation(node)


def norm(
    network: TracedNetwork, source: int, over_batch: bool, scales: Sequence[TracedParameter], scope: str
) -> Activation:
    """A normalisation by statistics of its input."""
    value = Activation(network.add("bn" if over_batch else "ln", [source], scope), direct=True)
    for scale in scales:
        value = scale_by_parameter(network, value, scale, scope)
    return value


def norm_of_scale(network: TracedNetwork, value: Activation) -> Activation:
    """A scale that running statistics follow: the norm layer's own, whatever comes first."""
    network.nodes[value.node].bare = False
    network.claims = [
        dataclasses.replace(claim, remark="") if claim.node == value.node else claim for claim in network.claims
    ]
    return value


def position(network: TracedNetwork, parameter: TracedParameter, scope: str, remark: str) -> Activation:
    """A parameter that is an activation by itself: a positional encoding, a class token, a learned query.

    The last axis are its channels.  Two others are height and width; any other number of positions is laid out row
    by row on the smallest square grid that holds them.
    """
    node = network.add("pos_enc", [], scope)
    for part in parameter.parts:
        view = part if part.axes is not None and part.size == part.picked.size else part.picked
        axes = [axis for axis in view.laid_out if any(atom.axis != REPEATED for atom in axis)]
        *places, channels = axes or [()]
        atoms = [atom for axis in places for atom in axis]
        positions = count(atoms)
        if len(places) == 2:
            shape = (1, count(places[0]), count(places[1]), count(channels))
            groups: list[list[Atom]] = [[], list(places[0]), list(places[1]), list(channels)]
            network.claim(node, Role.POSITION, view, groups, shape, remark, use=parameter.use)
            continue
        side = math.isqrt(positions - 1) + 1 if positions > 1 else 1
        shape = (1, -(-positions // side), side, count(channels))
        cut = positions if shape[1] * side > positions else None
        grid = f"{positions} positions, predicted as a {shape[1]}x{side} grid" if positions > 1 else ""
        network.claim(node, Role.POSITION, view, [atoms, list(channels)], shape, remark or grid, cut, parameter.use)
    return Activation(node)


def _claim_vectors(network: TracedNetwork, node: int, role: Role, parameter: TracedParameter, remark: str = "") -> None:
    for part in parameter.parts:
        view = part.known()
        atoms = [atom for axis in view.laid_out for atom in axis]
        remark = remark or (LOST_LAYOUT if part.axes is None else "")
        network.claim(node, role, view, [atoms], (count(atoms),), remark, use=parameter.use)
    if parameter.joined:
        network.nodes[node].shape = (parameter.size, 1, 1, 1)


def _own_layout(
    network: TracedNetwork,
    node: int,
    role: Role,
    part: View,
    use: int | None,
    remark: str = LOST_LAYOUT,
    used: int | None = None,
) -> None:
    """Claims a parameter in its own layout: its last axis is the output, the one before it the input.

    If only so many of its elements are `used` at once, it is a stack of layers, which are predicted side by side.
    """
    view = part.picked
    if len(view.shape) < 2:
        network.refuse(view.leaf, "a linear layer computes its weights from it")
        return
    *spatial, inputs, outputs = view.laid_out
    stack: list[Atom] = []
    while spatial and used is not None and count(stack) * used < view.size:
        stack += spatial.pop(0)
    groups = [list(inputs), [*stack, *outputs]]
    if spatial:
        groups = [[atom for axis in (spatial[:-1] or spatial) for atom in axis], [], *groups]
        groups[1] = list(spatial[-1]) if len(spatial) > 1 else []
    if role is Role.DEPTHWISE_WEIGHT and count(inputs) != 1:
        role = Role.WEIGHT
    network.claim(node, role, view, groups, tuple(count(group) for group in groups), remark, use=use)
