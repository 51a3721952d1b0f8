"""Layout operations on parameters: reshapes, transposes, broadcasts, and cutting out parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ghn_jax.networks.primitives import Shape
from ghn_jax.tracing.layout import View
from ghn_jax.tracing.values import TracedParameter

OPERATIONS = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "tile")


def change(parameter: TracedParameter, operation: str, params: Mapping[str, Any], shape: Shape) -> TracedParameter:
    """`operation`, one of `OPERATIONS`, on a parameter; `shape` is that of the result."""
    if parameter.joined and parameter.axis is not None and operation == "transpose":
        order = params["permutation"]
        parts = tuple(part.transpose(order) for part in parameter.parts)
        return dataclasses.replace(parameter, parts=parts, axis=order.index(parameter.axis))

    def of_view(view: View) -> View:
        match operation:
            case "reshape":
                order = params.get("dimensions")
                return (view if order is None else view.transpose(order)).reshape(shape)
            case "transpose":
                return view.transpose(params["permutation"])
            case "squeeze":
                return view.squeeze([axis % len(view.shape) for axis in params["dimensions"]])
            case "expand_dims":
                return view.reshape(shape)
            case "broadcast_in_dim":
                return view.broadcast(shape, params["broadcast_dimensions"])
            case "rev":
                return view
        return view.lost(shape)

    return _on_view(parameter, of_view, shape)


def lose(parameter: TracedParameter, shape: Shape) -> TracedParameter:
    """The parameter after an operation that mixes up its layout."""
    return dataclasses.replace(parameter, parts=tuple(part.lost(shape) for part in parameter.parts), axis=None)


def broadcast_to(parameter: TracedParameter, shape: Shape) -> TracedParameter:
    """The parameter broadcast as in arithmetic."""
    own = parameter.view.shape
    first = len(shape) - len(own)
    if first < 0 or any(size not in (1, other) for size, other in zip(own, shape[first:], strict=True)):
        return lose(parameter, shape)
    return _on_view(parameter, lambda view: view.broadcast(shape, range(first, len(shape))), shape)


def reduce(parameter: TracedParameter, axes: Sequence[int], shape: Shape) -> TracedParameter:
    """The parameter summed (or the like) over axes: what is left of it is laid out as before."""

    def of_view(view: View) -> View:
        left = view.transpose([axis for axis in range(len(view.shape)) if axis not in axes])
        return left if left.shape == shape else view.lost(shape)

    return _on_view(parameter, of_view, shape)


def cut(parameter: TracedParameter, axis: int, start: int, stop: int) -> TracedParameter:
    """Indices from `start` up to `stop` along an axis; of concatenated parameters, those that these are in."""
    if len(parameter.parts) == 1 or axis != parameter.axis:
        return dataclasses.replace(parameter, parts=tuple(part.slice(axis, start, stop) for part in parameter.parts))
    kept, offset = [], 0
    for part in parameter.parts:
        first, last = max(start - offset, 0), min(stop - offset, part.shape[axis])
        if first < last:
            kept.append(part.slice(axis, first, last))
        offset += part.shape[axis]
    return dataclasses.replace(parameter, parts=tuple(kept), axis=axis if len(kept) > 1 else None)


def pick(parameter: TracedParameter, axis: int, index: int) -> TracedParameter:
    """The part at one index of an axis."""
    picked = cut(parameter, axis, index, index + 1)
    return dataclasses.replace(picked, parts=tuple(part.squeeze([axis]) for part in picked.parts))


def join_parameters(parameters: Sequence[TracedParameter], axis: int) -> TracedParameter:
    """Parameters one after the other along an axis."""
    changed = any(parameter.changed for parameter in parameters)
    return TracedParameter(tuple(part for parameter in parameters for part in parameter.parts), axis, changed=changed)


def pair(real: TracedParameter, imaginary: TracedParameter) -> TracedParameter:
    """A complex parameter of its two parts."""
    return TracedParameter(real.parts + imaginary.parts, paired=True)


def _on_view(parameter: TracedParameter, function: Callable[[View], View], shape: Shape) -> TracedParameter:
    if parameter.joined:
        return lose(parameter, shape)
    return dataclasses.replace(parameter, parts=tuple(function(part) for part in parameter.parts))
