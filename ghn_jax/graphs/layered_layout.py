"""Drawing a directed acyclic graph in layers, from left to right.

Source: Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", IEEE Trans.
SMC 1981: nodes get layers, edges over several layers get waypoints, each layer is ordered to have few crossings, and
places follow the order.  Edges that leave one node share their waypoints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ghn_jax.errors import extra

with extra("plot"):
    import networkx as nx
import numpy as np

_SWEEPS = 24
_PLACEMENT_SWEEPS = 80
_WAYPOINT_SEPARATION = 0.6
_GRID = 0.05
_STRAIGHTNESS = 30.0
"""How much more a bend within a chain counts than one where paths part or meet."""


class Layout(NamedTuple):
    """Places of nodes and of the waypoints of edges, in units of the distance between layers and between nodes.

    Attributes:
      layers: `[nodes]`, from 0 on.
      heights: `[nodes]`.
      routes: for every edge the points `(layer, height)` from its start to its end, one in every layer.
    """

    layers: np.ndarray
    heights: np.ndarray
    routes: list[list[tuple[int, float]]]


def layered_layout(edges: Sequence[tuple[int, int]], num_nodes: int) -> Layout:
    """A layout of nodes that are numbered in topological order."""
    layers = _layers(edges, num_nodes)
    chart = _Chart(edges, layers)
    chart.order()
    heights = chart.place()
    routes = [[(int(chart.layer[v]), float(heights[v])) for v in route] for route in chart.routes]
    return Layout(layers, heights[:num_nodes], routes)


def _layers(edges: Sequence[tuple[int, int]], num_nodes: int) -> np.ndarray:
    """The longest path from a source; sources other than the first node come right before what they feed."""
    layers = np.zeros(num_nodes, int)
    fed = np.zeros(num_nodes, bool)
    for start, end in sorted(edges):
        fed[end] = True
        layers[end] = max(layers[end], layers[start] + 1)
    for node in np.flatnonzero(~fed)[1:]:
        targets = [layers[end] for start, end in edges if start == node]
        layers[node] = max(0, min(targets) - 1) if targets else 0
    return layers


class _Chart:
    """Vertices are nodes, then waypoints; `segments` lead from one layer to the next."""

    def __init__(self, edges: Sequence[tuple[int, int]], layers: np.ndarray):
        self.layer = layers.tolist()
        self.num_nodes = len(layers)
        self.routes: list[list[int]] = []
        waypoints: dict[tuple[int, int], int] = {}
        segments: dict[tuple[int, int], None] = {}
        for start, end in edges:
            route = [start]
            for layer in range(self.layer[start] + 1, self.layer[end]):
                if (start, layer) not in waypoints:
                    waypoints[start, layer] = len(self.layer)
                    self.layer.append(layer)
                route.append(waypoints[start, layer])
            route.append(end)
            self.routes.append(route)
            segments.update(dict.fromkeys(zip(route[:-1], route[1:], strict=True)))
        self.before, self.after = defaultdict(list), defaultdict(list)
        for start, end in segments:
            self.before[end].append(start)
            self.after[start].append(end)
        self.rows: list[list[int]] = [[] for _ in range(max(self.layer, default=-1) + 1)]
        for vertex in range(len(self.layer)):
            self.rows[self.layer[vertex]].append(vertex)

    def order(self) -> None:
        """Orders every layer by the mean place of its neighbours, again and again; keeps the best order."""
        best, fewest = [list(row) for row in self.rows], self.crossings()
        for sweep in range(_SWEEPS):
            forward = sweep % 2 == 0
            neighbours = self.before if forward else self.after
            rows = self.rows[1:] if forward else self.rows[-2::-1]
            place = self.places()
            for row in rows:
                means = {v: np.mean([place[n] for n in neighbours[v]]) if neighbours[v] else place[v] for v in row}
                row.sort(key=lambda v, means=means: means[v])
                place.update({v: self.spread(i, row) for i, v in enumerate(row)})
            crossings = self.crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best
        self.swap_neighbours()

    @staticmethod
    def spread(index: int, row: list[int]) -> float:
        return index - (len(row) - 1) / 2

    def places(self) -> dict[int, float]:
        return {v: self.spread(i, row) for row in self.rows for i, v in enumerate(row)}

    def crossings(self) -> int:
        """Number of pairs of segments that cross."""
        total = 0
        for left, right in zip(self.rows[:-1], self.rows[1:], strict=True):
            place = {v: i for i, v in enumerate(right)}
            total += sum(
                a > b
                for i, v in enumerate(left)
                for w in left[i + 1 :]
                for a in (place[e] for e in self.after[v])
                for b in (place[e] for e in self.after[w])
            )
        return total

    def swap_neighbours(self) -> None:
        """Swaps vertices next to each other in a layer while that saves crossings."""
        place = {v: i for row in self.rows for i, v in enumerate(row)}

        def crossed(first: int, second: int) -> int:
            return sum(
                place[a] > place[b]
                for neighbours in (self.before, self.after)
                for a in neighbours[first]
                for b in neighbours[second]
            )

        improved, rounds = True, 0
        while improved and rounds < _SWEEPS:
            improved, rounds = False, rounds + 1
            for row in self.rows:
                for i in range(len(row) - 1):
                    if crossed(row[i], row[i + 1]) > crossed(row[i + 1], row[i]):
                        row[i], row[i + 1] = row[i + 1], row[i]
                        place[row[i]], place[row[i + 1]] = i, i + 1
                        improved = True

    def place(self) -> np.ndarray:
        """Heights that keep the order and the separation, each as near to its neighbours as these let it be."""
        heights = np.zeros(len(self.layer))
        for row in self.rows:
            heights[row] = self.offsets(row) - self.offsets(row).mean()
        for sweep in range(_PLACEMENT_SWEEPS):
            for row in self.rows if sweep % 2 == 0 else self.rows[::-1]:
                wanted, weights = self.wanted(row, heights)
                offsets = self.offsets(row)
                heights[row] = isotonic(wanted - offsets, weights) + offsets
        heights = np.round(self.straightened(heights) / _GRID) * _GRID
        return heights - heights.min(initial=0)

    def straightened(self, heights: np.ndarray) -> np.ndarray:
        """Heights that are equal along chains, near to those given."""
        chain = self.chains()
        members = defaultdict(list)
        for vertex, number in enumerate(chain):
            members[number].append(vertex)
        below, above = defaultdict(list), defaultdict(list)  # other chains and their least distance
        for row in self.rows:
            gaps = np.diff(self.offsets(row))
            for v, w, gap in zip(row[:-1], row[1:], gaps, strict=True):
                below[chain[w]].append((chain[v], gap))
                above[chain[v]].append((chain[w], gap))
        beside = {
            number: [
                (chain[n], _STRAIGHTNESS if self.in_chain(v, n) else 1.0)
                for v in vertices
                for n in self.before[v] + self.after[v]
                if chain[n] != number
            ]
            for number, vertices in members.items()
        }
        level = {number: float(np.mean(heights[vertices])) for number, vertices in members.items()}
        order = nx.DiGraph({number: [other for other, _ in above[number]] for number in members})
        upwards = list(nx.topological_sort(order))
        for number in upwards:
            level[number] = max([level[number], *(level[other] + gap for other, gap in below[number])])
        for sweep in range(_PLACEMENT_SWEEPS):
            for number in upwards if sweep % 2 else upwards[::-1]:
                wanted = self.pulled(level, number, beside[number])
                low = max((level[other] + gap for other, gap in below[number]), default=-np.inf)
                high = min((level[other] - gap for other, gap in above[number]), default=np.inf)
                level[number] = float(min(max(wanted, low), high))
        return np.array([level[number] for number in chain])

    @staticmethod
    def pulled(level: dict[int, float], number: int, beside: list[tuple[int, float]]) -> float:
        weights = sum(weight for _, weight in beside)
        return sum(level[n] * weight for n, weight in beside) / weights if beside else level[number]

    def chains(self) -> list[int]:
        """The number of the chain of nodes that each vertex is in; chains that cross others fall apart."""
        chain = list(range(len(self.layer)))
        for row in self.rows:
            for v in row:
                if len(self.before[v]) == 1 and self.in_chain(u := self.before[v][0], v):
                    if max(u, v) < self.num_nodes:
                        chain[v] = chain[u]
        while True:
            order = nx.DiGraph()
            order.add_nodes_from(chain)
            for row in self.rows:
                order.add_edges_from((chain[v], chain[w]) for v, w in zip(row[:-1], row[1:], strict=True))
            tangled = set().union(*(part for part in nx.strongly_connected_components(order) if len(part) > 1))
            if not tangled:
                return chain
            chain = [v if number in tangled else number for v, number in enumerate(chain)]

    def in_chain(self, first: int, second: int) -> bool:
        """Whether a segment between two vertices is all that leaves the one and all that enters the other."""
        start, end = (first, second) if self.layer[first] < self.layer[second] else (second, first)
        return len(self.after[start]) == len(self.before[end]) == 1

    def offsets(self, row: list[int]) -> np.ndarray:
        """Least heights of the vertices of a layer above its first."""
        sizes = [1.0 if v < self.num_nodes else _WAYPOINT_SEPARATION for v in row]
        return np.cumsum([0.0, *((a + b) / 2 for a, b in zip(sizes[:-1], sizes[1:], strict=True))])

    def wanted(self, row: list[int], heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean heights of the neighbours of a layer, and how much each is wanted."""
        wanted, weights = [], []
        for v in row:
            neighbours = self.before[v] + self.after[v]
            pull = [_STRAIGHTNESS if self.in_chain(v, n) else 1.0 for n in neighbours]
            wanted.append(np.average(heights[neighbours], weights=pull) if neighbours else heights[v])
            weights.append(sum(pull) or 1.0)
        return np.array(wanted), np.array(weights)


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest non-decreasing sequence, in weighted least squares (pooling adjacent violators, Ayer et al. 1955)."""
    means, totals, counts = [], [], []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        means.append(value)
        totals.append(weight)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mean, total, count = means.pop(), totals.pop(), counts.pop()
            means[-1] = (means[-1] * totals[-1] + mean * total) / (totals[-1] + total)
            totals[-1] += total
            counts[-1] += count
    return np.repeat(means, counts)
