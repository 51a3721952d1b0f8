"""A target network with all that the rest needs of it."""

from __future__ import annotations

from typing import NamedTuple

from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.architecture import AnyArchitecture, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import Program
from ghn_jax.networks.program_graph import graph_of


class Network(NamedTuple):
    """A network to be predicted: its number in its split, what it is, its instructions and its graph."""

    number: int
    architecture: AnyArchitecture
    program: Program
    graph: Graph


def make_network(number: int, architecture: AnyArchitecture, task: Task) -> Network:
    """The target that `architecture` makes for `task`."""
    program = lower(architecture, task)
    return Network(number, architecture, program, graph_of(program))
