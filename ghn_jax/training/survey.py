"""What a run is going to meet: the operations of its networks and the most that one of them needs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

from tqdm import tqdm

from ghn_jax.architecture import Task
from ghn_jax.garbage import collector_paused
from ghn_jax.machine.table import Signature, Table, signatures_of, table_of
from ghn_jax.training.bounds import Needs, needs_of
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.corners import operations
from ghn_jax.training.targets import Target, meta_batches, width_of

SHORT_RUN = 2_500
"""Architectures of a run that is looked at from end to end."""

LOOK_AHEAD = 1_000
"""Architectures of a longer run that are looked at, for the most that one of them needs."""

MARGIN = 1.1
"""Room in a longer run, times the most that was needed by the architectures looked at."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """The result of looking ahead.

    Attributes:
      tables: the operations of the networks of every width.
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
    """The operations that a run's networks consist of, and the most that one of them needs.

    A short run is looked at from end to end.  For a longer one operations come from `corners.operations`, so that no
    network lacks any; what networks need is known of the first ones alone.  The few larger ones are passed over, which
    the original does not do: 1 of 4,599 after the first 1,000, with 32 channels and at most 40M multiply-adds.  Their
    number is in the metrics.
    """
    whole = config.steps * config.meta_batch <= SHORT_RUN
    steps = config.steps if whole else min(config.steps, -(-LOOK_AHEAD // config.meta_batch))
    ahead = itertools.islice(meta_batches(config, task), steps)
    bar = tqdm(ahead, total=steps, desc="looking ahead", unit="step", leave=False)
    with collector_paused():
        found = of_targets((target for meta_batch in bar for target in meta_batch.targets), config.batch_size)
    if whole:
        return found
    tables = operations(task, config.fixed_width, config.max_multiply_adds)
    return Survey(tables, found.bounds.with_margin(MARGIN))


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
