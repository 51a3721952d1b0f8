"""Two training runs compared network by network: which kinds of networks does one of them predict better?

Runs of the same seed, meta-batch and limits meet the same networks with the same images at the same step.  The loss of
each such network in the first run minus that in the second says more than two means do, since networks differ far more
from each other than hypernetworks: negative is better for the first.  Losses above 3 count as 3, as a network that
guesses has 2.3; networks whose loss is not finite in one of the runs are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.checks.fields import Rule, Several, Whole, shown
from ghn_jax.deepnets.sampler import sample_program, split_size
from ghn_jax.errors import GHNError
from ghn_jax.evaluation.json_lines import METRICS, Losses, read
from ghn_jax.networks.architecture import Architecture
from ghn_jax.weights import checkpoint

HIGHEST = 3.0
"""Losses above count as this much."""


class ComparisonError(GHNError):
    """Two runs that cannot be compared; the message says why."""


def _cells(architecture: Architecture) -> str:
    first = 3 * ((architecture.n_cells - 1) // 3)
    return f"{first + 1}-{first + 3} cells"


DIVISIONS: tuple[Callable[[Architecture], str], ...] = (
    lambda architecture: "all",
    _cells,
    lambda architecture: "batch norm" if architecture.norm else "no normalisation",
    lambda architecture: "attention" if architecture.has_attention else "no attention",
    lambda architecture: "global pooling" if architecture.glob_avg else "no global pooling",
)
"""Ways to divide networks."""


class Pair(NamedTuple):
    """A network that two runs met at the same step: its number in the train split and its losses."""

    number: int
    first: float
    second: float


class ComparisonRow(NamedTuple):
    """Networks of one kind: how many, the medians of their losses, and mean and standard error of the difference."""

    kind: str
    count: int
    first: float
    second: float
    mean: float
    standard_error: float


def compare(first: Path, second: Path, from_step: int = 1) -> list[ComparisonRow]:
    """The comparison of two runs for every kind of networks.

    Args:
      first, second: the folders of the runs.
      from_step: steps before it do not count.

    Raises:
      ComparisonError: the runs have met other images or other networks.
      CheckpointError, OSError: a folder that is not that of a run.
    """
    stored = [checkpoint.describe(run) for run in (first, second)]
    (config, version), (other, other_version) = (
        (run.train_config, run.progress.get("generator_version")) for run in stored
    )
    for name in ("seed", "dataset", "batch_size"):
        one, another = config.get(name), other.get(name)
        if one is None or one != another:
            raise ComparisonError(
                f"the runs have {name}={shown(one)} and {shown(another)}: expected the same images for both"
            )
    met = pairs(read(first / METRICS, **_ROW), read(second / METRICS, **_ROW), from_step)
    if version != other_version or not met:
        raise ComparisonError(f"the runs have met no network at the same step from step {from_step} on")
    return compare_kinds(met, [sample_program("train", pair.number)[0] for pair in met])


def pairs(first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]], from_step: int = 1) -> list[Pair]:
    """Networks in the metrics of both runs, from a step on."""
    losses = {(step, number): loss for step, number, loss in _losses(second)}
    met = (
        Pair(number, loss, losses[step, number])
        for step, number, loss in _losses(first)
        if step >= from_step and (step, number) in losses
    )
    return [pair for pair in met if np.isfinite(pair.first) and np.isfinite(pair.second)]


_ROW: dict[str, Rule] = {
    "step": Whole(0, 1 << 53),
    "architectures": Several(Whole(0, split_size("train") - 1), 1, 1 << 16),
    "losses": Losses(),
}
"""Fields of a line of metrics."""


def _losses(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, int, float]]:
    """Step, number and loss of every network in rows that have a loss for each."""
    for row in rows:
        if len(row["architectures"]) == len(row["losses"]):
            for number, loss in zip(row["architectures"], row["losses"], strict=True):
                yield row["step"], number, loss


def compare_kinds(met: Sequence[Pair], architectures: Sequence[Architecture]) -> list[ComparisonRow]:
    """The comparison for every kind of networks, each division in the order of its names."""
    found = []
    for kind_of in DIVISIONS:
        groups: dict[str, list[Pair]] = {}
        for pair, architecture in zip(met, architectures, strict=True):
            groups.setdefault(kind_of(architecture), []).append(pair)
        for kind in sorted(groups, key=lambda kind: (len(kind), kind)):
            first, second = np.array([pair[1:] for pair in groups[kind]]).T
            difference = np.minimum(first, HIGHEST) - np.minimum(second, HIGHEST)
            error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else np.nan
            medians = float(np.median(first)), float(np.median(second))
            found.append(ComparisonRow(kind, len(first), *medians, float(difference.mean()), float(error)))
    return found


def table(found: Iterable[ComparisonRow], first: str, second: str) -> str:
    """The comparison of runs with these names, as Markdown."""
    lines = [f"| | networks | median loss, {first} | {second} | difference |", "|---|---|---|---|---|"]
    for row in found:
        losses = f"{row.first:.3f} | {row.second:.3f} | {row.mean:+.3f} +- {row.standard_error:.3f}"
        lines.append(f"| {row.kind} | {row.count:,} | {losses} |")
    return "\n".join(lines)
