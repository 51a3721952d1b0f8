"""What a prediction is likely to be worth, said before any image is seen.

Regression trees say from a few features of a network and its hypernetwork how well the network classifies without
training, relative to networks like those of the hypernetwork's training; a logistic curve says from that how likely it
is that training from the predicted parameters is ahead of training from random ones.  Both were fitted to measured
networks (`ghn_jax.studies.fit_forecast`).

Source of the trees: Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 2001.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import NODE_ID, Graph
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.prediction.embed import embed
from ghn_jax.runtime import own_settings

DATA = Path(__file__).parent / "data" / "forecast.json"
"""The fitted models and how well they did on splits that they were not fitted to."""

FEATURES = (
    "share of extrapolated elements",
    "share of elements that are not predicted",
    "norms a layer",
    "attention",
    "squeeze and excitation",
    "depthwise share of layers",
    "no global pooling",
    "log2 of the longest path",
    "log2 of the width",
    "log2 of the parameters",
    "distance of the embedding",
)
"""What is known of a network before any image is seen."""

REFERENCES = 24
"""Networks of the train split whose embeddings say what a hypernetwork has seen."""

HELPS, UNSURE, DOES_NOT = "start from the prediction", "try both: ghn_jax.best_start", "start from random parameters"
"""What to do."""

SURE = 0.8
"""Above this probability the prediction is recommended, below one minus it random parameters."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What the prediction for a network is likely to be worth.

    Attributes:
      accuracy: without training, above chance, relative to networks like those of the hypernetwork's training: 1 is as
        well as they do, 0 is chance.
      helps: probability that the accuracy after 100 steps of SGD is higher from the predicted parameters than from
        random ones.
      reasons: what speaks against the prediction most, the strongest first.

    >>> forecast = ghn_jax.report(ghn_jax.build_graph(ghn_jax.named('resnet50'))).forecast
    >>> 0 < forecast.helps < 1
    True
    """

    accuracy: float
    helps: float
    reasons: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        """What to do: take the prediction, random parameters, or measure."""
        if self.helps >= SURE:
            return HELPS
        return DOES_NOT if self.helps <= 1 - SURE else UNSURE

    def __str__(self) -> str:
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return (
            f"forecast: {100 * self.accuracy:.0f}% of what networks like those of training reach without training; "
            f"ahead of random parameters after 100 steps with probability {self.helps:.2f}: {self.advice}{why}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Trees:
    """Regression trees whose values are added up; each is complete and `depth` deep, node i has 2 i + 1 and 2 i + 2.

    Attributes:
      bias: added to all.
      feature: int `[trees, 2^depth - 1]`, what an inner node looks at.
      threshold: `[trees, 2^depth - 1]`; larger values go to the second child.
      value: `[trees, 2^depth]`, of the leaves.
    """

    bias: float
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The values `[n]` for features `[n, F]`."""
        features = features.astype(np.float32)
        inner = self.feature.shape[1]
        trees, rows = np.arange(len(self.feature)), np.arange(len(features))[:, None]
        node = np.zeros((len(features), len(trees)), np.int64)
        while node.size and node[0, 0] < inner:
            above = features[rows, self.feature[trees, node]] > self.threshold[trees, node]
            node = 2 * node + 1 + above
        return self.bias + self.value[trees, node - inner].sum(1)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Trees:
        """From what was stored as JSON."""
        return cls(
            float(stored["bias"]),
            np.asarray(stored["feature"], np.int64),
            np.asarray(stored["threshold"], np.float64),
            np.asarray(stored["value"], np.float64),
        )


class Score(NamedTuple):
    """What was fitted.

    Attributes:
      accuracy: trees that give the relative accuracy.
      helps: slope and value at 0 of the log-odds that the prediction helps, over the relative accuracy.
      typical: features of a typical network, `[F]`, which reasons are said in comparison with.
    """

    accuracy: Trees
    helps: tuple[float, float]
    typical: np.ndarray

    def probability(self, accuracy: np.ndarray | float) -> np.ndarray:
        """That the prediction helps, for relative accuracies."""
        return 1 / (1 + np.exp(-(self.helps[0] * np.asarray(accuracy) + self.helps[1])))


@own_settings()
def features_of(graph: Graph, ghn: GHN, extrapolated: float, left_out: float) -> np.ndarray:
    """The features of a network, `[F]` float64, in the order of `FEATURES`.

    Args:
      graph: of the network.
      ghn: the hypernetwork.
      extrapolated, left_out: shares of the elements of parameters that are extrapolated, and that are not predicted.
    """
    counts = np.bincount(graph.node_types, minlength=len(NODE_ID))
    number = {name: int(counts[index]) for name, index in NODE_ID.items()}
    depthwise = number["sep_conv"] + number["dil_conv"]
    layers = max(1, number["conv"] + depthwise)
    channels = graph.node_shapes[graph.node_types == NODE_ID["conv"]][:, 0]
    elements = sum(tensor.size for tensor in graph.tensors)
    return np.array(
        [
            extrapolated,
            left_out,
            (number["bn"] + number["ln"]) / layers,
            float(number["msa"] > 0),
            float(number["cse"] > 0),
            depthwise / layers,
            float(number["glob_avg"] == 0),
            np.log2(max(1, int(graph.distances[0].max(initial=1)))),
            np.log2(max(1.0, float(np.median(channels)) if len(channels) else 1.0)),
            np.log2(max(1, elements)),
            distance(embed(graph, ghn), ghn),
        ]
    )


def distance(embedding: np.ndarray, ghn: GHN) -> float:
    """Root mean square over dimensions of how many deviations an embedding is from those of training networks."""
    mean, deviation = _references(ghn)
    return float(np.sqrt(np.mean(np.square((embedding - mean) / deviation))))


_seen: weakref.WeakKeyDictionary[GHN, tuple[np.ndarray, np.ndarray]] = weakref.WeakKeyDictionary()


def _references(ghn: GHN) -> tuple[np.ndarray, np.ndarray]:
    """What `references` gives, which is stored for the hypernetworks of the package; computed once for others."""
    if ghn not in _seen:
        known = json.loads(DATA.read_text()).get("references", {}).get(ghn.fingerprint)
        _seen[ghn] = references(ghn) if known is None else tuple(np.array(known, np.float32))
    return _seen[ghn]


def references(ghn: GHN) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the embeddings of networks of the train split, `[hid]` each."""
    found = np.stack([embed(graph, ghn) for graph in _reference_graphs()])
    deviation = found.std(0)
    return found.mean(0), np.maximum(deviation, 1e-6 + 1e-3 * deviation.max())


@functools.cache
def _reference_graphs() -> Sequence[Graph]:
    return [build_graph(sample_architecture("train", number), CIFAR10) for number in range(REFERENCES)]


@functools.cache
def fitted() -> Score:
    """The score in the package."""
    stored = json.loads(DATA.read_text())
    slope, at_zero = stored["helps"]
    return Score(Trees.of(stored["accuracy"]), (slope, at_zero), np.asarray(stored["typical"], np.float64))


@own_settings()
def forecast(features: np.ndarray, score: Score | None = None) -> Forecast:
    """The forecast for a network of these features, `[F]`, by the score in the package or another one."""
    score = fitted() if score is None else score
    as_typical = np.where(np.eye(len(features), dtype=bool), score.typical, features)  # one feature at a time
    value, *others = score.accuracy(np.concatenate([features[None], as_typical])).tolist()
    costs = np.asarray(others) - value
    reasons = tuple(
        f"{FEATURES[index]} {features[index]:.3g}, typically {score.typical[index]:.3g}"
        for index in np.argsort(-costs, kind="stable")[:3]
        if costs[index] > 0.05
    )
    return Forecast(max(0.0, value), float(score.probability(value)), reasons)
