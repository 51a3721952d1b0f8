"""The kinds of models that can be traced.

Every one becomes a `Call`: a function of parameters, states and inputs.  Only shapes are computed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ghn_jax.graphs.graph import Graph, GraphError
from ghn_jax.graphs.tree import Leaf
from ghn_jax.networks.convolution import native_operations
from ghn_jax.tracing.equations import flatten
from ghn_jax.tracing.errors import TraceError
from ghn_jax.tracing.layout import View
from ghn_jax.tracing.network import TracedNetwork
from ghn_jax.tracing.reading import read
from ghn_jax.tracing.values import CONSTANT, Activation, Statistic, TracedParameter, Value

STREAMS = ("params", "dropout", "default")
"""Names of the streams of random numbers that Linen modules are given; others fall back to the first."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A model, ready to be traced.

    Attributes:
      name: what errors call it.
      function: `function(params, states, *args, **kwargs)`, its outputs.
      params, states: pytrees of arrays or of their shapes and types; other leaves are static.
      initial: as in `tree.ParameterTree`.
    """

    name: str
    function: Callable[..., Any]
    params: Any
    states: Any
    initial: Callable[[Sequence[int], int], list[Any]]


def trace(model: Any, *inputs: Any, strict: bool = False, **kwargs: Any) -> Graph:
    """The computational graph of a model, with the place of every parameter in it.

    Nothing is computed but shapes; no parameters need exist.

        graph = ghn_jax.trace(linen_module, images, train=True)     # initialised or not, bound or not
        graph = ghn_jax.trace(nnx_module, images)
        graph = ghn_jax.trace(function, params, images)             # any function of parameters, as of Haiku
        graph = ghn_jax.trace(equinox_module, image)                # any callable pytree

    Then `ghn_jax.predict_params(graph)` has the structure of the model's own parameters, and `ghn_jax.report(graph)`
    says which of them are predicted.

    Args:
      model: a Linen module, an NNX module, a pytree with arrays that can be called, or a function whose first argument
        is a pytree of parameters (arrays, or their shapes and types as from `jax.eval_shape`).
      *inputs: what the model is called with: arrays, or `jax.ShapeDtypeStruct`s; anything else is static.
      strict: raise if anything cannot be predicted, instead of saying so in the report.
      **kwargs: further arguments of the call.  Linen: also `rngs`, `method`; NNX: also `method`.

    Raises:
      TraceError: the model does not accept the inputs (its own error is the cause), has no parameters, none that the
        outputs depend on, or a loop over too many layers; with `strict`, a parameter that cannot be predicted or an
        unknown operation.

    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> graph = ghn_jax.trace(nn.Conv(8, (3, 3)), jnp.ones((1, 32, 32, 3)))
    >>> [(tensor.name, tensor.shape) for tensor in graph.tensors]
    [('kernel', (3, 3, 3, 8)), ('bias', (8,))]
    """
    call, args = _call(model, inputs, kwargs)
    graph = _graph(call, args, kwargs)
    if strict:
        _refuse_unpredicted(call, graph)
    return graph


def _call(model: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, tuple[Any, ...]]:
    nnx = sys.modules.get("flax.nnx")  # an NNX module exists only where NNX was imported
    if isinstance(model, nn.Module):
        return _linen(model, inputs, kwargs), inputs
    if nnx is not None and isinstance(model, nnx.Module):
        return _nnx(nnx, model, kwargs), inputs
    if not callable(model):
        raise TraceError(f"expected a Linen or NNX module or a function, got {type(model).__name__}")
    if any(_is_array(leaf) for leaf in jax.tree.leaves(model)):
        name = type(model).__name__
        return Call(name, lambda tree, _, *args, **kw: tree(*args, **kw), model, (), _given(model)), inputs
    if not inputs:
        raise TraceError("trace(function, params, *inputs): the parameters are missing")
    params, *args = inputs
    name = getattr(model, "__name__", type(model).__name__)
    return Call(name, lambda tree, _, *args, **kw: model(tree, *args, **kw), params, (), _given(params)), tuple(args)


def _linen(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    name = type(module).__name__
    given = None
    if module.scope is not None:
        module, given = module.unbind()
    method = kwargs.pop("method", None)
    kwargs.pop("mutable", None)
    own_rngs = dict(kwargs.pop("rngs", None) or {})

    def rngs(seed=0):
        # Made while tracing, so that nothing is computed.
        streams = {name: jax.random.fold_in(jax.random.key(seed), i) for i, name in enumerate(STREAMS)}
        return streams | own_rngs

    def init(seed, *args, **kw):
        return module.init(rngs(seed), *args, method=method, **kw)

    variables = given
    if variables is None:
        fixed = _Arguments(inputs, kwargs)
        what = f"{name}.init({fixed.text})"
        variables = _attempt(what, lambda: jax.eval_shape(fixed.bind(lambda *a, **k: init(0, *a, **k)), fixed.arrays))
    states = {collection: values for collection, values in variables.items() if collection != "params"}

    def apply(params, states, *args, **kw):
        mutable = list(states) or False
        result = module.apply({**states, "params": params}, *args, rngs=rngs(), mutable=mutable, method=method, **kw)
        return result[0] if mutable else result

    def initial(indices: Sequence[int], seed: int) -> list[Any]:
        if given is not None:
            leaves = jax.tree.leaves(given.get("params", {}))
            return [leaves[index] for index in indices]
        fixed = _Arguments(inputs, kwargs)

        def chosen(seed, arrays):
            leaves = jax.tree.leaves(fixed.bind(lambda *a, **k: init(seed, *a, **k))(arrays)["params"])
            return [leaves[index] for index in indices]

        zeros = [jnp.zeros(array.shape, array.dtype) for array in fixed.arrays]
        return jax.jit(chosen)(seed, zeros)  # compiled, only the chosen ones are computed

    return Call(name, apply, variables.get("params", {}), states, initial)


def _nnx(nnx: Any, module: Any, kwargs: dict[str, Any]) -> Call:
    method = kwargs.pop("method", "__call__")
    graphdef, params, states = nnx.split(module, nnx.Param, ...)

    def apply(params, states, *args, **kw):
        merged = nnx.merge(graphdef, params, states)
        return getattr(merged, method)(*args, **kw)

    return Call(type(module).__name__, apply, params, states, _given(params))


def _given(params: Any) -> Callable[[Sequence[int], int], list[Any]]:
    """Parameters that exist are their own initial values."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if _is_array(leaf)]
    values = [None if isinstance(leaf, jax.ShapeDtypeStruct) else leaf for leaf in leaves]
    return lambda indices, seed: [values[index] for index in indices]


class _Arguments:
    """The arguments of a call: arrays, of which only shapes are used, and static ones."""

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any]):
        leaves, self.treedef = jax.tree_util.tree_flatten((tuple(args), kwargs))
        self.static = [None if _is_array(leaf) else leaf for leaf in leaves]
        self.is_array = [_is_array(leaf) for leaf in leaves]
        self.arrays = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves if _is_array(leaf)]

    @property
    def text(self) -> str:
        """Shapes and types of the arrays."""
        return ", ".join(_text(array) for array in self.arrays)

    def bind(self, function: Callable[..., Any]) -> Callable[[Sequence[Any]], Any]:
        """`function` as one of the arrays alone."""

        def bound(arrays):
            rest = iter(arrays)
            leaves = [next(rest) if is_array else s for is_array, s in zip(self.is_array, self.static, strict=True)]
            args, kwargs = jax.tree_util.tree_unflatten(self.treedef, leaves)
            return function(*args, **kwargs)

        return bound


def _graph(call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Graph:
    params, states, arguments = _Tree(call.params), _Tree(call.states), _Arguments(args, kwargs)
    if not any(_is_float(leaf) for leaf in params.arrays):
        raise TraceError(f"{call.name} has no parameters, nothing can be predicted")

    def function(param_leaves, state_leaves, arrays):
        trees = params.rebuild(param_leaves), states.rebuild(state_leaves)
        return arguments.bind(lambda *a, **k: call.function(*trees, *a, **k))(arrays)

    with native_operations(True):
        closed = _attempt(
            f"{call.name}({arguments.text})",
            lambda: jax.make_jaxpr(function)(params.arrays, states.arrays, arguments.arrays),
        )
    equations = flatten(closed, len(params.arrays), len(states.arrays))
    leaves = [Leaf(name, tuple(leaf.shape), leaf.dtype) for name, leaf in zip(params.names, params.arrays, strict=True)]
    network = TracedNetwork(leaves)
    values: dict[int, Value] = {}
    numbers = iter(equations.inputs)
    for index, leaf in enumerate(leaves):
        number = next(numbers)
        if _is_float(leaf):
            values[number] = TracedParameter((View.of(index, leaf.shape),))
        else:
            network.refuse(index, f"its type is {np.dtype(leaf.dtype).name}, only floating point numbers are predicted")
    for array in states.arrays:
        values[next(numbers)] = Statistic(None) if _is_float(array) else CONSTANT
    for array in arguments.arrays:
        number = next(numbers)
        if not _is_key(array):
            values[number] = Activation(network.add("input", [], "input"))
    outputs = read(equations, network, values)
    used = {number for equation in equations.equations for number in equation.inputs} | set(equations.outputs)
    reached = {index for index in range(len(leaves)) if equations.inputs[index] in used}
    if not reached:
        raise TraceError(f"the outputs of {call.name} depend on none of its parameters")
    try:
        return network.graph(outputs, params.rebuild, call.initial, reached, [_text(a) for a in arguments.arrays])
    except GraphError as error:
        raise TraceError(f"{call.name}: {error}") from error


class _Tree:
    """The arrays of a pytree, their names, and how to put others in their places."""

    def __init__(self, tree: Any):
        found, self._treedef = jax.tree_util.tree_flatten_with_path(tree)
        self._leaves = [leaf for _, leaf in found]
        self._indices = [index for index, leaf in enumerate(self._leaves) if _is_array(leaf)]
        self.names = [_name(found[index][0]) for index in self._indices]
        self.arrays = [
            jax.ShapeDtypeStruct(self._leaves[index].shape, self._leaves[index].dtype) for index in self._indices
        ]

    def rebuild(self, arrays: Sequence[Any]) -> Any:
        """The tree with these arrays."""
        leaves = list(self._leaves)
        for index, array in zip(self._indices, arrays, strict=True):
            leaves[index] = array
        return jax.tree_util.tree_unflatten(self._treedef, leaves)


def _name(path: Sequence[Any]) -> str:
    name = jax.tree_util.keystr(tuple(path), simple=True, separator="/")
    return name.removesuffix("/value") or "parameter"


def _attempt(what: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(f"{what} fails: {type(error).__name__}: {error}") from error


def _refuse_unpredicted(call: Call, graph: Graph) -> None:
    tree = graph.tree
    assert tree is not None
    reasons = [f"{tree.leaves[index].name!r}: {reason}" for index, reason in tree.unpredicted.items()]
    reasons += [f"unknown operation {place}" for place in tree.unsupported]
    if reasons:
        raise TraceError(f"{call.name} cannot be predicted as a whole: " + "; ".join(reasons))


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, np.floating)


def _is_key(array: Any) -> bool:
    raw = array.dtype == np.uint32 and array.shape[-1:] == (2,)
    return raw or jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _text(array: Any) -> str:
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
