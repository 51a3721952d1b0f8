"""Functions of users, staged to jaxprs: whatever axis names they use, and constants that they want to know at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from ghn_jax.tracing.errors import TraceError

_UNBOUND = re.compile(r"unbound axis name: (\w+)")

_MOST_AXES = 8

_CONCRETE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


class Needs(NamedTuple):
    """What a function needs to be staged.

    Attributes:
      axes: names of mapped axes, bound with size 1.
      eager: constants are computed while it is staged, so that it may ask for their values.
    """

    axes: tuple[str, ...] = ()
    eager: bool = False

    def meet(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with its needs met, to be called or staged."""
        for axis in self.axes:
            function = _mapped(function, axis)
        return _eager(function) if self.eager else function


class Staged(NamedTuple):
    """A jaxpr, the shapes of its outputs in their pytree, and what it took."""

    jaxpr: core.ClosedJaxpr
    output: Any
    needs: Needs


def stage(what: str, function: Callable[..., Any], *args: Any) -> Staged:
    """The jaxpr of `function`; axis names that it uses and nobody binds have size 1.

    Raises:
      TraceError: it fails; its own error is the cause.
    """
    needs = Needs()
    while True:
        ready = _eager(function) if needs.eager else function
        axes: Any = [(axis, 1) for axis in needs.axes]
        try:
            jaxpr, output = jax.make_jaxpr(ready, axis_env=axes, return_shape=True)(*args)
            return Staged(jaxpr, output, needs)
        except TraceError:
            raise
        except Exception as error:  # the user's code may raise anything; it becomes the cause of ours
            more = _more(needs, error)
            if more is None:
                raise TraceError(f"{what} fails: {type(error).__name__}: {error}") from error
            needs = more


def _more(needs: Needs, error: Exception) -> Needs | None:
    """What it takes to stage a function that failed with `error`; None if that is not known."""
    if isinstance(error, _CONCRETE) and not needs.eager:
        return needs._replace(eager=True)
    found = _UNBOUND.search(str(error)) if isinstance(error, NameError) else None
    if found is None or found[1] in needs.axes or len(needs.axes) == _MOST_AXES:
        return None
    return needs._replace(axes=(*needs.axes, found[1]))


def _eager(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args):
        with jax.ensure_compile_time_eval():
            return function(*args)

    return call


def _mapped(function: Callable[..., Any], axis: str) -> Callable[..., Any]:
    def call(*args):
        outputs = jax.vmap(lambda: function(*args), axis_name=axis, axis_size=1)()
        return jax.tree.map(lambda output: output[0], outputs)

    return call


def named_outputs(output: Any) -> Sequence[str]:
    """Paths of the leaves of an output, joined by "/"."""
    found, _ = jax.tree_util.tree_flatten_with_path(output)
    return [jax.tree_util.keystr(tuple(path), simple=True, separator="/") for path, _ in found]
