"""Which properties of networks go with poor predictions: depth, normalisation and attention; a transformer's sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.evaluation.results import summary
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset
from ghn_jax.networks.architecture import Architecture, named
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params

KINDS: Mapping[str, Callable[[Architecture], bool]] = {
    "all": lambda a: True,
    "batch norm": lambda a: a.norm is not None,
    "no normalisation": lambda a: a.norm is None,
    "attention": lambda a: a.has_attention,
    "no attention": lambda a: not a.has_attention,
    "up to 10 cells": lambda a: a.n_cells <= 10,
    "more than 10 cells": lambda a: a.n_cells > 10,
}
"""Kinds of architectures by name."""


def by_kind(rows: Iterable[Mapping[str, Any]], split: str, title: str) -> dict[str, dict[str, float]]:
    """Mean accuracies of the kinds of networks of a split, as `results.summary`, with their "number".

    Args:
      rows: of the file that `evaluate_splits.measure` writes.
      split: of DeepNets-1M.
      title: of the hypernetwork.

    Returns:
      By kind; kinds without a network are left out.
    """
    chosen = [row for row in rows if row["split"] == split and title in row["accuracy"]]
    of_split = [(sample_architecture(split, row["number"]), row["accuracy"][title]) for row in chosen]
    found = {}
    for kind, belongs in KINDS.items():
        accuracies = [value for a, value in of_split if isinstance(a, Architecture) and belongs(a)]
        if accuracies:
            found[kind] = {"number": float(len(accuracies)), **summary(accuracies)}
    return found


def transformers(
    ghn: GHN, dataset: Dataset, widths: Sequence[int], cells: Sequence[int], num_images: int
) -> np.ndarray:
    """Accuracies (0..1) of transformers like the predefined ViT of other sizes, `[widths, cells]`."""
    run = ByOperation(min(BATCH_SIZE, num_images))
    found = np.zeros((len(widths), len(cells)))
    for row, width in enumerate(widths):
        for column, count in enumerate(cells):
            architecture = dataclasses.replace(named("vit"), C=width, n_cells=count)
            network = make_network(0, architecture, dataset.task)
            params = predict_params(network.graph, ghn)
            found[row, column] = accuracy(run(network.program, params), dataset.test, dataset, num_images)
    return found
