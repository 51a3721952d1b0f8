"""Reading DeepNets-1M in its published format: an HDF5 file of graphs and a JSON file of architectures.

For every architecture there is `adj`, lengths of shortest paths (uint8, 1 for an edge, 0 for none), and `nodes`, a row
of ids for every node.  In the files of the original the two are numbered differently: `adj` is in a topological
order of the network, `nodes` is that order sorted by cell.  The original pairs them row by row, so most of its graphs
have shuffled node types.  `StoredSplit.graph` undoes the shuffle: it gives the true graph, and proves it by finding
every node of the architecture's own graph.  `StoredSplit.arrays` gives what is stored.  Files written here
(`writing.write_file`) pair `adj` and `nodes` row by row, so the original reads true graphs from them.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.checks import files
from ghn_jax.checks.fields import shown
from ghn_jax.deepnets.files.matching import MismatchError, match_nodes
from ghn_jax.deepnets.files.meta_file import MetaError, MetaFile
from ghn_jax.deepnets.files.nodes import NamedNode, UnknownIdError, matching_rows, node_labels, spelled_out
from ghn_jax.deepnets.sampler import SPLITS
from ghn_jax.errors import GHNError, extra
from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.architecture import CIFAR10, Architecture, ArchitectureError, Task, from_json
from ghn_jax.networks.program_graph import build_graph

with extra("deepnets"):
    import h5py

_HDF5_ERRORS = (AttributeError, KeyError, MemoryError, OSError, RuntimeError, TypeError)
"""What h5py raises where it cannot read something.  (ValueError is the base of our own.)"""

TITLE = "DeepNets-1M"
"""Attribute `title` of the files."""

FORMAT_VERSION = 1
"""Attribute `format_version` of files written here; those of the original have none."""

EVAL_SPLITS = ("val", "test", "wide", "deep", "dense", "bnfree")
"""Splits that share the file "deepnets1m_eval.hdf5"."""


_MOST_NODES = 4096
"""Of a graph; the largest of DeepNets-1M has less than a thousand."""

_MOST_BYTES = 1 << 40


class DeepNetsFileError(GHNError):
    """A file that is missing, truncated, foreign or of another version, or an architecture that it has not."""


def file_name(split: str) -> str:
    """Name of the published HDF5 file that holds a split."""
    return f"deepnets1m_{'eval' if split in EVAL_SPLITS else split}.hdf5"


def meta_path(path: str | os.PathLike) -> Path:
    """The meta file that belongs to an HDF5 file."""
    path = files.as_path(path)
    if not path.name:
        raise files.FileError(f"{str(path)!r}: expected the path of a file")
    return path.with_name(path.stem + "_meta.json")


class StoredArrays(NamedTuple):
    """What is stored of a graph, as it is numbered in the file.

    `adj` is uint8 `[nodes, nodes]`; `nodes` is uint16 `[nodes, 3]`, rows of (primitive id, cell, operation id).
    """

    adj: np.ndarray
    nodes: np.ndarray


class DeepNetsFile:
    """The splits of a published file; nothing but the places of entries is read before it is asked for.

    May be pickled, and used from any process, forked ones included: each opens the file for itself.

    Raises:
      DeepNetsFileError: here and in the methods of its splits, naming the file and what was expected.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = files.as_path(path)
        self._file: h5py.File | None = None
        self._process = 0
        try:
            self.meta = MetaFile(meta_path(self.path))
        except MetaError as error:
            raise DeepNetsFileError(str(error)) from error
        file = self.open()
        self._check_title(file)
        missing = [split for split in self.meta.splits if _member(file, split, h5py.Group) is None]
        if missing:
            raise DeepNetsFileError(f"{self.path} has no split {missing[0]!r}, but {self.meta.path} has")

    def _check_title(self, file: h5py.File) -> None:
        """Raises DeepNetsFileError unless this is a file of DeepNets-1M that can be read here."""
        try:
            title, version = file.attrs.get("title"), file.attrs.get("format_version", FORMAT_VERSION)
        except _HDF5_ERRORS as error:
            raise DeepNetsFileError(f"{self.path}: its attributes cannot be read: {error}") from error
        title = title.decode(errors="replace") if isinstance(title, bytes) else title
        if not isinstance(title, str) or title != TITLE:
            raise DeepNetsFileError(f"{self.path} has the title {shown(title)}, expected {TITLE!r}")
        if not isinstance(version, (int, np.integer)) or version != FORMAT_VERSION:
            raise DeepNetsFileError(f"{self.path} has format version {shown(version)}, expected {FORMAT_VERSION}")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self.meta.splits

    def __getitem__(self, split: str) -> StoredSplit:
        if split not in self.splits:
            raise DeepNetsFileError(f"{self.path} has no split {split!r}; there are {', '.join(self.splits)}")
        return StoredSplit(self, split)

    def open(self) -> h5py.File:
        """The HDF5 file, opened in this process."""
        if self._file is None or self._process != os.getpid():
            try:
                files.open_regular(self.path, _MOST_BYTES).close()
                self._file, self._process = h5py.File(self.path, "r"), os.getpid()
            except _HDF5_ERRORS as error:
                raise DeepNetsFileError(f"{self.path} cannot be read: {error}") from error
        return self._file

    def close(self) -> None:
        """Closes the HDF5 file; it opens again when something is asked for."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self) -> DeepNetsFile:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


@dataclasses.dataclass(frozen=True)
class StoredSplit:
    """The architectures of one split of a file, by index."""

    file: DeepNetsFile
    name: str

    def __len__(self) -> int:
        return self.file.meta.size(self.name)

    def entry(self, index: int) -> dict[str, Any]:
        """What the meta file says of an architecture: its arguments, `num_nodes` and `num_params`."""
        if not 0 <= index < len(self):
            raise DeepNetsFileError(f"index {index}: {self.name!r} of {self.file.path} has 0 to {len(self) - 1}")
        try:
            return self.file.meta.entry(self.name, index)
        except MetaError as error:
            raise DeepNetsFileError(str(error)) from error

    def architecture(self, index: int, large_images: bool = False) -> Architecture:
        """An architecture; those of "wide" have the channels they are evaluated with, the files say 32."""
        try:
            architecture = from_json(self.entry(index))
        except ArchitectureError as error:
            raise DeepNetsFileError(f"{self.file.meta.path}: entry {index} of {self.name!r}: {error}") from error
        if not isinstance(architecture, Architecture):
            raise DeepNetsFileError(
                f"{self.file.meta.path}: entry {index} of {self.name!r} is a {type(architecture).__name__}: expected "
                "a network of cells"
            )
        if self.name == "wide":
            wide = SPLITS["wide"]
            factor = (wide.large_C if large_images else wide.C) // SPLITS["test"].C
            architecture = dataclasses.replace(architecture, C=architecture.C * factor)
        return architecture

    def arrays(self, index: int) -> StoredArrays:
        """What is stored of a graph, as it is stored."""
        place = f"{self.file.path}: {self.name}/{index}"
        expected = self.entry(index).get("num_nodes")
        split = _member(self.file.open(), self.name, h5py.Group)
        group = None if split is None else _member(split, str(index), h5py.Group)
        if group is None:
            raise DeepNetsFileError(f"{place} cannot be read: there is no such group")
        adj, nodes = (_array_of(group, name, place) for name in ("adj", "nodes"))
        count = nodes.shape[0] if nodes.shape else 0
        wrong = adj.shape != (count, count) or nodes.shape != (count, 3)
        if wrong or not 1 <= count <= _MOST_NODES or (expected is not None and shown(expected) != str(count)):
            raise DeepNetsFileError(
                f"{place} has arrays of shapes {adj.shape} and {nodes.shape}, expected {shown(expected)} nodes, and at "
                f"most {_MOST_NODES:,}"
            )
        try:
            return StoredArrays(adj[()], nodes[()])
        except _HDF5_ERRORS as error:
            raise DeepNetsFileError(f"{place} cannot be read: {error}") from error

    def named_nodes(self, index: int) -> list[NamedNode]:
        """The stored rows of nodes with names for their ids, in the order they are stored."""
        return self._spelled_out(index, self.arrays(index))

    def graph(self, index: int, task: Task = CIFAR10) -> Graph:
        """The true graph of an architecture applied to `task`, its nodes in the order of the stored `adj`.

        Raises:
          DeepNetsFileError: the stored arrays are not those of the architecture.
        """
        stored = self.arrays(index)
        graph = build_graph(self.architecture(index, task.large_images), task)
        rows, labels = matching_rows(self._spelled_out(index, stored)), node_labels(graph)
        if [row.label for row in rows] == labels and np.array_equal(stored.adj, graph.distances):
            return graph
        try:
            order, _ = match_nodes(labels, graph.distances, rows, stored.adj.astype(np.int32))
        except MismatchError as error:
            raise DeepNetsFileError(f"{self.file.path}: {self.name}/{index}: {error}") from error
        return reordered(graph, order)

    def _spelled_out(self, index: int, stored: StoredArrays) -> list[NamedNode]:
        meta = self.file.meta
        try:
            return spelled_out(stored.nodes.tolist(), meta.primitives(self.name), meta.operations(self.name))
        except UnknownIdError as error:
            raise DeepNetsFileError(
                f"{self.file.path}: {self.name}/{index}: {meta.path} does not name the ids of node {error.node}"
            ) from None


def _member(group: Any, name: str, kind: type) -> Any:
    """What a group has under a name, None if there is nothing, or something of another kind or of another file."""
    try:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return None
        found = group[name]
    except _HDF5_ERRORS:
        return None
    return found if isinstance(found, kind) else None


def _array_of(group: Any, name: str, place: str) -> Any:
    """The array of a group, not read yet, whose numbers are in this file and not larger than it.

    Raises:
      DeepNetsFileError: it is none.
    """
    found = _member(group, name, h5py.Dataset)
    try:
        if found is None or found.dtype.kind != "u" or found.dtype.itemsize > 2 or found.ndim != 2:
            kind = "no array" if found is None else f"{found.dtype} {found.shape}"
            raise DeepNetsFileError(f"{place}/{name} is {kind}, expected a matrix of uint8 or uint16")
        if found.is_virtual or found.external:
            raise DeepNetsFileError(f"{place}/{name} has its numbers in another file")
        if found.size and not found.id.get_storage_size():
            raise DeepNetsFileError(f"{place}/{name} has the shape {found.shape}, but no numbers were written")
        if math.prod(found.chunks or ()) > 4 * _MOST_NODES**2:
            raise DeepNetsFileError(f"{place}/{name} is stored in pieces of {found.chunks}")
    except _HDF5_ERRORS as error:
        raise DeepNetsFileError(f"{place}/{name} cannot be read: {error}") from error
    return found


def reordered(graph: Graph, order: np.ndarray) -> Graph:
    """`graph` with its node `order[i]` in place `i`."""
    place = np.argsort(order)
    tensors = [dataclasses.replace(tensor, node=int(place[tensor.node])) for tensor in graph.tensors]
    return Graph(
        node_types=graph.node_types[order],
        node_shapes=graph.node_shapes[order],
        distances=graph.distances[np.ix_(order, order)],
        tensors=tuple(tensors),
    )
