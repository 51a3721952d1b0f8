"""How much of a hypernetwork's predictions comes from a node's place in the graph.

Every network is predicted three times: from its graph; with each tensor made from the embedding of another node of the
same operation and shape ("exchanged": right operations in wrong places); and from the graph without its edges ("no
edges": every node on its own).  A hypernetwork that ignores the graph loses nothing by either.  "variation" is the
share of the tensors' squared norm that differs from the mean over nodes of the same operation and shape: 0 if all of
them get the same parameters, near 1 if they have nothing in common.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Mapping

import numpy as np

from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.evaluation.results import summary
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Graph
from ghn_jax.images import Dataset
from ghn_jax.networks.network import Network
from ghn_jax.prediction.predict import predict_params

MODES = ("graph", "exchanged", "no edges")
COLUMNS = (*MODES, "variation")

GraphUse = dict[str, dict[str, list[float]]]
"""By title and column: accuracies (0..1) and variations, one for every network."""


def measure(ghns: Mapping[str, GHN], networks: Iterable[Network], dataset: Dataset, num_images: int) -> GraphUse:
    """Accuracies and variations of networks predicted in every mode.

    Args:
      ghns: hypernetworks by title.
      networks: those to predict.
      dataset: its test images are classified.
      num_images: only the first so many of them.
    """
    run_network = ByOperation(BATCH_SIZE)
    found: GraphUse = {title: {column: [] for column in COLUMNS} for title in ghns}
    for network in networks:
        graphs = (network.graph, exchanged(network.graph, network.number), without_edges(network.graph))
        for title, ghn in ghns.items():
            for mode, graph in zip(MODES, graphs, strict=True):
                params = predict_params(graph, ghn)
                if mode == "graph":
                    found[title]["variation"].append(variation(graph, params))
                logits = run_network(network.program, params)
                found[title][mode].append(accuracy(logits, dataset.test, dataset, num_images))
    return found


def table(found: GraphUse) -> str:
    """Means and standard errors in percent, as Markdown."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    for title, columns in found.items():
        summaries = [summary(columns[column]) for column in COLUMNS]
        cells = [f"{100 * s['mean']:.1f} +- {100 * s['standard_error']:.1f}" for s in summaries]
        lines.append("| " + " | ".join([title, *cells]) + " |")
    return "\n".join(lines)


def alike(graph: Graph) -> list[list[int]]:
    """Nodes with parameters, grouped by operation and shape."""
    groups: dict[Hashable, list[int]] = collections.defaultdict(list)
    for node in sorted({tensor.node for tensor in graph.tensors}):
        groups[int(graph.node_types[node]), tuple(map(int, graph.node_shapes[node]))].append(node)
    return list(groups.values())


def exchanged(graph: Graph, seed: int) -> Graph:
    """The graph with its tensors at other nodes of the same operation and shape, at random."""
    rng = np.random.default_rng(seed)
    moved = {}
    for nodes in alike(graph):
        # A cycle: no node stays where it is, unless it is alone.
        order = [nodes[index] for index in rng.permutation(len(nodes))]
        moved.update(zip(order, order[1:] + order[:1], strict=True))
    return dataclasses.replace(graph, tensors=tuple(dataclasses.replace(t, node=moved[t.node]) for t in graph.tensors))


def without_edges(graph: Graph) -> Graph:
    """The graph without its edges."""
    return dataclasses.replace(graph, distances=np.zeros_like(graph.distances))


def variation(graph: Graph, params: Mapping[str, np.ndarray]) -> float:
    """Share of the squared norm that differs from the mean over nodes alike, of all tensors at two such nodes or more.

    Args:
      graph: of the network.
      params: its predicted parameters by name.
    """
    differing, whole = 0.0, 0.0
    for nodes in alike(graph):
        if len(nodes) < 2:
            continue
        tensors = collections.defaultdict(list)
        for tensor in graph.tensors:
            if tensor.node in nodes:
                tensors[tensor.role, tensor.shape].append(np.asarray(params[tensor.name], np.float64))
        for group in tensors.values():
            values = np.stack(group)
            differing += float(np.sum(np.square(values - values.mean(0))))
            whole += float(np.sum(np.square(values)))
    return differing / whole if whole else 0.0
