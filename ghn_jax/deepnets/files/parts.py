"""Making a published file in parts, by several processes, so that a kill costs the parts under way and no more.

Parts lie in a folder beside the file, each written under a temporary name and renamed when complete.  When all are
there, `assemble` copies them into the file, still compressed, and removes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ghn_jax.checks import files
from ghn_jax.deepnets.files.nodes import NamedNode
from ghn_jax.deepnets.files.writing import StoredNetwork, stored_network, write_again
from ghn_jax.deepnets.sampler import GENERATOR_VERSION, SPLITS
from ghn_jax.errors import GHNError

_PART_SIZES = {"train": 1000, "search": 100}
_PART_SIZE = 20

PARTS_LOCK = "making.lock"
"""In the folder of the parts: which process makes them."""


class PartError(GHNError):
    """A part that is not what its name says."""


class Part(NamedTuple):
    """Architectures `first` to `stop - 1` of a split."""

    split: str
    first: int
    stop: int

    @property
    def size(self) -> int:
        """Number of architectures."""
        return self.stop - self.first


def parts_of(split: str, num: int) -> list[Part]:
    """The parts of the first `num` architectures of a split, a few seconds of work each.

    Raises:
      ValueError: an unknown split, or more architectures than it has.
    """
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; known are {', '.join(SPLITS)}")
    if not 1 <= num <= SPLITS[split].size:
        raise ValueError(f"num={num}: split {split!r} has 1 to {SPLITS[split].size} architectures")
    size = _PART_SIZES.get(split, _PART_SIZE)
    return [Part(split, first, min(first + size, num)) for first in range(0, num, size)]


def part_folder(path: str | os.PathLike) -> Path:
    """Where the parts of the HDF5 file `path` lie."""
    path = Path(path)
    return path.with_name(f"{path.stem}.parts")


def part_path(folder: Path, part: Part) -> Path:
    """The file of a part; parts of another generator version have other names."""
    return folder / f"v{GENERATOR_VERSION}_{part.split}_{part.first:07}_{part.stop:07}.npz"


def write_part(folder: Path, part: Part) -> Part:
    """Draws the architectures of a part and writes them; returns the part."""
    networks = [stored_network(part.split, index) for index in range(part.first, part.stop)]
    rows = [node for network in networks for node in network.nodes]
    types, operations = (sorted({node[column] for node in rows}) for column in (0, 2))
    type_id, operation_id = ({name: i for i, name in enumerate(names)} for names in (types, operations))
    text = json.dumps([network.entry for network in networks])
    path = part_path(folder, part)
    with files.replacing(path) as temporary:
        np.savez(
            temporary,
            entries=np.frombuffer(text.encode(), np.uint8),
            adj=np.frombuffer(b"".join(network.adj_gzip for network in networks), np.uint8),
            adj_sizes=np.array([len(network.adj_gzip) for network in networks], np.int64),
            num_nodes=np.array([len(network.nodes) for network in networks], np.int64),
            nodes=np.array([(type_id[n.node_type], n.cell, operation_id[n.operation]) for n in rows], np.uint16),
            types=np.array(types),
            operations=np.array(operations),
        )
    return part


def read_part(folder: Path, part: Part) -> Iterator[StoredNetwork]:
    """The networks of a part.

    Raises:
      PartError: its file is damaged.
    """
    path = part_path(folder, part)
    try:
        with files.open_regular(path, 1 << 32) as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        networks = _networks(arrays)
        if len(networks) != part.size:
            raise ValueError(f"{len(networks)} architectures, expected {part.size}")
    except Exception as error:  # NumPy and zipfile raise whatever their parsers do
        raise PartError(f"{path} is damaged, remove it and start again: {error}") from error
    yield from networks


def _networks(arrays: Mapping[str, np.ndarray]) -> list[StoredNetwork]:
    """What the arrays of a part hold."""
    entries = files.parse_json(arrays["entries"].tobytes())
    adj, nodes = arrays["adj"].tobytes(), arrays["nodes"].tolist()
    types, operations = arrays["types"].tolist(), arrays["operations"].tolist()
    adj_ends, node_ends = np.cumsum(arrays["adj_sizes"]), np.cumsum(arrays["num_nodes"])
    if len(adj) != adj_ends[-1] or len(nodes) != node_ends[-1] or not all(isinstance(one, dict) for one in entries):
        raise ValueError("its arrays do not fit each other")
    chunks = [adj[end - size : end] for end, size in zip(adj_ends, arrays["adj_sizes"], strict=True)]
    rows = [nodes[end - count : end] for end, count in zip(node_ends, arrays["num_nodes"], strict=True)]
    return [
        StoredNetwork(entry, chunk, [NamedNode(types[t], cell, operations[o]) for t, cell, o in group])
        for entry, chunk, group in zip(entries, chunks, rows, strict=True)
    ]


def assemble(path: str | os.PathLike, splits: Mapping[str, list[Part]], report: Callable[[Part], None]) -> None:
    """Writes the HDF5 file `path` and its meta file from complete parts, then removes them.

    `report` is called with every part that was copied.

    Raises:
      ExistingFileError, PartError: nothing is changed then.
    """
    path, folder = Path(path), part_folder(path)

    def networks(parts: list[Part]) -> Iterator[StoredNetwork]:
        for part in parts:
            yield from read_part(folder, part)
            report(part)

    attributes = {"generator_version": GENERATOR_VERSION}
    write_again(path, {split: networks(parts) for split, parts in splits.items()}, attributes)
    for part in (part for parts in splits.values() for part in parts):
        part_path(folder, part).unlink(missing_ok=True)
    for left in folder.glob(".v*.npz.*.new"):  # of processes that were killed
        shutil.rmtree(left, ignore_errors=True)
    (folder / PARTS_LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is something else in it
        folder.rmdir()
