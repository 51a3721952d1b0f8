"""Architectures compared by their embeddings: the nearest of one, a map, and what similarity goes with.

Distances are Euclidean between embeddings whose dimensions were divided by their deviation over the networks compared.

Source: paper, section 5.2 and appendix (architectures near in embedding space).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from ghn_jax.deepnets.lookup import find_architecture
from ghn_jax.errors import extra
from ghn_jax.evaluation import json_lines
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, Task
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.prediction.embed import embed
from ghn_jax.studies.train_networks import StudyError

Embeddings = Mapping[str, np.ndarray]
"""Vectors `[hid]` by name of the network, such as "test/7" or "resnet50"."""


def embeddings_of(
    names: Iterable[str], ghn: GHN, path: Path, checkpoint: str = "", task: Task = CIFAR10
) -> dict[str, np.ndarray]:
    """Embeddings of networks; those that a file does not have yet are added to it.

    Args:
      names: what `find_architecture` takes.
      ghn: the hypernetwork.
      path: a file with a JSON line for every network and hypernetwork.
      checkpoint: name of the hypernetwork, which rows are stored with.
      task: what networks are built for.

    Raises:
      ArchitectureError: an unknown name, or a number outside of its split.
    """
    embedding = json_lines.numbers(ghn.config.hid, ghn.config.hid)
    about = {"checkpoint": checkpoint, json_lines.WEIGHTS: ghn.fingerprint}
    stored = {
        row["network"]: np.array(row["embedding"], np.float32)
        for row in json_lines.resume(path, network=str, checkpoint=str, embedding=embedding)
        if json_lines.is_of(row, about)
    }
    found = {}
    for name in names:
        if name not in stored:
            graph = build_graph(find_architecture(name, large_images=task.large_images).architecture, task)
            stored[name] = embed(graph, ghn)
            row = {"network": name} | about
            json_lines.append(path, row | {"embedding": [round(float(value), 6) for value in stored[name]]})
        found[name] = stored[name]
    return found


def _standard(embeddings: Embeddings) -> np.ndarray:
    """Standardised embeddings `[n, hid]`."""
    values = np.stack(list(embeddings.values())).astype(np.float64)
    deviation = values.std(0)
    return (values - values.mean(0)) / np.where(deviation > 0, deviation, 1.0)


def nearest(embeddings: Embeddings, name: str, count: int) -> list[tuple[str, float]]:
    """The networks nearest to one, itself left out, with their distances.

    Raises:
      StudyError: a network that is not among them.
    """
    names = list(embeddings)
    if name not in names:
        raise StudyError(f"{name!r} is none of the {len(names)} networks compared ({', '.join(names[:3])}, ...)")
    values = _standard(embeddings)
    distances = np.linalg.norm(values - values[names.index(name)], axis=1)
    order = [place for place in np.argsort(distances, kind="stable") if names[place] != name]
    return [(names[place], float(distances[place])) for place in order[:count]]


class Map(NamedTuple):
    """Networks in two dimensions.

    Attributes:
      places: `[n, 2]`, the two principal components.
      shares: of the variance, that each of both explains.
    """

    places: np.ndarray
    shares: tuple[float, float]


def project(embeddings: Embeddings) -> Map:
    """The two principal components of standardised embeddings.

    Raises:
      StudyError: fewer than 3 networks.
    """
    if len(embeddings) < 3:
        raise StudyError(f"{len(embeddings)} networks: expected at least 3 for a map")
    left, scales, _ = np.linalg.svd(_standard(embeddings), full_matrices=False)
    shares = scales**2 / np.sum(scales**2)
    places = left[:, :2] * scales[:2]
    places *= np.sign(places[np.argmax(np.abs(places), 0), [0, 1]])  # the same map from run to run
    return Map(places, (float(shares[0]), float(shares[1])))


def similarity(embeddings: Embeddings, values: Mapping[str, float]) -> float:
    """Spearman's correlation over pairs of networks between their distance and how much a property differs.

    It is 0 where one of both is the same for all pairs.

    Raises:
      StudyError: fewer than 3 networks with an embedding and the property.
    """
    both = [name for name in embeddings if name in values]
    if len(both) < 3:
        raise StudyError(f"{len(both)} networks have an embedding and the property: expected at least 3")
    standard = _standard({name: embeddings[name] for name in both})
    known = np.array([values[name] for name in both])
    first, second = np.triu_indices(len(both), 1)
    distances = np.round(np.linalg.norm(standard[first] - standard[second], axis=1), 9)  # equal ones stay equal
    differences = np.abs(known[first] - known[second])
    if np.ptp(distances) == 0 or np.ptp(differences) == 0:
        return 0.0
    return float(np.asarray(stats.spearmanr(distances, differences))[0])


def plot(path: str | os.PathLike, embeddings: Embeddings, title: str) -> None:
    """Draws the map, a colour for every split; networks that are in none have their names."""
    with extra("plot"):
        import matplotlib.figure

    found = project(embeddings)
    names = np.array(list(embeddings))
    groups = np.array([name.rpartition("/")[0] for name in names])
    figure = matplotlib.figure.Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    for place, group in enumerate(group for group in dict.fromkeys(groups.tolist()) if group):
        mine = found.places[groups == group]
        axes.plot(mine[:, 0], mine[:, 1], "o", color=f"C{place}", markersize=4, alpha=0.6, label=group)
    for name, (x, y) in zip(names[groups == ""], found.places[groups == ""], strict=True):
        axes.plot(x, y, "k*", markersize=11)
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    first, second = (f"{100 * share:.0f}%" for share in found.shares)
    axes.set(xlabel=f"first component, {first} of the variance", ylabel=f"second component, {second}", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
