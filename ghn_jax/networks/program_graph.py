"""The computational graph of a program, with the nodes and edges of the published graphs."""

from __future__ import annotations

import numpy as np

from ghn_jax.graphs.graph import LARGEST_SIZE, LONGEST_PATH, NODE_ID, Graph, GraphError, Tensor, paths_along
from ghn_jax.networks.architecture import CIFAR10, AnyArchitecture, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.primitives import GraphNode
from ghn_jax.networks.program import Program

_INPUT, _SUM = (GraphNode(NODE_ID[name], (0, 0, 0, 0), ()) for name in ("input", "sum"))

_JOINING = (NODE_ID["sum"], NODE_ID["concat"])
"""Types of nodes that would join a single node with nothing."""


def build_graph(architecture: AnyArchitecture, task: Task = CIFAR10) -> Graph:
    """The graph of `architecture` applied to `task`.

    Raises:
      ArchitectureError: the architecture makes no network for this task.
      GraphError: a layer is larger than compiled code can count.

    >>> graph = ghn_jax.build_graph(ghn_jax.named('resnet50'))
    >>> graph.num_nodes
    126
    """
    return graph_of(lower(architecture, task))


def graph_of(program: Program) -> Graph:
    """The graph of a program.

    There is a node for every weight of a convolution or linear layer and one for its bias, one for every
    normalisation layer, positional encoding and pooling, and for sums and concatenations of more than one node.
    Activations, reshapes and dropout are no nodes.
    """
    nodes: list[GraphNode] = []
    readers: list[list[int]] = []  # of every node
    tensors: list[Tensor] = []

    def add(node: GraphNode, before: list[int], scope: str = "") -> int:
        index = len(nodes)
        nodes.append(node)
        readers.append([])
        for start in before:
            readers[start].append(index)
        for end, role, shape in node.parameters:
            tensors.append(Tensor(f"{scope}.{end}", index, role, shape))
        return index

    source = [add(_INPUT, [])]  # of every register
    for primitive, inputs, scope, _ in program.instructions:
        before = [source[register] for register in inputs if register is not None]
        own = primitive.nodes
        if len(before) > 1:
            before = list(dict.fromkeys(before))
        if primitive.tensor_is_added:
            before = [add(_SUM, [*before, add(own[0], [], scope)])]
        elif own and (len(before) > 1 or own[0].type not in _JOINING):
            for node in own:
                before = [add(node, before, scope)]
        source.append(before[0])
    try:
        shapes = np.array([node.shape for node in nodes], np.int32)
    except OverflowError:
        largest = max(max(node.shape) for node in nodes)
        raise GraphError(f"a layer has {largest:,} channels or inputs: expected at most {LARGEST_SIZE:,}") from None
    return Graph(
        node_types=np.array([node.type for node in nodes], np.int32),
        node_shapes=shapes,
        distances=paths_along(readers, LONGEST_PATH),
        tensors=tuple(tensors),
    )
