"""The architectures of a training run, with what a step needs of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from ghn_jax.deepnets.sampler import (
    MAX_NODES_BATCH,
    PAPER_WIDTHS,
    WIDER,
    shown_width,
    train_architecture,
    train_index,
)
from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.architecture import Architecture, ArchitectureError, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import Network
from ghn_jax.networks.program_graph import graph_of
from ghn_jax.training.config import TrainConfig


class MetaBatch(NamedTuple):
    """Networks of one step, and the position in the stream of train architectures that follows them."""

    targets: tuple[Network, ...]
    after: int


def meta_batches(
    config: TrainConfig, task: Task, start: int = 0, stop: int | None = None, *, first_step: int = 0
) -> Iterator[MetaBatch]:
    """Meta-batches of train architectures, a pure function of the arguments; without end if `stop` is None.

    Networks follow each other as they are drawn, those above `max_multiply_adds` left out.  Meta-batches of more than
    2,200 nodes are skipped, as in the original.

    Args:
      config: of the run.
      task: what networks are for.
      start, stop: positions in the stream, the first that is drawn and the first that is not.
      first_step: number of the step that the first meta-batch is for, on which the size of images depends.

    Raises:
      ArchitectureError: `max_multiply_adds` is so low that there is none for a thousand positions, or `meta_batch` so
        large that all have too many nodes for five thousand positions.
    """
    position, too_costly, too_large, step = start, 0, 0, first_step
    targets: list[Network] = []
    while stop is None or position < stop:
        target = _target(config, task, step, position)
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
        targets.append(target)
        if len(targets) == config.meta_batch:
            if sum(target.graph.num_nodes for target in targets) <= MAX_NODES_BATCH:
                yield MetaBatch(tuple(targets), position)
                step += 1
                too_large = 0
            else:
                too_large += 1
                if too_large * config.meta_batch >= _PATIENCE_WITH_META_BATCHES:
                    raise ArchitectureError(
                        f"config.meta_batch={config.meta_batch}: {too_large} meta-batches in a row have more than "
                        f"{MAX_NODES_BATCH:,} nodes each; most of 8 networks have fewer"
                    )
            targets = []


_PATIENCE = 1000
_PATIENCE_WITH_META_BATCHES = 5000


def _target(config: TrainConfig, task: Task, step: int, position: int) -> Network | None:
    """The network at a position of the stream as a step runs it, None if it costs too much on images of full size."""
    architecture = train_architecture(
        config.seed, position, task.large_images, WIDER if config.wider_networks else PAPER_WIDTHS
    )
    if config.fixed_width is not None:
        architecture = dataclasses.replace(architecture, C=config.fixed_width)
    program = lower(architecture, task)
    if config.max_multiply_adds is not None and program.multiply_adds > config.max_multiply_adds:
        return None
    if (of_step := config.task_of_step(step, architecture, task)) != task:
        program = lower(architecture, of_step)
    graph = graph_of(program)
    if (width := shown_width(config.seed, position, config.wider_shapes)) is not None:
        graph = _showing(graph, dataclasses.replace(architecture, C=width), program.task)
    return Network(train_index(config.seed, position), architecture, program, graph)


def _showing(graph: Graph, twin: Architecture, task: Task) -> Graph:
    """`graph` with the shapes of a twin of other width at its nodes; its tensors, and what is decoded, stay its own."""
    return dataclasses.replace(graph, node_shapes=graph_of(lower(twin, task)).node_shapes)
