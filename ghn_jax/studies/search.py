"""Search: the networks of a split whose predicted property is best, and whether training says so too.

A regression from embeddings is fitted to all measured networks and looks at networks that nobody has trained.

Source: paper, section 5.2 and appendix (the search split).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.embed import embed
from ghn_jax.studies import properties
from ghn_jax.studies.train_networks import NetworkId, StudyError

BEST, COUNTS, AT_RANDOM, LARGEST = "best predicted", "best by counts of operations", "random", "most multiply-adds"


class Candidates(NamedTuple):
    """Networks that are looked at.

    Attributes:
      entries: splits and numbers.
      vectors: embeddings `[hid]` by name.
      counts: of operations of every kind, by name.
      multiply_adds: of each, by name.
    """

    entries: list[NetworkId]
    vectors: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    multiply_adds: dict[str, int]


def name_of(entry: NetworkId) -> str:
    """What a network is called in tables."""
    return f"{entry.split}/{entry.number}"


def look_at(entries: Sequence[NetworkId], ghn: GHN, dataset: Dataset) -> Candidates:
    """Embeddings and costs of networks.

    Raises:
      StudyError: a split or a number that is not there.
    """
    vectors, counts, costs = {}, {}, {}
    for entry in entries:
        try:
            architecture = sample_architecture(entry.split, entry.number, dataset.task.large_images)
        except (KeyError, ValueError) as error:
            raise StudyError(f"there is no network {name_of(entry)}: {error}") from error
        network = make_network(entry.number, architecture, dataset.task)
        vectors[name_of(entry)] = embed(network.graph, ghn)
        counts[name_of(entry)] = properties.operation_counts(network.graph)
        costs[name_of(entry)] = network.program.multiply_adds
    return Candidates(list(entries), vectors, counts, costs)


def choose(
    candidates: Candidates,
    measured: Mapping[str, float],
    fitted: Candidates,
    *,
    best: int,
    random: int,
    seed: int = 0,
    highest: bool = True,
) -> dict[str, list[NetworkId]]:
    """The candidates with the best predicted property, and what they are compared with.

    These are the best ones by a regression from counts of operations, others drawn at random, and the most expensive
    one.

    Args:
      candidates: networks that were not measured.
      measured: the property by network.
      fitted: the measured networks.
      best, random: how many of each; of those by counts as many as of the best.
      seed: of the draw, from all candidates.
      highest: whether more of the property is better.

    Raises:
      StudyError: fewer candidates than asked for, or as for `properties.predict`.
    """
    if len(candidates.entries) < max(best, random):
        raise StudyError(f"{len(candidates.entries)} candidates: expected at least {max(best, random)}")
    known = {name: 0.0 for name in candidates.vectors}
    by_name = {name_of(entry): entry for entry in candidates.entries}

    def best_by(vectors: properties.Values) -> list[NetworkId]:
        values = properties.predict(vectors, measured, known, repetitions=1).predicted
        return [by_name[name] for name in sorted(by_name, key=lambda name: values[name], reverse=highest)[:best]]

    drawn = np.random.default_rng(seed).choice(len(by_name), random, replace=False)
    largest = max(by_name, key=lambda name: candidates.multiply_adds[name])
    return {
        BEST: best_by({**fitted.vectors, **candidates.vectors}),
        COUNTS: best_by({**fitted.counts, **candidates.counts}),
        AT_RANDOM: [candidates.entries[place] for place in sorted(drawn.tolist())],
        LARGEST: [by_name[largest]],
    }


def table(chosen: Mapping[str, Sequence[NetworkId]], rows: Sequence[Row]) -> str:
    """The accuracy in percent after the last step, of every choice with its median, as Markdown."""
    accuracy = {f"{row['split']}/{row['number']}": row["accuracy"][max(row["accuracy"], key=int)] for row in rows}
    lines = ["| choice | median | networks |", "| --- | --- | --- |"]
    for title, entries in chosen.items():
        values = [100 * accuracy[name_of(entry)] for entry in entries]
        listed = ", ".join(f"{name_of(entry)} {value:.1f}" for entry, value in zip(entries, values, strict=True))
        lines.append(f"| {title} | {np.median(values):.1f} | {listed} |")
    return "\n".join(lines) + "\n"
