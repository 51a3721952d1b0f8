"""What of a model a hypernetwork predicts, and how far that is from what it has seen in training."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ghn_jax.checks.fields import Flag, taken
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.decoders import decoder
from ghn_jax.ghn.model import GHN
from ghn_jax.ghn.shape_encoder import channel_table, channel_vocabulary, spatial_table, spatial_vocabulary
from ghn_jax.graphs.graph import NODE_TYPES, Graph, GraphError, Role, Tensor
from ghn_jax.graphs.padding import check_form
from ghn_jax.graphs.tree import ParameterTree
from ghn_jax.prediction.forecast import Forecast, features_of, forecast
from ghn_jax.prediction.predict import predict_params
from ghn_jax.weights import pretrained


class Verdict(enum.Enum):
    """How a parameter gets its values.

    >>> report = ghn_jax.report(ghn_jax.build_graph(ghn_jax.named('resnet50')))
    >>> len(report.of(ghn_jax.Verdict.SEEN))
    161
    """

    SEEN = "seen"
    """Predicted; the networks of the training had such a tensor."""

    EXTRAPOLATING = "extrapolating"
    """Predicted, but the hypernetwork has not seen its kind."""

    INITIALISED = "initialised"
    """Not predicted, or not wholly: the model's own initialiser gives the values."""

    STATE = "state"
    """No parameter, but a running statistic, a key or a table that no training changes: it keeps its value."""


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One parameter of the model: its path, shape and number of elements, the type of its node, and the verdict."""

    name: str
    shape: tuple[int, ...]
    size: int
    node_type: str
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """All parameters of a model, and what concerns it as a whole.

    `str(report)` is a table and a summary.

    >>> report = ghn_jax.report(ghn_jax.build_graph(ghn_jax.named('vit')))
    >>> report.share_predicted
    1.0
    """

    rows: tuple[ReportRow, ...]
    remarks: tuple[str, ...]
    num_nodes: int
    subject: tuple[Graph, GHN] | None = dataclasses.field(default=None, repr=False, compare=False)

    @functools.cached_property
    def features(self) -> np.ndarray:
        """What the forecast is made of, `[F]` in the order of `ghn_jax.prediction.forecast.FEATURES`.

        The first ones of a hypernetwork take seconds: its embeddings of training networks are computed.
        """
        assert self.subject is not None
        graph, ghn = self.subject
        return features_of(graph, ghn, self._share(Verdict.EXTRAPOLATING), self._share(Verdict.INITIALISED))

    @property
    def forecast(self) -> Forecast:
        """What the prediction is likely to be worth, said before any image is seen."""
        return forecast(self.features)

    def _share(self, verdict: Verdict) -> float:
        """Share of the elements in parameters that have this verdict."""
        total = sum(row.size for row in self.rows if row.verdict is not Verdict.STATE)
        return sum(row.size for row in self.of(verdict)) / total if total else 0.0

    def of(self, verdict: Verdict) -> tuple[ReportRow, ...]:
        """The rows with this verdict."""
        return tuple(row for row in self.rows if row.verdict is verdict)

    @property
    def share_predicted(self) -> float:
        """Share of the elements in parameters that are predicted; states are none."""
        return 1 - self._share(Verdict.INITIALISED)

    @property
    def summary(self) -> str:
        """One line."""
        total = sum(row.size for row in self.rows)
        parts = []
        for verdict in Verdict:
            rows = self.of(verdict)
            if rows:
                size = sum(row.size for row in rows)
                parts.append(f"{verdict.value} {len(rows)} tensors ({100 * size / total:.1f}%)")
        return f"{len(self.rows)} parameter tensors, {total:,} elements, {self.num_nodes} nodes: {', '.join(parts)}"

    def __str__(self) -> str:
        lines = [("parameter", "shape", "node", "")]
        for row in self.rows:
            verdict = row.verdict.value + (f": {'; '.join(row.reasons)}" if row.reasons else "")
            lines.append((row.name, "x".join(map(str, row.shape)) or "scalar", row.node_type, verdict))
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        table = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]).rstrip()
            for line in lines
        ]
        return "\n".join([*table, "", *self.remarks, self.summary])


FACTOR = 5
"""Scales of a predicted and an initial tensor differ if one is more than so many times the other."""


def report(graph: Graph, ghn: GHN | None = None, *, scales: bool = False) -> Report:
    """What of a model is predicted, and how far that is from what the hypernetwork has seen.

    Args:
      graph: of the model, from `ghn_jax.trace` or `build_graph`.
      ghn: the hypernetwork; None takes the one shipped with the package.
      scales: also predict the parameters of a traced model, run its own initialisers, and say where the root mean
        squares of a tensor differ by more than a factor of 5.

    Raises:
      GraphError: something that is no valid Graph, or scales that are neither True nor False.

    >>> graph = ghn_jax.build_graph(ghn_jax.named('resnet50'))
    >>> print(ghn_jax.report(graph).summary)
    161 parameter tensors, 23,520,842 elements, 126 nodes: seen 161 tensors (100.0%)
    """
    check_form(graph)
    scales = taken(scales, Flag(), GraphError, "scales")
    ghn = pretrained.load() if ghn is None else ghn
    if not isinstance(ghn, GHN):
        raise TypeError(
            f"report expected a GHN, such as ghn_jax.load('ghn2_fashion_mnist'), got a {type(ghn).__name__}"
        )
    config = ghn.config
    if graph.tree is None:
        rows = [
            _row(tensor.name, tensor.shape, tensor.size, [tensor], graph, config, [], None) for tensor in graph.tensors
        ]
        return Report(tuple(rows), (), graph.num_nodes, (graph, ghn))
    tree = graph.tree
    owned: dict[int, list[Tensor]] = {}
    for tensor in graph.tensors:
        owned.setdefault(tensor.placed.leaf, []).append(tensor)
    rows = []
    compared = _scales(graph, tree, ghn) if scales else {}
    for index, leaf in enumerate(tree.leaves):
        remarks = [table[index] for table in (tree.remarks, compared) if index in table]
        rows.append(
            _row(
                leaf.name, leaf.shape, leaf.size, owned.get(index, []), graph, config, remarks,
                tree.unpredicted.get(index), tree.states.get(index),
            )
        )  # fmt: skip
    remarks = [f"extrapolating: input {text} is no batch of RGB images" for text in tree.inputs if not _is_image(text)]
    remarks += [f"unknown operation: {place}" for place in tree.unsupported]
    remarks += tree.notes
    return Report(tuple(rows), tuple(remarks), graph.num_nodes, (graph, ghn))


def _scales(graph: Graph, tree: ParameterTree, ghn: GHN | None) -> dict[int, str]:
    """Where the root mean square of a predicted leaf is far from that of its initial value; zeros are not compared."""
    chosen = [index for index in range(len(tree.leaves)) if index not in {*tree.unpredicted, *tree.states}]
    predicted = tree.arrays(predict_params(graph, ghn))
    found = {}
    for index, initial in zip(chosen, tree.initial(chosen, 0), strict=True):
        if initial is None:
            continue
        new, own = (_root_mean_square(values) for values in (predicted[index], initial))
        if own > 0 and not 1 / FACTOR <= new / own <= FACTOR:
            found[index] = f"its root mean square is {new:.2g}, that of the initial values {own:.2g}"
    return found


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values, np.float32)))))


def _row(
    name: str,
    shape: tuple[int, ...],
    size: int,
    tensors: Sequence[Tensor],
    graph: Graph,
    config: HypernetConfig,
    remarks: Sequence[str],
    unpredicted: str | None,
    state: str | None = None,
) -> ReportRow:
    node_type = NODE_TYPES[graph.node_types[tensors[0].node]] if tensors else "-"
    if state is not None:
        return ReportRow(name, shape, size, node_type, Verdict.STATE, (state,))
    if unpredicted is not None:
        return ReportRow(name, shape, size, node_type, Verdict.INITIALISED, (unpredicted,))
    reasons = dict.fromkeys(remarks)
    for tensor in tensors:
        reasons |= dict.fromkeys(_unseen(tensor, config))
    verdict = Verdict.EXTRAPOLATING if reasons else Verdict.SEEN
    return ReportRow(name, shape, size, node_type, verdict, tuple(reasons))


def _unseen(tensor: Tensor, config: HypernetConfig) -> list[str]:
    """What about a tensor the hypernetwork has not seen."""
    reasons = []
    outputs, inputs, height, width = tensor.shape4
    if tensor.role in (Role.CLASS_WEIGHT, Role.CLASS_BIAS) and outputs != config.num_classes:
        reasons.append(f"{outputs} classes instead of {config.num_classes}, predicted like other layers")
    beyond = _beyond(max(height, width), config)
    channels, places = channel_table(config.num_classes), spatial_table(config.max_kernel)
    vocabulary = channel_vocabulary(config.num_classes)
    for name, size in (("outputs", outputs), ("inputs", inputs)):
        if size not in vocabulary:
            counts_as = vocabulary[channels[min(size, len(channels) - 1)]]
            reasons.append(f"{size} {name} count as {counts_as}")
    if tensor.role is Role.POSITION:
        if beyond:
            reasons.append(f"{height}x{width} positions {beyond}")
    else:
        vocabulary = spatial_vocabulary(config.max_kernel)
        for name, size in (("high", height), ("wide", width)):
            if size not in vocabulary:
                counts_as = vocabulary[places[min(size, len(places) - 1)]]
                reasons.append(f"a kernel {size} {name} counts as {counts_as}")
        if beyond:
            reasons.append(f"a kernel of {height}x{width} {beyond}")
    if tensor.role is Role.EMBEDDING and inputs > config.max_in:
        reasons.append(f"its rows repeat every {config.max_in}")
    return reasons


def _beyond(side: int, config: HypernetConfig) -> str:
    """What becomes of kernels whose longer side is larger than what is decoded; nothing is said of others."""
    if side <= config.max_kernel:
        return ""
    largest = f"{config.max_kernel}x{config.max_kernel}"
    return f"interpolated from {largest}" if decoder(config.decoder).centered else f"repeated every {largest}"


def _is_image(text: str) -> bool:
    """Whether an input's type and shape, as text, are those of a batch of RGB images."""
    shape = re.fullmatch(r"b?float\d+\[\d+,(\d+),(\d+),3\]", text)
    return shape is not None and math.prod(map(int, shape.groups())) > 1
