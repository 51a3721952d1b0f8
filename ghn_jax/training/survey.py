"""What a run is going to meet: the operations of its networks and the most that one of them needs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tqdm import tqdm

from ghn_jax.architecture import Task
from ghn_jax.machine.table import Signature, Table, signatures_of, table_of
from ghn_jax.training.bounds import Needs, needs_of
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.targets import Target, meta_batches, width_of


class Survey(NamedTuple):
    """The result of looking ahead.

    Attributes:
      tables: the operations of the networks of every width, the most frequent width first.
      bounds: the largest needs.
    """

    tables: Mapping[int, Table]
    bounds: Needs


def survey(config: TrainConfig, task: Task) -> Survey:
    """Looks at all architectures that the run is going to see."""
    ahead = itertools.islice(meta_batches(config, task), config.steps)
    bar = tqdm(ahead, total=config.steps, desc="looking ahead", unit="step", leave=False)
    return of_targets(itertools.chain.from_iterable(bar), config.batch_size)


def of_targets(targets: Iterable[Target], batch_size: int) -> Survey:
    """What these networks need."""
    signatures: dict[int, set[Signature]] = {}
    counts: dict[int, int] = {}
    bounds = Needs(0, 0, 0, 0, 0, 0)
    for target in targets:
        width = width_of(target)
        signatures.setdefault(width, set()).update(signatures_of(target.program))
        counts[width] = counts.get(width, 0) + 1
        bounds = bounds.union(needs_of(target, batch_size))
    widths = sorted(counts, key=lambda width: -counts[width])
    return Survey({width: table_of(signatures[width]) for width in widths}, bounds)
