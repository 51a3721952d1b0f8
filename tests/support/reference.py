"""Reads the figures computed with the published PyTorch implementation, and the graphs they belong to.

The folder is `../shared/reference` beside the repository, or that named by GHN_JAX_REFERENCE; tests that need it are
skipped in a clone without it.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import h5py
import numpy as np
import pytest

from ghn_jax.graphs.graph import NODE_ID, Graph, Role, Tensor, oihw, shortest_paths

_DEFAULT = pathlib.Path(__file__).resolve().parents[3] / "shared" / "reference"
REFERENCE = pathlib.Path(os.environ.get("GHN_JAX_REFERENCE", _DEFAULT))

HYPERNETWORKS = ("ghn2_cifar10", "ghn1_cifar10", "mlp_cifar10", "ghn2_imagenet")

needs_reference = pytest.mark.skipif(
    not (REFERENCE / "deepnets1m_eval.hdf5").exists(),
    reason=f"no reference figures in {REFERENCE} (set GHN_JAX_REFERENCE to their folder)",
)


@functools.cache
def load_json(name: str):
    """The contents of a JSON file of the reference folder."""
    return json.loads((REFERENCE / name).read_text())


def embeddings(hypernetwork: str) -> dict[str, np.ndarray]:
    """Node embeddings by graph key ("val/0")."""
    with np.load(REFERENCE / f"{hypernetwork}_embeddings.npz") as archive:
        return {name.replace("__", "/"): archive[name] for name in archive.files}


@functools.cache
def graph(key: str, dataset: str) -> Graph:
    """The graph called `key` ("val/0", "predefined/vit") with the parameters it has on `dataset`, in stored order."""
    split, index = key.split("/")
    if split == "predefined":
        return _predefined_graph(index, dataset)
    meta = load_json("deepnets1m_eval_meta.json")[split]["meta"]
    with h5py.File(REFERENCE / "deepnets1m_eval.hdf5") as file:
        distances = file[split][index]["adj"][:].astype(np.int32)
        nodes = file[split][index]["nodes"][:]
    types, names = [], []
    for primitive, cell, operation in nodes:
        node_type = meta["primitives_ext"][str(primitive)]
        name = meta["unique_op_names"][str(operation)]
        in_cell = not name.startswith(("stem", "pos_enc", "classifier"))
        types.append("conv" if node_type == "conv_1x1" else node_type)
        names.append(f"cells.{cell}.{name}" if in_cell else name)
    shapes = load_json("networks.json")[f"{key}/{dataset}"]["param_shapes"]
    return make_graph(types, names, shapes, distances)


def _predefined_graph(name: str, dataset: str) -> Graph:
    stored = load_json("predictions.json")[f"graph/{dataset}/{name}"]
    types = stored["node_types"]
    names = list(types)
    shapes = {}
    for node, parameter, shape in stored["node_params"]:
        if types[node] in ("max_pool", "avg_pool"):
            continue
        names[node] = parameter
        shapes[parameter] = shape
        if types[node] in ("bn", "ln"):
            shapes[_bias_of(parameter)] = shape
    edges = [(start, end) for start, end, distance in stored["edges"] if distance == 1]
    distances = shortest_paths(edges, len(types), cutoff=50)
    for start, end, distance in stored["edges"]:
        assert distances[start, end] == distance
    return make_graph(types, names, shapes, distances)


def _bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def make_graph(
    types: Sequence[str], names: Sequence[str], shapes: Mapping[str, Sequence[int]], distances: np.ndarray
) -> Graph:
    """A graph of nodes with these types and parameters (`names`); `shapes` are in PyTorch layout.

    Parameters of operations that nothing reads have a shape and no node.
    """
    node_shapes = np.zeros((len(types), 4), np.int32)
    tensors = []
    for node, (node_type, name) in enumerate(zip(types, names, strict=True)):
        if name not in shapes:
            if node_type in ("max_pool", "avg_pool"):
                node_shapes[node] = (1, 1, 3, 3)
            continue
        last = node >= len(types) - 2
        role = _role(node_type, shapes[name], last)
        owned = [Tensor(name, node, role, jax_shape(role, shapes[name]))]
        if role is Role.NORM_WEIGHT:
            owned.append(Tensor(_bias_of(name), node, Role.BIAS, tuple(shapes[_bias_of(name)])))
        node_shapes[node] = oihw(role, owned[0].shape)
        tensors.extend(owned)
    ids = np.array([NODE_ID[node_type] for node_type in types], np.int32)
    return Graph(ids, node_shapes, distances, tuple(tensors))


def _role(node_type: str, shape: Sequence[int], last: bool) -> Role:
    if node_type in ("bn", "ln"):
        return Role.NORM_WEIGHT
    if node_type == "bias":
        return Role.CLASS_BIAS if last else Role.BIAS
    if node_type == "pos_enc":
        return Role.POSITION
    if last:
        return Role.CLASS_WEIGHT
    return Role.DEPTHWISE_WEIGHT if node_type in ("sep_conv", "dil_conv") else Role.WEIGHT


def jax_shape(role: Role, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape in PyTorch layout as one in JAX layout."""
    if len(shape) == 4 and role is Role.POSITION:
        return (shape[0], shape[2], shape[3], shape[1])
    if len(shape) == 4:
        return (shape[2], shape[3], shape[1], shape[0])
    return tuple(reversed(shape))


def to_torch(role: Role, values: np.ndarray) -> np.ndarray:
    """Values in JAX layout as an array in PyTorch layout."""
    if values.ndim == 4 and role is Role.POSITION:
        return values.transpose(0, 3, 1, 2)
    if values.ndim == 4:
        return values.transpose(3, 2, 0, 1)
    return values.T
