"""Pictures of computational graphs, as in figure 1 of the paper: layers from left to right, a colour for every type."""

from __future__ import annotations

import io
import math
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ghn_jax.checks import files
from ghn_jax.checks.fields import Flag, Maybe, Text, shown, taken
from ghn_jax.errors import extra
from ghn_jax.graphs.graph import NODE_TYPES, Graph, GraphError
from ghn_jax.graphs.layered_layout import Layout, layered_layout
from ghn_jax.graphs.padding import check_form

with extra("plot"):
    import matplotlib.figure
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

# Layers with weights are blue and green, normalisation yellow and orange, what joins or pools grey, red or brown.
STYLES = {
    "input": ("#000000", "s"),
    "conv": ("#2166ac", "o"),
    "sep_conv": ("#1a9850", "o"),
    "dil_conv": ("#66c2a5", "o"),
    "bias": ("#e377c2", "d"),
    "bn": ("#fdb863", "s"),
    "ln": ("#ffe135", "s"),
    "pos_enc": ("#8c6bb1", "P"),
    "msa": ("#7a0177", "h"),
    "cse": ("#00bcd4", "h"),
    "sum": ("#525252", "o"),
    "concat": ("#bdbdbd", "D"),
    "max_pool": ("#d73027", "v"),
    "avg_pool": ("#fb8d62", "v"),
    "glob_avg": ("#8c510a", "v"),
}
"""Colour and marker of every type of node, in the order of the legend."""

POINTWISE = ("#92c5de", "o")
"""Of 1x1 convolutions and linear layers."""

_EDGE_COLOUR = "#8a8a8a"
_MARGIN = 0.35
_ROW_GAP = 0.42
_LEGEND_ENTRY = 1.25
_LEGEND_LINE = 0.26
_CURVE = np.linspace(0, 1, 13)
# Cubic Hermite curves between two layers: end values and end slopes.
_HERMITE = np.stack([
    2 * _CURVE**3 - 3 * _CURVE**2 + 1, -2 * _CURVE**3 + 3 * _CURVE**2,
    _CURVE**3 - 2 * _CURVE**2 + _CURVE, _CURVE**3 - _CURVE**2,
])  # fmt: skip


class GraphFigure(matplotlib.figure.Figure):
    """A matplotlib figure that notebooks show inline, whether or not pyplot is used."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def visualize(
    graph: Graph,
    path: str | os.PathLike | None = None,
    *,
    labels: bool = False,
    title: str | None = None,
    legend: bool = True,
) -> GraphFigure:
    """Draws a computational graph in layers from left to right, wrapped into rows like text.

    Edges that end at the right of a row go on at the left of the next, at the same height.

    Args:
      graph: the graph; only its edges are drawn, no virtual ones.
      path: where to save the picture, in the format of its suffix (png, pdf, svg); None for nowhere.
      labels: writes type and kernel size into every node.
      title: stands above the picture.
      legend: explains colours below it, with the number of nodes of every type.

    Returns:
      the figure, which notebooks show.

    Raises:
      GraphError: a graph without nodes, a name that says no format, a title that is no text, or labels or a legend
        that are neither True nor False.
      FileError: there is something at `path` that is no file.

    >>> figure = ghn_jax.visualize(ghn_jax.build_graph(ghn_jax.named('vit')))  # an image in a notebook
    """
    if not isinstance(graph, Graph):
        raise GraphError(f"expected a ghn_jax Graph, got {type(graph).__name__}")
    if graph.num_nodes < 1:
        raise GraphError("a graph without nodes cannot be drawn")
    check_form(graph)
    labels = taken(labels, Flag(), GraphError, "labels")
    legend = taken(legend, Flag(), GraphError, "legend")
    title = taken(title, Maybe(Text()), GraphError, "title")
    out = None if path is None else _picture(path)
    edges = [(start, end) for start, end in np.argwhere(graph.distances == 1).tolist()]
    layout = layered_layout(edges, graph.num_nodes)
    step = (0.76, 0.34) if labels else (0.27, 0.27)
    page = _Page(layout, step)
    entries = _legend_entries(graph) if legend else []
    columns = max(1, min(len(entries), int((page.width - 2 * _MARGIN) / _LEGEND_ENTRY)))
    below = _LEGEND_LINE * math.ceil(len(entries) / columns) + 0.15 if entries else 0.0
    above = 0.3 if title else 0.0
    figure = GraphFigure(figsize=(page.width, page.height + below + above), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, page.width), ylim=(-page.height - below, above))
    axes.axis("off")
    _draw_edges(axes, page, layout, arrow_gap=0.33 if labels else 0.09)
    (_draw_labels if labels else _draw_nodes)(axes, page, layout, graph)
    _draw_scopes(axes, page, layout, graph)
    if title:
        axes.text(page.width / 2, above * 0.4, title, ha="center", va="center", fontsize=11, parse_math=False)
    if entries:
        handles = [
            Line2D([], [], ls="", marker=marker, color=colour, mec="black", mew=0.5, ms=7, label=label)
            for label, (colour, marker) in entries
        ]
        axes.legend(
            handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=columns, frameon=False, fontsize=8,
            handletextpad=0.1, columnspacing=1.2, borderaxespad=0.2,
        )  # fmt: skip
    if out is not None:
        with files.replacing(out) as temporary:
            figure.savefig(temporary)
    return figure


def _picture(path: Any) -> Path:
    """The path of a picture; raises GraphError for a name without a format."""
    known = GraphFigure().canvas.get_supported_filetypes()
    if not isinstance(path, (str, os.PathLike)) or Path(path).suffix[1:].lower() not in known:
        raise GraphError(f"path={shown(path)}: expected a name ending in .png, .pdf or .svg")
    return Path(path)


class _Page:
    """Where layers and heights of a layout lie on the page, in inches from its top left corner."""

    def __init__(self, layout: Layout, step: tuple[float, float]):
        self.step = step
        points = np.array([point for route in layout.routes for point in route] or [(0, 0.0)])
        layers = np.concatenate([layout.layers, points[:, 0]]).astype(int)
        heights = np.concatenate([layout.heights, points[:, 1]])
        self.num_layers = int(layers.max()) + 1
        for rows in range(1, self.num_layers + 1):
            self.per_row = math.ceil(self.num_layers / rows)
            self.tops, self.lows = self._rows(layers // self.per_row, heights)
            self.width = 2 * _MARGIN + max(4.0, self.per_row * step[0])
            self.height = float(self.tops[-1])
            if self.width <= max(7.5, 1.7 * self.height):
                break

    def _rows(self, rows: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tops of the rows, with the bottom of the last, and the least height in each."""
        lows = np.array([heights[rows == row].min() for row in range(rows.max() + 1)])
        highs = np.array([heights[rows == row].max() for row in range(rows.max() + 1)])
        return np.cumsum([0.0, *((highs - lows) * self.step[1] + 2 * _ROW_GAP)]), lows

    def row(self, layer: int) -> int:
        return layer // self.per_row

    def x(self, layer: float, row: int) -> float:
        return _MARGIN + (layer - row * self.per_row + 0.5) * self.step[0]

    def y(self, height: float, row: int) -> float:
        return -(self.tops[row] + _ROW_GAP + (height - self.lows[row]) * self.step[1])

    def place(self, layer: int, height: float) -> tuple[float, float]:
        row = self.row(layer)
        return self.x(layer, row), self.y(height, row)


def _draw_edges(axes, page: _Page, layout: Layout, arrow_gap: float) -> None:
    lines, breaks, arrows = [], [], []
    segments = {}
    for route in layout.routes:
        for number, ends in enumerate(zip(route[:-1], route[1:], strict=True), start=2):
            segments[ends] = segments.get(ends, False) or number == len(route)
    slopes = _slopes(layout)
    for ((layer, height), (next_layer, next_height)), at_node in segments.items():
        row, next_row = page.row(layer), page.row(next_layer)
        (x0, y0), (x1, y1) = page.place(layer, height), page.place(next_layer, next_height)
        if row == next_row:
            ends = [slopes.get((layer, height), 0.0), slopes.get((next_layer, next_height), 0.0)]
            curve = np.array([y0, y1, *(-page.step[1] * slope for slope in ends)]) @ _HERMITE
            lines.append(np.column_stack([x0 + (x1 - x0) * _CURVE, curve]))
            at_arrow = float(np.interp(x1 - arrow_gap, lines[-1][:, 0], curve))
        else:
            out, back = 0.75 * page.step[0], page.y(next_height, row)
            breaks.append(np.column_stack([x0 + out * _CURVE, np.array([y0, back, 0.0, 0.0]) @ _HERMITE]))
            breaks.append([(x1 - out, y1), (x1, y1)])
            at_arrow = y1
        if at_node:
            arrows.append((x1 - arrow_gap, at_arrow))
    axes.add_collection(LineCollection(lines, colors=_EDGE_COLOUR, linewidths=0.9, zorder=1))
    axes.add_collection(LineCollection(breaks, colors=_EDGE_COLOUR, linewidths=0.9, linestyles=(0, (2, 1)), zorder=1))
    if arrows:
        axes.scatter(*np.transpose(arrows), s=9, marker=">", color="#5a5a5a", linewidths=0, zorder=2)


def _slopes(layout: Layout) -> dict[tuple[int, float], float]:
    """Rise over a layer of the curves at waypoints; at nodes they are level."""
    before, after = defaultdict(list), defaultdict(list)
    for route in layout.routes:
        for previous, point, following in zip(route[:-2], route[1:-1], route[2:], strict=True):
            before[point].append(point[1] - previous[1])
            after[point].append(following[1] - point[1])
    slopes = {}
    for point in before:
        rise, on = np.mean(before[point]), np.mean(after[point])
        slopes[point] = float(np.sign(rise) * min(abs(rise), abs(on), abs(rise + on) / 2)) if rise * on > 0 else 0.0
    return slopes


def _draw_nodes(axes, page: _Page, layout: Layout, graph: Graph) -> None:
    groups: dict[tuple[str, str], list[int]] = {}
    for node in range(graph.num_nodes):
        groups.setdefault(_style(graph, node), []).append(node)
    for (colour, marker), nodes in groups.items():
        places = [page.place(int(layout.layers[n]), float(layout.heights[n])) for n in nodes]
        size = 60 if marker in "ov" else 52 if marker in "hP" else 44
        axes.scatter(
            *np.transpose(places), s=size, marker=marker, color=colour, edgecolors="black", linewidths=0.5, zorder=3
        )


def _draw_labels(axes, page: _Page, layout: Layout, graph: Graph) -> None:
    for node in range(graph.num_nodes):
        colour, _ = _style(graph, node)
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
        axes.text(
            *page.place(int(layout.layers[node]), float(layout.heights[node])), node_text(graph, node), fontsize=6.5,
            ha="center", va="center", color="white" if dark else "black", zorder=3,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "black", "linewidth": 0.5},
        )  # fmt: skip


def _draw_scopes(axes, page: _Page, layout: Layout, graph: Graph) -> None:
    """Names of cells and blocks below the places where they begin."""
    begins: dict[str, int] = {}
    for tensor in graph.tensors:
        scope = _scope(tensor.name)
        layer = int(layout.layers[tensor.node])
        if scope is not None:
            begins[scope] = min(layer, begins.get(scope, layer))
    texts: dict[tuple[int, float], list[str]] = {}
    for scope, layer in sorted(begins.items(), key=lambda item: item[1]):
        row = page.row(layer)
        place = (row, page.x(layer, row))
        nearby = [(r, x) for r, x in texts if r == row and place[1] - x < 0.55]
        texts.setdefault(nearby[-1] if nearby else place, []).append(scope)
    for (row, x), scopes in texts.items():
        y = -page.tops[row + 1] + 0.1
        axes.plot([x, x], [y, y + 0.1], color="#a0a0a0", linewidth=0.7)
        axes.text(x + 0.03, y, ", ".join(scopes), fontsize=6.5, color="#606060", ha="left", va="bottom")


def _scope(name: str) -> str | None:
    """The cell of a DeepNets network or the block of a ResNet that a parameter is part of."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    if not number.isdigit():
        return None
    if first == "cells":
        return f"cell {number}"
    return f"{first}.{number}" if first.startswith("layer") else None


def _pointwise(graph: Graph, node: int) -> bool:
    return NODE_TYPES[graph.node_types[node]] == "conv" and graph.node_shapes[node, 2:].tolist() == [1, 1]


def _style(graph: Graph, node: int) -> tuple[str, str]:
    return POINTWISE if _pointwise(graph, node) else STYLES[NODE_TYPES[graph.node_types[node]]]


def node_text(graph: Graph, node: int) -> str:
    """Type and kernel size of a node, as its label says them."""
    node_type = NODE_TYPES[graph.node_types[node]]
    text = node_type.removesuffix("_conv").removesuffix("_pool").replace("_", " ")
    if node_type.endswith(("conv", "_pool")):
        height, width = graph.node_shapes[node, 2:].tolist()
        text += f" {height}×{width}" if height else ""
    return text


def _legend_entries(graph: Graph) -> list[tuple[str, tuple[str, str]]]:
    counts = Counter(
        "conv 1×1" if _pointwise(graph, node) else NODE_TYPES[graph.node_types[node]] for node in range(graph.num_nodes)
    )
    styles = {}
    for name, style in STYLES.items():
        styles[name] = style
        if name == "conv":
            styles["conv 1×1"] = POINTWISE
    return [(f"{name} ({counts[name]})", style) for name, style in styles.items() if counts[name]]
