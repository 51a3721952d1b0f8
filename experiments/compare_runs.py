"""Compares two training runs network by network: which kinds of networks does one of them predict better?

    python experiments/compare_runs.py runs/ghn2 runs/mlp --from_step=1500

Runs of the same seed, meta-batch and limits meet the same networks with the same images at the same step.  The loss of
each such network in the first run minus that in the second says more than two means do, since networks differ far more
from each other than hypernetworks: negative is better for the first.  Losses above 3 count as 3, as a network that
guesses has 2.3; networks whose loss is not finite in one of the runs are left out.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.networks.architecture import Architecture
from ghn_jax.training.watch import METRICS, read
from ghn_jax.weights import checkpoint
from ghn_jax.weights.checkpoint import CheckpointError

HIGHEST = 3.0
"""Losses above count as this much."""


def _attention(architecture: Architecture) -> bool:
    genotype = architecture.genotype
    return any(name == "msa" for name, _ in (*genotype.normal, *genotype.reduce))


def _cells(architecture: Architecture) -> str:
    first = 3 * ((architecture.n_cells - 1) // 3)
    return f"{first + 1}-{first + 3} cells"


KINDS: tuple[Callable[[Architecture], str], ...] = (
    lambda architecture: "all",
    _cells,
    lambda architecture: "batch norm" if architecture.norm else "no normalisation",
    lambda architecture: "attention" if _attention(architecture) else "no attention",
    lambda architecture: "global pooling" if architecture.glob_avg else "no global pooling",
)
"""Ways to divide networks."""


class Pair(NamedTuple):
    """A network that two runs met at the same step: its number in the train split and its losses."""

    number: int
    first: float
    second: float


def pairs(first: Iterable[dict], second: Iterable[dict], from_step: int) -> list[Pair]:
    """Networks in the metrics of both runs, from a step on."""
    losses = {
        (row["step"], number): loss
        for row in second
        for number, loss in zip(row["architectures"], row["losses"], strict=True)
    }
    met = (
        Pair(number, loss, losses[row["step"], number])
        for row in first
        if row["step"] >= from_step
        for number, loss in zip(row["architectures"], row["losses"], strict=True)
        if (row["step"], number) in losses
    )
    return [pair for pair in met if np.isfinite(pair.first) and np.isfinite(pair.second)]


class Row(NamedTuple):
    """Networks of one kind: how many, the medians of their losses, and mean and standard error of the difference."""

    kind: str
    count: int
    first: float
    second: float
    mean: float
    standard_error: float


def rows(met: list[Pair], architectures: list[Architecture]) -> list[Row]:
    """The comparison for every kind of networks, each division in the order of its names."""
    found = []
    for kind_of in KINDS:
        groups: dict[str, list[Pair]] = {}
        for pair, architecture in zip(met, architectures, strict=True):
            groups.setdefault(kind_of(architecture), []).append(pair)
        for kind in sorted(groups, key=lambda kind: (len(kind), kind)):
            first, second = np.array([pair[1:] for pair in groups[kind]]).T
            difference = np.minimum(first, HIGHEST) - np.minimum(second, HIGHEST)
            error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else np.nan
            found.append(Row(kind, len(first), np.median(first), np.median(second), difference.mean(), error))
    return found


def _stored(run: Path) -> tuple[dict, int]:
    """Configuration of a run and its version of the generator of networks."""
    description = checkpoint.describe(run)
    return description.train_config, description.progress["generator_version"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="working directory of a run")
    parser.add_argument("second", type=Path, help="of another")
    parser.add_argument("--from_step", type=int, default=1, help="steps before it do not count")
    args = parser.parse_args(arguments)
    try:
        (config, version), (other, other_version) = _stored(args.first), _stored(args.second)
        met = pairs(read(args.first / METRICS), read(args.second / METRICS), args.from_step)
    except (CheckpointError, OSError) as error:
        sys.exit(str(error))
    for name in ("seed", "dataset", "batch_size"):
        if config[name] != other[name]:
            sys.exit(f"the runs have {name}={config[name]!r} and {other[name]!r}: expected the same images for both")
    if version != other_version or not met:
        sys.exit(f"the runs have met no network at the same step from step {args.from_step} on")
    architectures: list[Any] = [sample_architecture("train", pair.number) for pair in met]  # cells, all of them
    names = args.first.resolve().name, args.second.resolve().name
    print(f"| | networks | median loss, {names[0]} | {names[1]} | difference |\n|---|---|---|---|---|")
    for row in rows(met, architectures):
        print(
            f"| {row.kind} | {row.count:,} | {row.first:.3f} | {row.second:.3f} | {row.mean:+.3f} +- "
            f"{row.standard_error:.3f} |"
        )


if __name__ == "__main__":
    main()
