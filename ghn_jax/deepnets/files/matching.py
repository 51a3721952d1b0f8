"""Finding the nodes of a graph in a stored one, whose nodes are numbered differently.

The published files hold two orders.  Distances are in a topological order of the network.  The list of nodes is sorted
by cell, each cell in that topological order, where a node that belongs to no layer of a cell counts as one of the cell
last met.  (The published implementation reads both as if their orders were the same, and so pairs most nodes with the
distances of another.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ghn_jax.errors import GHNError

_MAX_STEPS = 100_000
"""A search that takes more ends; one that succeeds needs little more than a step a node."""


class MismatchError(GHNError):
    """Graphs that are not the same, whatever the order of the nodes."""


class NodeRow(NamedTuple):
    """An entry of a stored list of nodes.

    Attributes:
      cell: the cell it is sorted under.
      label: what is known of the node.
      in_cell: whether it is part of a layer of that cell, by its name.
    """

    cell: int
    label: str
    in_cell: bool


def match_nodes(
    labels: Sequence[str], distances: np.ndarray, rows: Sequence[NodeRow], expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where a stored graph has the nodes of ours.

    Args:
      labels: of our nodes, `[nodes]`.
      distances: between our nodes, integers `[nodes, nodes]`.
      rows: the stored list of nodes.
      expected: stored distances.

    Returns:
      Our node in every place of `expected`, and our node in every one of `rows`: `distances[places][:, places]` is
      `expected` and `labels[nodes]` are those of `rows`.

    Raises:
      MismatchError: the graphs differ; the message says in which nodes, by their stored numbers.
    """
    _check_labels(labels, [row.label for row in rows])
    if expected.shape != distances.shape:
        raise MismatchError(f"distances of shape {expected.shape}, expected {distances.shape}")
    places, cells = _Search(labels, distances, rows, expected).run()
    differ = np.argwhere(distances[np.ix_(places, places)] != expected)
    if len(differ):
        start, end = differ[0]
        raise MismatchError(
            f"the distance from node {start} to node {end} is {expected[start, end]}, "
            f"expected {distances[places[start], places[end]]}"
        )
    return places, places[np.argsort(cells, kind="stable")]


def _check_labels(labels: Sequence[str], stored: Sequence[str]) -> None:
    surplus, missing = Counter(stored) - Counter(labels), Counter(labels) - Counter(stored)
    if surplus or missing:
        raise MismatchError(f"nodes {_listed(list(surplus))}, expected {_listed(list(missing))}")


class _Search:
    """Walks through the places of the stored distances; in each is the next row of some cell."""

    def __init__(self, labels: Sequence[str], distances: np.ndarray, rows: Sequence[NodeRow], expected: np.ndarray):
        self.colours, self.expected_colours = refine(distances, expected)
        self.nodes = defaultdict(list)
        for node, label in enumerate(labels):
            self.nodes[label].append(node)
        self.sources = [frozenset(np.flatnonzero(column == 1).tolist()) for column in distances.T]
        self.expected_sources = [np.flatnonzero(column == 1).tolist() for column in expected.T]
        self.queues = defaultdict(list)
        for row in rows:
            self.queues[row.cell].append(row)
        self.taken = dict.fromkeys(self.queues, 0)
        self.places: list[int] = []
        self.cells: list[int] = []
        self.used: set[int] = set()

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Our node and its cell in every place."""
        options = [self.options()]
        deepest = 0
        for _ in range(_MAX_STEPS):
            if len(self.places) == len(self.colours):
                return np.array(self.places), np.array(self.cells)
            deepest = max(deepest, len(self.places))
            option = next(options[-1], None)
            if option is not None:
                self.put(*option)
                options.append(self.options())
            elif self.places:
                options.pop()
                self.take_back()
            else:
                break
        raise MismatchError(f"no node of the list, in its order, fits the distances of node {deepest}")

    def options(self) -> Iterator[tuple[int, int]]:
        """Cells and nodes of ours that may come next."""
        place = len(self.places)
        if place == len(self.colours):
            return
        sources = {self.places[source] for source in self.expected_sources[place]}
        last_cell = self.cells[-1] if self.cells else 0
        for cell, queue in self.queues.items():
            if self.taken[cell] == len(queue):
                continue
            row = queue[self.taken[cell]]
            if not row.in_cell and cell != last_cell:
                continue
            for node in self.nodes[row.label]:
                same = self.colours[node] == self.expected_colours[place] and self.sources[node] == sources
                if same and node not in self.used:
                    yield cell, node

    def put(self, cell: int, node: int) -> None:
        self.places.append(node)
        self.cells.append(cell)
        self.used.add(node)
        self.taken[cell] += 1

    def take_back(self) -> None:
        self.used.remove(self.places.pop())
        self.taken[self.cells.pop()] -= 1


def refine(distances: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the nodes of two graphs, by distances alone: nodes that can correspond have the same colour.

    Colour refinement (Weisfeiler and Leman 1968): two nodes get different colours if those of other nodes at some
    distance from them differ, until that tells no more nodes apart.

    Raises:
      MismatchError: the graphs have different colours.
    """
    paths, expected_paths = _paths(distances), _paths(expected)
    colours = expected_colours = np.zeros(len(distances), np.uint64)
    before = 0
    while (count := len(np.unique(expected_colours))) > before:
        before = count
        colours, expected_colours = _recolour(paths, colours), _recolour(expected_paths, expected_colours)
        odd = Counter(expected_colours.tolist()) - Counter(colours.tolist())
        nodes = [node for node, colour in enumerate(expected_colours.tolist()) if colour in odd]
        if len(nodes) == 2:
            start, end = nodes
            raise MismatchError(f"the distance from node {start} to node {end} is {expected[start, end]}, it cannot be")
        if nodes:
            raise MismatchError(f"distances from and to nodes {_listed(nodes)} that no node has")
    return colours, expected_colours


def _paths(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random-looking numbers for the paths out of nodes and for those into nodes."""
    lengths = 2 * distances.astype(np.uint64)
    return _mix(lengths), _mix(lengths.T + np.uint64(1))


def _recolour(paths: tuple[np.ndarray, np.ndarray], colours: np.ndarray) -> np.ndarray:
    met = sum(_mix(lengths + colours).sum(axis=1) for lengths in paths)
    return _mix(_mix(colours) + met)


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Random-looking 64-bit numbers, always the same for the same input (the last steps of splitmix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _listed(items: Sequence[object]) -> str:
    shown = ", ".join(repr(item) for item in items[:4]) or "none"
    return f"{shown} and {len(items) - 4} more" if len(items) > 4 else shown
