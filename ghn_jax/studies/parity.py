"""A folder of figures computed with the published PyTorch implementation, and how it names, counts and lays out.

`benchmarks/check_parity.py` compares this package with such a folder.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax.deepnets.files.matching import NodeRow
from ghn_jax.deepnets.files.nodes import UnknownIdError, matching_rows, plain_labels, spelled_out
from ghn_jax.errors import GHNError, extra
from ghn_jax.execution import whole
from ghn_jax.graphs.graph import Graph
from ghn_jax.graphs.torch_layout import from_torch, torch_shape
from ghn_jax.networks import architecture as arch
from ghn_jax.networks.architecture import AnyArchitecture, ArchitectureError, Task
from ghn_jax.networks.primitives import Primitive
from ghn_jax.networks.program import ParameterTensor, Program

with extra("deepnets"):
    import h5py

TASKS = {"cifar10": arch.CIFAR10, "imagenet": arch.IMAGENET}
"""By the names of data sets in the files."""

GRAPHS = "deepnets1m_eval.hdf5"
META = "deepnets1m_eval_meta.json"
NETWORKS = "networks.json"
PREDICTIONS = "predictions.json"

GHN3 = "ghn3"
"""The folder, beside the other figures, of those computed with the code of GHN-3."""

LONGEST_VIRTUAL_EDGE = 50
"""Of the graphs in `PREDICTIONS`."""


class ParityError(GHNError):
    """Something in the folder that is missing, makes no sense or disagrees with this package."""


class StoredGraph(NamedTuple):
    """A graph of the folder: its list of nodes, labelled by type and parameter, and distances `[nodes, nodes]`."""

    rows: list[NodeRow]
    distances: np.ndarray


class Figures(NamedTuple):
    """Figures of hypernetworks: what they predict for the graphs of a folder.

    Attributes:
      title: what sections about them begin with.
      folder: of weights, embeddings and predictions.
      place: of the folder, to be read in messages.
      predictions: contents of `PREDICTIONS`.
      fewer: what a standard deviation divides by is the number of elements, or one fewer.
    """

    title: str
    folder: pathlib.Path
    place: str
    predictions: dict[str, Any]
    fewer: int


class Reference:
    """The contents of a folder of figures.  Networks are called "<split>/<index>" or "predefined/<name>", as there.

    Raises:
      ParityError: here and in the methods, naming the file and the key.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.meta = self._json(META)
        self.networks = self._json(NETWORKS)
        self.predictions = self._json(PREDICTIONS)
        self.figures = [Figures("", folder, "", self.predictions, 0)]
        if (folder / GHN3).is_dir():
            predictions = self._json(f"{GHN3}/{PREDICTIONS}")
            self.figures.append(Figures("GHN-3: ", folder / GHN3, f"{GHN3}/", predictions, 1))
        try:
            with h5py.File(folder / GRAPHS) as opened:
                file: Any = opened
                self._graphs = {
                    f"{split}/{index}": (group["adj"][:].astype(np.int32), group["nodes"][:].tolist())
                    for split in file
                    for index, group in file[split].items()
                }
        except (OSError, KeyError) as error:
            raise ParityError(f"{GRAPHS} cannot be read: {error}") from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.folder / name).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ParityError(f"{name} cannot be read: {error}") from error

    @property
    def deepnets_keys(self) -> list[str]:
        """Networks of DeepNets-1M that have a graph or an entry in the meta file."""
        entries = [f"{split}/{index}" for split in self.meta for index in range(len(self.meta[split]["nets"]))]
        return list(dict.fromkeys([*entries, *self._graphs]))

    def entry(self, key: str) -> dict[str, Any]:
        """What the meta file says of a network of DeepNets-1M."""
        split, _, index = key.partition("/")
        nets = self.meta.get(split, {}).get("nets", [])
        if not index.isdigit() or int(index) >= len(nets):
            raise ParityError(f"{META}: no entry for {key}")
        return nets[int(index)]

    def architecture(self, key: str) -> AnyArchitecture:
        """The architecture of a network."""
        split, _, name = key.partition("/")
        try:
            return arch.named(name) if split == "predefined" else arch.from_json(self.entry(key))
        except ArchitectureError as error:
            raise ParityError(f"{META}: {key}: {error}") from error

    def graph(self, key: str, dataset: str) -> StoredGraph:
        """The graph of a network; only those of predefined ones depend on the data set."""
        split, _, name = key.partition("/")
        if split == "predefined":
            return self._predefined_graph(f"graph/{dataset}/{name}")
        if key not in self._graphs:
            raise ParityError(f"{GRAPHS}: no graph {key}")
        distances, nodes = self._graphs[key]
        names = self.meta[split]["meta"]
        primitives, operations = (
            {int(number): name for number, name in names[table].items()}
            for table in ("primitives_ext", "unique_op_names")
        )
        try:
            rows = matching_rows(spelled_out(nodes, primitives, operations))
        except UnknownIdError as error:
            raise ParityError(
                f"{GRAPHS}: {key}: {META} does not name the ids of node {error.node}, {nodes[error.node]}"
            ) from None
        return StoredGraph(rows, distances)

    def _predefined_graph(self, key: str) -> StoredGraph:
        if key not in self.predictions:
            raise ParityError(f"{PREDICTIONS}: no {key}")
        stored = self.predictions[key]
        labels = [f"{node_type} {node_type}" for node_type in stored["node_types"]]
        for node, name, shape in stored["node_params"]:
            labels[node] = f"{stored['node_types'][node]} {name} {list(shape)}"
        distances = np.zeros((len(labels),) * 2, np.int32)
        for start, end, distance in stored["edges"]:
            distances[start, end] = distance
        return StoredGraph([NodeRow(0, label, False) for label in labels], distances)


def predefined_labels(graph: Graph) -> list[str]:
    """Labels of the nodes as `Reference.graph` makes them of the predictions, which hold shapes."""
    labels = plain_labels(graph)
    for node, shape in enumerate(graph.node_shapes.tolist()):
        if shape[0]:
            labels[node] += f" {shape}"
    for tensor in reversed(graph.tensors):
        node_type, _, _ = labels[tensor.node].split(maxsplit=2)
        labels[tensor.node] = f"{node_type} {tensor.name} {list(torch_shape(tensor.role, tensor.shape))}"
    return labels


def images(task: Task) -> np.ndarray:
    """The images that the networks of the folder were run on, `[B, H, W, 3]`."""
    seed, batch = (1, 2) if task.large_images else (0, 4)
    values = np.random.RandomState(seed).standard_normal((batch, 3, task.image_size, task.image_size))
    return np.ascontiguousarray(values.astype(np.float32).transpose(0, 2, 3, 1))


def parameter(tensor: ParameterTensor) -> np.ndarray:
    """The values, in JAX layout, that a parameter had in the networks of `NETWORKS`: random, seeded by its name."""
    shape = torch_shape(tensor.role, tensor.shape)
    values = np.random.RandomState(zlib.crc32(tensor.name.encode())).standard_normal(shape)
    if len(shape) == 1:
        values = 1 + 0.1 * values if tensor.name.endswith("weight") else 0.1 * values
    elif tensor.name.startswith("pos_enc"):
        values = 0.1 * values
    else:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    return from_torch(tensor.role, values.astype(np.float32))


def logits(program: Program, params: whole.Params) -> np.ndarray:
    """Logits `[B, num_classes]` of a network for `images`.

    Networks of the folder differ, their primitives seldom do: those are compiled, once for all, and not the network.
    """
    instructions = tuple(
        instruction._replace(primitive=_Compiled(instruction.primitive)) for instruction in program.instructions
    )
    compiled = dataclasses.replace(program, instructions=instructions)
    with jax.default_matmul_precision("highest"):
        return np.asarray(whole.run(compiled, params, _device_images(program.task)))


@functools.cache
def _device_images(task: Task) -> jax.Array:
    return jax.numpy.asarray(images(task))


@dataclasses.dataclass(frozen=True)
class _Compiled(Primitive):
    """A primitive that is compiled when it meets inputs of new shapes."""

    primitive: Primitive

    @property
    def parameters(self):
        return self.primitive.parameters

    def __call__(self, params, *inputs):
        return _call(self.primitive, params, inputs)


@functools.partial(jax.jit, static_argnums=0)
def _call(primitive: Primitive, params, inputs) -> jax.Array:
    return primitive(params, *inputs)
