"""The kinds of models that can be traced.

Every one becomes a `Call`: a function of parameters, states and inputs.  Only shapes are computed.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ghn_jax.checks.fields import Either, Flag, Several, Text, Whole, shown, taken
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import Graph, GraphError
from ghn_jax.graphs.tree import Leaf
from ghn_jax.networks.convolution import native_operations
from ghn_jax.runtime import own_settings
from ghn_jax.tracing.classification import NO_INPUT, Kinds, Named, classify
from ghn_jax.tracing.errors import TraceError
from ghn_jax.tracing.initial_values import Magnitudes, of_arrays, of_program
from ghn_jax.tracing.layout import View
from ghn_jax.tracing.network import About, TracedNetwork
from ghn_jax.tracing.reading import read
from ghn_jax.tracing.staging import Needs, Staged, stage
from ghn_jax.tracing.states import fits
from ghn_jax.tracing.values import Activation, Statistic, TracedParameter, Value

STREAMS = ("params", "dropout", "default")
"""Names of the streams of random numbers that Linen modules are given; others fall back to the first."""


_STATE = Several(Either(Text(), Whole(0, 1 << 20)), 0, 1 << 20)


@dataclasses.dataclass(frozen=True)
class Call:
    """A model, ready to be traced.

    Attributes:
      name: what errors call it.
      function: `function(params, states, *args, **kwargs)`, its outputs.
      params, states: pytrees of arrays or of their shapes and types; other leaves are static.
      initial: as in `tree.ParameterTree`.
      magnitudes: of the initial values.
    """

    name: str
    function: Callable[..., Any]
    params: Any
    states: Any
    initial: Callable[[Sequence[int], int], list[Any]]
    magnitudes: Magnitudes


def trace(model: Any, *inputs: Any, strict: bool = False, state: Sequence[str | int] = (), **kwargs: Any) -> Graph:
    """The computational graph of a model, with the place of every parameter in it.

    Nothing is computed but shapes; no parameters need exist.

        graph = ghn_jax.trace(linen_module, images, train=True)     # initialised or not, bound or not
        graph = ghn_jax.trace(nnx_module, images)
        graph = ghn_jax.trace(function, params, images)             # any function of parameters, as of Haiku
        graph = ghn_jax.trace(equinox_module, image)                # any callable pytree

    Then `ghn_jax.predict_params(graph)` has the structure of the model's own parameters, and `ghn_jax.report(graph)`
    says which of them are predicted.  Arrays that are no parameters keep their values, and the report says why: running
    statistics, random keys, integers, what is under `stop_gradient` (`ghn_jax.tracing.states` has the rules).  States
    of Haiku, Equinox or Keras are arguments like others, and known by what is done with them.

    Args:
      model: a Linen module, an NNX module, a pytree with arrays that can be called, or a function whose first argument
        is a pytree of parameters (arrays, or their shapes and types as from `jax.eval_shape`).
      *inputs: what the model is called with: arrays, or `jax.ShapeDtypeStruct`s; anything else is static.
      strict: raise if anything cannot be predicted, instead of saying so in the report.
      state: what else is no parameter or no input: paths of leaves ("*/table"; a folder stands for all that is in it),
        positions among `inputs`, names among `kwargs`.
      **kwargs: further arguments of the call.  Linen: also `rngs`, `method`; NNX: also `method`.

    Raises:
      TraceError: the model does not accept the inputs (its own error is the cause), has no parameters, none that the
        outputs depend on, or a loop over too many layers; a `state` that is not there; with `strict`, a parameter that
        cannot be predicted, an unknown operation, no input, or more nodes than a hypernetwork reads.

    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> graph = ghn_jax.trace(nn.Conv(8, (3, 3)), jnp.ones((1, 32, 32, 3)))
    >>> [(tensor.name, tensor.shape) for tensor in graph.tensors]
    [('kernel', (3, 3, 3, 8)), ('bias', (8,))]
    """
    strict = taken(strict, Flag(), TraceError, "strict")
    patterns = tuple(map(str, taken(state, _STATE, TraceError, "state")))
    call, args = _call(model, inputs, kwargs)
    graph = _graph(call, _Arguments(args, kwargs, first=len(inputs) - len(args)), patterns, strict)
    assert graph.tree is not None
    reasons = [*graph.tree.shortcomings, *(note for note in graph.tree.notes if note.startswith(NO_INPUT))]
    if strict and reasons:
        raise TraceError(f"{call.name} cannot be predicted as a whole: {'; '.join(reasons)}")
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
        return _with_values(name, lambda tree, _, *args, **kw: tree(*args, **kw), model, ()), inputs
    if not inputs:
        raise TraceError("trace(function, params, *inputs): the parameters are missing")
    params, *args = inputs
    name = getattr(model, "__name__", type(model).__name__)
    return _with_values(name, lambda tree, _, *args, **kw: model(tree, *args, **kw), params, ()), tuple(args)


def _linen(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    name = type(module).__name__
    given = None
    if module.scope is not None:
        module, given = module.unbind()
    method = kwargs.pop("method", None)
    kwargs.pop("mutable", None)
    own_rngs = kwargs.pop("rngs", None)
    own_rngs = {} if own_rngs is None else own_rngs
    if not isinstance(own_rngs, Mapping):
        raise TraceError(f"rngs={shown(own_rngs)}: expected keys by the name of their stream")

    def rngs(seed):
        # Made while tracing, of a seed that is traced too, so that nothing is computed.
        streams = {name: jax.random.fold_in(jax.random.key(seed), i) for i, name in enumerate(STREAMS)}
        return {**streams, **own_rngs}

    def init(seed, *args, **kw):
        return module.init(rngs(seed), *args, method=method, **kw)

    fixed = _Arguments(inputs, kwargs)

    def initialise(seed, arrays):
        return fixed.bind(lambda *a, **k: init(seed, *a, **k))(arrays)

    if given is None:
        what = f"{name}.init({fixed.text})"
        staged = stage(what, initialise, jax.ShapeDtypeStruct((), np.int32), fixed.arrays)
        variables, needs = staged.output, staged.needs
        numbers = jax.tree.unflatten(jax.tree.structure(variables), range(len(jax.tree.leaves(variables))))
        magnitudes = of_program(staged.jaxpr, jax.tree.leaves(numbers.get("params", {})))
    else:
        variables, needs = given, Needs()
        magnitudes = of_arrays(jax.tree.leaves(given.get("params", {})))
    states = {collection: values for collection, values in variables.items() if collection != "params"}

    def apply(params, states, *args, **kw):
        mutable = list(states) or False
        result = module.apply({**states, "params": params}, *args, rngs=rngs(0), mutable=mutable, method=method, **kw)
        return result[0] if mutable else result

    @functools.cache
    def compiled(indices: tuple[int, ...]) -> Callable[..., list[Any]]:
        def chosen(seed, arrays):
            leaves = jax.tree.leaves(initialise(seed, arrays)["params"])
            return [leaves[index] for index in indices]

        return jax.jit(needs.meet(chosen))  # compiled, only the chosen ones are computed

    @own_settings()
    def initial(indices: Sequence[int], seed: int) -> list[Any]:
        if given is not None:
            leaves = jax.tree.leaves(given.get("params", {}))
            return [leaves[index] for index in indices]
        return compiled(tuple(indices))(seed, [np.zeros(array.shape, array.dtype) for array in fixed.arrays])

    return Call(name, apply, variables.get("params", {}), states, initial, magnitudes)


def _nnx(nnx: Any, module: Any, kwargs: dict[str, Any]) -> Call:
    method = kwargs.pop("method", "__call__")
    graphdef, params, states = nnx.split(module, nnx.Param, ...)

    def apply(params, states, *args, **kw):
        merged = nnx.merge(graphdef, params, states)
        return getattr(merged, method)(*args, **kw)

    return _with_values(type(module).__name__, apply, params, states)


def _with_values(name: str, function: Callable[..., Any], params: Any, states: Any) -> Call:
    """A model whose parameters exist: they are their own initial values.  Shapes alone have none."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if _is_array(leaf)]
    values = [None if isinstance(leaf, jax.ShapeDtypeStruct) else leaf for leaf in leaves]

    def initial(indices: Sequence[int], seed: int) -> list[Any]:
        return [values[index] for index in indices]

    return Call(name, function, params, states, initial, of_arrays(leaves))


class _Arguments:
    """The arguments of a call: arrays, of which only shapes are used, and static ones."""

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any], first: int = 0):
        self.trees = {str(first + position): tree for position, tree in enumerate(args)} | kwargs
        self.names = [
            f"{key}/{_name(path)}" if path else key
            for key, tree in [*list(self.trees.items())[: len(args)], *sorted(kwargs.items())]
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
            if _is_array(leaf)
        ]
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


def _graph(call: Call, arguments: _Arguments, patterns: tuple[str, ...], strict: bool) -> Graph:
    params, states = _Tree(call.params), _Tree(call.states)
    if not any(_is_float(leaf) for leaf in params.arrays):
        raise TraceError(f"{call.name} has no parameters, nothing can be predicted")

    def function(param_leaves, state_leaves, arrays):
        trees = params.rebuild(param_leaves), states.rebuild(state_leaves)
        return arguments.bind(lambda *a, **k: call.function(*trees, *a, **k))(arrays)

    with native_operations(True):
        what = f"{call.name}({arguments.text})"
        staged = stage(what, function, params.arrays, states.arrays, arguments.arrays)
    with own_settings():  # the model has been staged by those of its user
        return _read(call, arguments, staged, (params, states), patterns, strict)


def _read(
    call: Call,
    arguments: _Arguments,
    staged: Staged,
    trees: tuple[_Tree, _Tree],
    patterns: tuple[str, ...],
    strict: bool,
) -> Graph:
    """The graph of a model that has been staged."""
    params, states = trees
    named = Named(params.names, params.arrays, call.params)
    given = Named(arguments.names, arguments.arrays, arguments.trees)
    known = [*params.names, *arguments.names, *arguments.trees]
    if unfit := [pattern for pattern in patterns if not any(fits(name, pattern) for name in known)]:
        raise TraceError(f"state={shown(unfit)}: there is no such leaf or argument, known are {', '.join(known)[:300]}")
    kinds = classify(staged, named, len(states.arrays), given, patterns)
    equations = kinds.equations
    leaves = [Leaf(name, tuple(leaf.shape), leaf.dtype) for name, leaf in zip(params.names, params.arrays, strict=True)]
    network = TracedNetwork(leaves)
    outputs = read(equations, network, _values(kinds, leaves, network))
    used = {number for equation in equations.equations for number in equation.inputs} | set(equations.outputs)
    reached = {index for index in range(len(leaves)) if equations.inputs[index] in used}
    if not reached:
        raise TraceError(f"the outputs of {call.name} depend on none of its parameters")
    inputs = [_text(arguments.arrays[index]) for index in kinds.inputs]
    about = About(
        params.rebuild, call.initial, call.magnitudes, reached, tuple(inputs), kinds.states, kinds.notes
    )  # fmt: skip
    try:
        return network.graph(outputs, equations, about, padding.NODE_BUCKETS[-1] - 1 if strict else None)
    except GraphError as error:
        raise TraceError(f"{call.name}: {error}") from error


def _values(kinds: Kinds, leaves: Sequence[Leaf], network: TracedNetwork) -> dict[int, Value]:
    """What is known of the program's inputs, and of arrays that it closes over."""
    numbers = kinds.equations.inputs
    values: dict[int, Value] = {}
    for index, leaf in enumerate(leaves):
        if index not in kinds.states:
            values[numbers[index]] = TracedParameter((View.of(index, leaf.shape),), number=numbers[index])
    for number in kinds.given:
        values[number] = Activation(network.add("input", [], "input"))
    values |= {number: Statistic(None) for number in kinds.variances if number not in values}
    return values


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


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, np.floating)


def _text(array: Any) -> str:
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
