"""What a run is going to meet: the operations of its networks and the most that one of them needs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

from tqdm import tqdm

from ghn_jax.architecture import Task
from ghn_jax.machine.table import Signature, Table, signatures_of, table_of
from ghn_jax.training.bounds import Needs, needs_of
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.targets import Target, meta_batches, width_of

LOOK_AHEAD = 10_000
"""Architectures looked at before a run."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """The result of looking ahead.

    Attributes:
      tables: the operations of the networks of every width, the most frequent width first.
      bounds: the largest needs.
    """

    tables: Mapping[int, Table]
    bounds: Needs

    def foresees(self, target: Target, batch_size: int) -> bool:
        """Whether the compiled steps have all operations of a network, and room for it."""
        table = self.tables.get(width_of(target))
        fits = all(need <= room for need, room in zip(needs_of(target, batch_size), self.bounds, strict=True))
        return table is not None and fits and all(s in table for s in signatures_of(target.program))


def survey(config: TrainConfig, task: Task) -> Survey:
    """Looks at the architectures that the run is going to see, the first `LOOK_AHEAD` of them.

    A longer run passes over the few networks with an operation that none of those has, or larger than all of them.
    """
    steps = min(config.steps, -(-LOOK_AHEAD // config.meta_batch))
    ahead = itertools.islice(meta_batches(config, task), steps)
    bar = tqdm(ahead, total=steps, desc="looking ahead", unit="step", leave=False)
    return of_targets((target for meta_batch in bar for target in meta_batch.targets), config.batch_size)


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
