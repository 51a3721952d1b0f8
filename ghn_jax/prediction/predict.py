"""Predicting all parameters of a network.

On CPUs nothing is compiled for a new architecture: the node embeddings are compiled once for every size of graph
(`embedders.sizes_to_predict`), the decoders for chunks of a fixed number of rows, and the tensors of the target's own
shapes are made with NumPy, each element written once.  On an accelerator `predict_on_device` keeps everything there.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, overload

import jax
import numpy as np
from jax import core
from jax._src.interpreters import pxla

from ghn_jax.checks.fields import Flag, Whole, taken
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.ghn.embedders import sizes_to_predict
from ghn_jax.ghn.fit import fit_into
from ghn_jax.ghn.model import GHN
from ghn_jax.ghn.rows import Placement, Table, request
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import LARGEST_SIZE, Graph, GraphError, Role, Tensor
from ghn_jax.graphs.tree import ParameterTree
from ghn_jax.networks.platforms import accelerator, default_device, processors
from ghn_jax.prediction import on_cpu, on_device
from ghn_jax.runtime import check_not_forked, outside_of_traces
from ghn_jax.weights import pretrained

# Arrays that begin at multiples of this many bytes become JAX arrays without a copy on the CPU.
_ALIGNMENT = 64

# Graphs of a list that are decoded together.
_TOGETHER = 16

_SEEDS = Whole(-(1 << 63), (1 << 63) - 1)

# Writing fewer elements than this is not worth a second thread.
_ELEMENTS_PER_THREAD = 1 << 20


@overload
def predict_params(graph: Graph, ghn: GHN | None = None, *, seed: int = 0, strict: bool = False) -> Any: ...


@overload
def predict_params(
    graph: Sequence[Graph], ghn: GHN | None = None, *, seed: int = 0, strict: bool = False
) -> list[Any]: ...


@outside_of_traces()
def predict_params(
    graph: Graph | Sequence[Graph], ghn: GHN | None = None, *, seed: int = 0, strict: bool = False
) -> Any:
    """All parameters of the network that `graph` describes, computed on JAX's default device.

    Everything is computed in full float32 on every platform.  On CPUs the arrays share one piece of memory, which lives
    as long as any of them.  Accelerators compile a small program for every kind of parameter that they meet for the
    first time (`warm_up`).

    Args:
      graph: of the network, from `ghn_jax.trace` or `build_graph`; or a list of graphs, whose parameters are decoded
        together.
      ghn: the hypernetwork; None takes the one shipped with the package, which was trained on Fashion-MNIST
        (`ghn_jax.load`).
      seed: of the model's own initialisers, for parameters that the hypernetwork cannot predict
        (`ghn_jax.report(graph)` lists them).
      strict: raise if there are any, or operations that tracing does not know.

    Returns:
      For a traced model a pytree of exactly its own parameters' structure, shapes and types.  For a graph of
      `build_graph` a dictionary by name, in JAX layout and in the order of its tensors.  For a list, a list of these.

    Raises:
      GraphError: something that is not a valid Graph, a graph that is too large, two tensors of one name, class layers
        of another number of classes than the hypernetwork predicts (those of a traced model are then predicted as other
        layers), parameters that cannot be predicted (with `strict`) or of which no initial values are known.
      ConfigError: weights of the hypernetwork that are not finite.
      ForkError: this process was forked from one that has used JAX.
      CompilationError: the compiler of an accelerator fails (`ghn_jax.execution.compiling`).

    >>> graph = ghn_jax.build_graph(ghn_jax.named('resnet50'))
    >>> params = ghn_jax.predict_params(graph)
    >>> params['fc.weight'].shape
    (2048, 10)
    >>> [len(params) for params in ghn_jax.predict_params([graph, graph])]
    [161, 161]
    """
    ghn = chosen_ghn(ghn, "predict_params")
    graphs: list[Any] = list(graph) if isinstance(graph, (list, tuple)) else [graph]
    seed = taken(seed, _SEEDS, GraphError, "seed")
    strict = taken(strict, Flag(), GraphError, "strict")
    for one in graphs:  # all of them, before long work
        _check(one, strict)
    targets = [_Named(one) if one.tree is None else _Model(one, one.tree, ghn.config, seed) for one in graphs]
    device = accelerator()
    if device is None:
        found = _predict_on_cpu(targets, ghn)
    else:
        found = [target.on_device(ghn, device) for target in targets]
    return found if isinstance(graph, (list, tuple)) else found[0]


def _check(graph: Graph, strict: bool) -> None:
    """Raises `GraphError` for a graph that nothing can be predicted for."""
    padding.check_graph(graph)
    if graph.tree is None:
        names = [tensor.name for tensor in graph.tensors]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise GraphError(f"two tensors are called {twice!r}")
    elif strict and graph.tree.shortcomings:
        raise GraphError(f"parameters that cannot be predicted: {'; '.join(graph.tree.shortcomings)}")


def chosen_ghn(ghn: GHN | None, function: str) -> GHN:
    """The hypernetwork given to a function, or the one in the package.

    Raises:
      ForkError: this process cannot use JAX.
      ConfigError: its weights are not finite, or not those of its configuration.
    """
    check_not_forked()
    if ghn is None:
        ghn = pretrained.load()
    if not isinstance(ghn, GHN):
        raise TypeError(
            f"{function} expected a GHN, such as ghn_jax.load('ghn2_fashion_mnist'), got a {type(ghn).__name__}"
        )
    if ghn not in _finite:
        pretrained.check_params(ghn)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(ghn.params):
            name = jax.tree_util.keystr(keys, simple=True, separator="/")
            if isinstance(leaf, core.Tracer):
                raise ConfigError(
                    f"array {name} of the hypernetwork has no values while JAX traces a function: predict outside of it"
                )
            if not np.isfinite(leaf).all():
                raise ConfigError(f"array {name} of the hypernetwork has values that are not finite")
        _finite.add(ghn)
    return ghn


_finite: weakref.WeakSet[GHN] = weakref.WeakSet()
"""Hypernetworks whose weights were looked at."""


class _Named:
    """The parameters of a program's graph, which become a dictionary by name."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def on_device(self, ghn: GHN, device: Any) -> dict[str, jax.Array]:
        """What is predicted on an accelerator."""
        return self._by_name(on_device.predict_tensors(self.graph, ghn, device))

    def allocate(self) -> list[np.ndarray]:
        """An array for every tensor of the graph."""
        self._buffers = _allocate([tensor.shape for tensor in self.graph.tensors])
        return self._buffers

    def filled(self) -> dict[str, jax.Array]:
        """The parameters, when the arrays are filled."""
        return self._by_name(_as_jax(self._buffers))

    def _by_name(self, tensors: Sequence[jax.Array]) -> dict[str, jax.Array]:
        return dict(zip([tensor.name for tensor in self.graph.tensors], tensors, strict=True))


class _Model:
    """The parameters of a traced model, which become its own tree."""

    def __init__(self, graph: Graph, tree: ParameterTree, config: HypernetConfig, seed: int):
        self.graph = _with_ordinary_classes(graph, config)
        self._tree = tree
        left = sorted({*tree.unpredicted, *tree.states})
        self._initial = dict(zip(left, tree.initial(left, seed), strict=True)) if left else {}
        if missing := [repr(tree.leaves[index].name) for index, values in self._initial.items() if values is None]:
            raise GraphError(
                f"{', '.join(missing)}: not predicted, and only a shape was given; trace with arrays instead"
            )

    def on_device(self, ghn: GHN, device: Any) -> Any:
        """What is predicted on an accelerator."""
        return self._rebuilt(on_device.predict_leaves(self.graph, self._tree.leaves, self._initial, ghn, device))

    def allocate(self) -> list[np.ndarray]:
        """An array for every tensor of the graph, within that of its leaf where it can be."""
        tensors = self.graph.tensors
        self._leaves = _allocate([leaf.shape for leaf in self._tree.leaves])
        self._predicted = {tensor.placed.leaf for tensor in tensors}
        for index in self._initial.keys() & self._predicted:
            self._leaves[index][...] = self._initial[index]  # the parts that are not predicted
        buffers, self._apart = [], []
        for tensor in tensors:
            buffer = tensor.placed.buffer(self._leaves[tensor.placed.leaf], tensor.shape)
            if buffer is None:
                buffer = np.empty(tensor.shape, np.float32)
                self._apart.append((tensor.placed, buffer))
            buffers.append(buffer)
        return buffers

    def filled(self) -> Any:
        """The parameters, when the arrays are filled."""
        for place, buffer in self._apart:
            place.write(self._leaves[place.leaf], buffer)
        whole = [i for i in range(len(self._leaves)) if i in self._predicted or i not in self._initial]
        arrays = [self._leaves[index].astype(self._tree.leaves[index].dtype, copy=False) for index in whole]
        return self._rebuilt(dict(zip(whole, _as_jax(arrays), strict=True)))

    def _rebuilt(self, predicted: Mapping[int, jax.Array]) -> Any:
        tree, values = self._tree, {**self._initial, **predicted}
        for correction in tree.corrections:
            leaf = tree.leaves[correction.leaf]
            values[correction.leaf] = jax.numpy.asarray(correction.function(values), leaf.dtype)
        return tree.rebuild([values[index] for index in range(len(tree.leaves))])


def _predict_on_cpu(targets: Sequence[_Named | _Model], ghn: GHN) -> list[Any]:
    """What is predicted for every target, in groups: decoded rows take memory too."""
    found: list[Any] = []
    device = default_device()
    for first in range(0, len(targets), _TOGETHER):
        group = targets[first : first + _TOGETHER]
        graphs = [target.graph for target in group]
        sizes = sizes_to_predict(ghn.config.hypernet)
        buckets = [padding.bucket(graph.num_nodes, sizes) for graph in graphs]
        requests, placements = request(graphs, max(buckets), ghn.config)
        on_cpu.begin(requests, dict.fromkeys(buckets), ghn, device)
        embeddings = np.zeros((len(graphs), max(buckets), ghn.config.hid), np.float32)
        for graph, rows in zip(graphs, embeddings, strict=True):
            rows[: graph.num_nodes] = on_cpu.embed_nodes(graph, ghn, device)
        decoded = on_cpu.decode_tables(
            graphs, embeddings.reshape(-1, ghn.config.hid), requests, placements, ghn, device
        )
        for target, places in zip(group, placements, strict=True):
            _fit_all(target.allocate(), target.graph.tensors, places, decoded, ghn.config)
            found.append(target.filled())
    return found


def _as_jax(arrays: list[np.ndarray]) -> list[jax.Array]:
    """JAX arrays that share the memory of these, on the default device and uncommitted, as of `jax.device_put`.

    That is for those of other types, which it may convert.  No public way is as fast for hundreds of small arrays: for
    140 of them this takes 0.8 ms, `device_put` of the list 2.9 ms, `jax.make_array_from_callback` 2.6 ms,
    `jnp.asarray`, which copies, 3.4 ms, and `jax.dlpack.from_dlpack` 5.5 ms.
    """
    if any(array.dtype != np.float32 for array in arrays):
        return jax.device_put(arrays, may_alias=True)
    device = default_device()
    sharding = jax.sharding.SingleDeviceSharding(device)
    return [
        pxla.batched_device_put(_float32(array.shape), sharding, [array], [device], committed=False) for array in arrays
    ]


@functools.cache
def _float32(shape: tuple[int, ...]) -> Any:
    """The type of an array of this shape, as JAX knows it."""
    return core.ShapedArray(shape, np.dtype(np.float32))


def _with_ordinary_classes(graph: Graph, config: HypernetConfig) -> Graph:
    """The graph; a classification layer for another number of classes is an ordinary layer."""
    return dataclasses.replace(graph, tensors=tuple(_as_ordinary(tensor, config) for tensor in graph.tensors))


def _as_ordinary(tensor: Tensor, config: HypernetConfig) -> Tensor:
    """The tensor, as one of an ordinary layer if it is of a classification layer for another number of classes."""
    ordinary = {Role.CLASS_WEIGHT: Role.WEIGHT, Role.CLASS_BIAS: Role.BIAS}
    if tensor.role not in ordinary or tensor.shape[-1] == config.num_classes:
        return tensor
    return dataclasses.replace(tensor, role=ordinary[tensor.role])


@outside_of_traces()
def warm_up(ghn: GHN | None = None, max_nodes: int = 1023, graphs: Sequence[Graph] = ()) -> None:
    """Compiles ahead what predictions on JAX's default device need, so that none of them has to wait.

    That is all of it on CPUs.  Accelerators also compile for the shapes of parameters: those of `graphs`, here, and
    others when they are first met.

        ghn_jax.warm_up(max_nodes=255, graphs=[ghn_jax.build_graph(ghn_jax.named("resnet50"))])

    Args:
      ghn: the hypernetwork; None takes the one shipped with the package.
      max_nodes: of the graphs to be predicted for.
      graphs: of some of them, as for `predict_params`.

    Raises:
      GraphError: no graph may have `max_nodes` nodes, or one of `graphs` is not valid.

    >>> ghn_jax.warm_up(max_nodes=63)
    """
    ghn = chosen_ghn(ghn, "warm_up")
    if not isinstance(graphs, Sequence):
        raise GraphError(f"graphs: expected a list of graphs, got {type(graphs).__name__}")
    for graph in graphs:
        padding.check_graph(graph)
    max_nodes = taken(max_nodes, Whole(1, LARGEST_SIZE), GraphError, "max_nodes")
    device = accelerator()
    sizes = padding.NODE_BUCKETS if device is not None else sizes_to_predict(ghn.config.hypernet)
    largest = padding.bucket(max([max_nodes, *(graph.num_nodes for graph in graphs)]), sizes)
    buckets = [nodes for nodes in sizes if nodes <= largest]
    if device is None:
        on_cpu.compile_ahead(ghn, buckets, default_device())
    else:
        graphs = [_with_ordinary_classes(graph, ghn.config) if graph.tree else graph for graph in graphs]
        on_device.compile_ahead(ghn.config, buckets, graphs, device)


@outside_of_traces()
def embed_nodes(graph: Graph, ghn: GHN) -> np.ndarray:
    """Embeddings of the nodes of a checked graph, `[nodes, hid]`, say to predict properties of networks from."""
    check_not_forked()
    device = accelerator()
    if device is None:
        return on_cpu.embed_nodes(graph, ghn, default_device())
    return on_device.embed_nodes(graph, ghn, device)


def _allocate(shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Uninitialised aligned arrays of these shapes, all in one piece of memory."""
    per_unit = _ALIGNMENT // np.dtype(np.float32).itemsize
    sizes = [math.prod(shape) for shape in shapes]
    starts = np.cumsum([0] + [-(-size // per_unit) * per_unit for size in sizes])
    try:
        memory = np.empty(int(starts[-1]) + per_unit, np.float32)
    except MemoryError as error:
        raise GraphError(f"the parameters of this graph do not fit into memory: {error}") from error
    first = -(memory.ctypes.data // memory.itemsize) % per_unit
    return [
        memory[start : start + size].reshape(shape)
        for shape, size, start in zip(shapes, sizes, (starts[:-1] + first).tolist(), strict=True)
    ]


def _fit_all(
    buffers: list[np.ndarray],
    tensors: tuple[Tensor, ...],
    placements: tuple[Placement, ...],
    decoded: Mapping[Table, on_cpu.DecodedTable],
    config: HypernetConfig,
) -> None:
    """Fills the buffers, on several threads if there is much to write."""

    def fill(first: int, last: int) -> None:
        part = slice(first, last)
        for buffer, tensor, place in zip(buffers[part], tensors[part], placements[part], strict=True):
            fit_into(buffer, decoded[place.table].rows(place), tensor, config)

    ends = np.cumsum([buffer.size for buffer in buffers])
    if not len(ends):
        return
    workers = min(processors(), 1 + int(ends[-1]) // _ELEMENTS_PER_THREAD)
    if workers == 1:
        fill(0, len(tensors))
        return
    # Contiguous groups of tensors with about the same number of elements.
    parts = 4 * workers
    bounds = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts, side="right")
    bounds = [0, *bounds.tolist(), len(tensors)]
    list(_pool().map(fill, bounds[:-1], bounds[1:]))


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(thread_name_prefix="ghn_jax_fit")
