"""Writing DeepNets-1M in its published format, readable by the original.

`nodes` is written in the order of `adj`, so whoever pairs the two row by row, as the original does, has true graphs;
`published` says how that is in files of the original.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from ghn_jax.checks import files
from ghn_jax.deepnets.files.nodes import NamedNode, named_nodes
from ghn_jax.deepnets.files.reading import FORMAT_VERSION, TITLE, meta_path
from ghn_jax.deepnets.sampler import LARGE_FORM, sample_program
from ghn_jax.errors import GHNError, extra
from ghn_jax.networks.architecture import to_json
from ghn_jax.networks.lowering import count_params
from ghn_jax.networks.program_graph import graph_of

with extra("deepnets"):
    import h5py

COMPRESSION_LEVEL = 4
"""Of gzip, as in the published files."""


class StoredNetwork(NamedTuple):
    """What is written of an architecture: its meta entry, `adj` compressed (uint8 `[nodes, nodes]`) and its nodes."""

    entry: dict[str, Any]
    adj_gzip: bytes
    nodes: list[NamedNode]


class ExistingFileError(GHNError):
    """A file that is there already and would be overwritten."""


def stored_network(split: str, index: int) -> StoredNetwork:
    """What is written of an architecture of a split: with 32 channels, counted with 10 classes, as in the original."""
    architecture, program = sample_program(split, index)
    graph = graph_of(program)
    fields = to_json(architecture)
    del fields["kind"]
    channels = fields.pop("C")
    entry = {
        **fields,
        "num_nodes": graph.num_nodes,
        "num_params": {"cifar10": program.num_params_with_unused, "imagenet": count_params(architecture, LARGE_FORM)},
        "C": channels,
    }
    return StoredNetwork(entry, compressed(graph.distances), named_nodes(graph, architecture.n_cells))


def compressed(adj: np.ndarray) -> bytes:
    """`adj` as uint8, compressed as one chunk of an HDF5 file."""
    return zlib.compress(adj.astype(np.uint8).tobytes(), COMPRESSION_LEVEL)


def require_absent(path: str | os.PathLike) -> None:
    """Raises ExistingFileError if the HDF5 file `path` or its meta file exists."""
    for existing in (Path(path), meta_path(path)):
        if existing.exists():
            raise ExistingFileError(f"{existing} exists and is never overwritten: move it, or choose another folder")


def write_file(
    path: str | os.PathLike,
    splits: Mapping[str, Iterable[StoredNetwork]],
    attributes: Mapping[str, Any] | None = None,
    names: Mapping[str, tuple[Mapping[int, str], Mapping[int, str]]] | None = None,
) -> None:
    """Writes the HDF5 file `path` and its meta file, under temporary names until both are complete.

    Args:
      path: the HDF5 file.
      splits: networks by split, from index 0 on.
      attributes: more attributes of the HDF5 file.
      names: types of nodes and operations by id, for every split; others get ids when they are met.

    Raises:
      ExistingFileError: one of them exists.
      FileError, OSError: the system cannot write.
    """
    require_absent(path)
    _write(Path(path), meta_path(path), splits, attributes, names)


def write_again(
    path: str | os.PathLike,
    splits: Mapping[str, Iterable[StoredNetwork]],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Writes like `write_file`, but beside a meta file that is there already, if that has the same content.

    Such a one is left of a process that ended between two renamings.

    Raises:
      ExistingFileError: the HDF5 file exists, or a meta file with other content.
    """
    if Path(path).exists():
        require_absent(path)
    _write(Path(path), meta_path(path), splits, attributes, None)


def _write(
    path: Path,
    meta: Path,
    splits: Mapping[str, Iterable[StoredNetwork]],
    attributes: Mapping[str, Any] | None,
    names: Mapping[str, tuple[Mapping[int, str], Mapping[int, str]]] | None,
) -> None:
    with (
        _errors_of_the_system(path),
        files.replacing(path, refuse_existing=True) as temporary,
        files.replacing(meta) as temporary_meta,
    ):
        with h5py.File(temporary, "w") as file, open(temporary_meta, "w") as text:
            file.attrs.update({"title": TITLE, "format_version": FORMAT_VERSION, **(attributes or {})})
            text.write("{")
            for number, (split, networks) in enumerate(splits.items()):
                text.write(f"{', ' if number else ''}{json.dumps(split)}: ")
                primitives, operations = (names or {}).get(split, ({}, {}))
                _write_split(file.create_group(split), text, networks, _Ids(primitives), _Ids(operations))
            text.write("}\n")
        if meta.exists() and not filecmp.cmp(meta, temporary_meta, shallow=False):
            require_absent(path)


@contextlib.contextmanager
def _errors_of_the_system(path: Path) -> Iterator[None]:
    """Turns the RuntimeError into which HDF5 makes what the system says at the end of a file, as of a full disk."""
    try:
        yield
    except RuntimeError as error:
        raise files.FileError(f"{path} cannot be written: {error}") from error


def _write_split(
    group: h5py.Group, text: TextIO, networks: Iterable[StoredNetwork], primitives: _Ids, operations: _Ids
) -> None:
    """One split of both files."""
    text.write('{"nets": [')
    for index, network in enumerate(networks):
        text.write(", " if index else "")
        text.write(json.dumps(network.entry))
        rows = [(primitives[n.node_type], n.cell, operations[n.operation]) for n in network.nodes]
        member = group.create_group(str(index))
        _write_chunk(member, "adj", (len(rows), len(rows)), np.uint8, network.adj_gzip)
        nodes = zlib.compress(np.array(rows, np.uint16).tobytes(), COMPRESSION_LEVEL)
        _write_chunk(member, "nodes", (len(rows), 3), np.uint16, nodes)
    tables = {"primitives_ext": primitives.names(), "unique_op_names": operations.names()}
    text.write(f'], "meta": {json.dumps(tables)}}}')


def _write_chunk(group: h5py.Group, name: str, shape: tuple[int, int], dtype, chunk: bytes) -> None:
    """A dataset of one chunk that is compressed already.  (h5py's own `create_dataset` takes three times as long.)"""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    properties.set_deflate(COMPRESSION_LEVEL)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, properties)
    dataset.write_direct_chunk((0, 0), chunk)


class _Ids(dict[str, int]):
    """Ids of names, given in the order in which the names are met."""

    def __init__(self, names: Mapping[int, str]):
        super().__init__({name: number for number, name in names.items()})

    def __missing__(self, name: str) -> int:
        return self.setdefault(name, 1 + max(self.values(), default=-1))

    def names(self) -> dict[str, str]:
        return {str(number): name for name, number in self.items()}
