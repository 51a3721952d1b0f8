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


def meta_batches(
    config: TrainConfig, task: Task, accepts: Callable[[Target], bool] = lambda target: True
) -> Iterator[tuple[Target, ...]]:
    """Meta-batches of train architectures without end, a pure function of the arguments.

    All networks of a meta-batch have the same width: a network waits until there are enough of its width, so every
    architecture is drawn as often as in the original, only in another company.  Meta-batches of more than 2,200 nodes
    are skipped, as in the original.  Networks above `max_multiply_adds`, and those that `accepts` says no to, are
    passed over one by one.
    """
    waiting: dict[int, list[Target]] = {}
    for target in filter(accepts, _targets(config, task)):
        company = waiting.setdefault(width_of(target), [])
        company.append(target)
        if len(company) == config.meta_batch:
            del waiting[width_of(target)]
            if sum(target.graph.num_nodes for target in company) <= MAX_NODES_BATCH:
                yield tuple(company)


_PATIENCE = 1000


def _targets(config: TrainConfig, task: Task) -> Iterator[Target]:
    position, passed_over = 0, 0
    while True:
        architecture = train_architecture(config.seed, position, task.large_images)
        if config.fixed_width is not None:
            architecture = dataclasses.replace(architecture, C=config.fixed_width)
        program = lower(architecture, task)
        if config.max_multiply_adds is None or program.multiply_adds <= config.max_multiply_adds:
            passed_over = 0
            yield Target(train_index(config.seed, position), architecture, program, graph_of(program))
        else:
            passed_over += 1
            if passed_over == _PATIENCE:
                raise ArchitectureError(
                    f"config.max_multiply_adds={config.max_multiply_adds}: none of {_PATIENCE} architectures in a row "
                    "is that cheap"
                )
        position += 1
