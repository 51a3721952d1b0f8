"""The architectures of a training run, with what a step needs of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ghn_jax.architecture import AnyArchitecture, ArchitectureError, Task
from ghn_jax.deepnets.sampler import MAX_NODES_BATCH, train_architecture, train_index
from ghn_jax.graph import Graph
from ghn_jax.program import Program, lower
from ghn_jax.program_graph import graph_of
from ghn_jax.training.config import TrainConfig


class Target(NamedTuple):
    """A network to be predicted: its number in its split, what it is, its instructions and its graph."""

    number: int
    architecture: AnyArchitecture
    program: Program
    graph: Graph


def make_target(number: int, architecture: AnyArchitecture, task: Task) -> Target:
    """The target that `architecture` makes for `task`."""
    program = lower(architecture, task)
    return Target(number, architecture, program, graph_of(program))


def width_of(target: Target) -> int:
    """Channels of the first cells; networks of one width share a compiled step."""
    return target.architecture.C


class Position(NamedTuple):
    """A place in the endless stream of train architectures.

    Attributes:
      next: position of the next architecture to be drawn.
      waiting: positions of those that were drawn and wait for others of their width.
      passed_over: how many of those drawn had no place in the run's compiled steps.
    """

    next: int = 0
    waiting: tuple[int, ...] = ()
    passed_over: int = 0


START = Position()
"""Of a run that has not begun."""


class MetaBatch(NamedTuple):
    """Networks of one step, and the position that follows them."""

    targets: tuple[Target, ...]
    after: Position


def meta_batches(
    config: TrainConfig,
    task: Task,
    accepts: Callable[[Target], bool] = lambda target: True,
    start: Position = START,
) -> Iterator[MetaBatch]:
    """Meta-batches of train architectures without end, a pure function of the arguments.

    All networks of a meta-batch have the same width: a network waits until there are enough of its width, so every
    architecture is drawn as often as in the original, only in another company.  Meta-batches of more than 2,200 nodes
    are skipped, as in the original.  Networks above `max_multiply_adds`, and those that `accepts` says no to, are
    passed over one by one.

    Raises:
      ArchitectureError: `max_multiply_adds` is so low that there is none for a thousand positions.
    """
    waiting: dict[int, list[tuple[int, Target]]] = {}
    for position in start.waiting:
        target = _target(config, task, position)
        waiting.setdefault(width_of(target), []).append((position, target))
    passed_over, too_costly, position = start.passed_over, 0, start.next
    while True:
        target = _target(config, task, position)
        position += 1
        if target is None:
            too_costly += 1
            if too_costly == _PATIENCE:
                raise ArchitectureError(
                    f"config.max_multiply_adds={config.max_multiply_adds}: none of {_PATIENCE} architectures in a row "
                    "is that cheap"
                )
            continue
        too_costly = 0
        if not accepts(target):
            passed_over += 1
            continue
        company = waiting.setdefault(width_of(target), [])
        company.append((position - 1, target))
        if len(company) == config.meta_batch:
            del waiting[width_of(target)]
            targets = tuple(target for _, target in company)
            if sum(target.graph.num_nodes for target in targets) <= MAX_NODES_BATCH:
                left = (position for company in waiting.values() for position, _ in company)
                yield MetaBatch(targets, Position(position, tuple(sorted(left)), passed_over))


_PATIENCE = 1000


def _target(config: TrainConfig, task: Task, position: int) -> Target | None:
    """The network at a position of the stream, None if it costs too much."""
    architecture = train_architecture(config.seed, position, task.large_images)
    if config.fixed_width is not None:
        architecture = dataclasses.replace(architecture, C=config.fixed_width)
    program = lower(architecture, task)
    if config.max_multiply_adds is not None and program.multiply_adds > config.max_multiply_adds:
        return None
    return Target(train_index(config.seed, position), architecture, program, graph_of(program))
