"""The computational graph of a program, with the nodes and edges of the published graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghn_jax.graphs.graph import LONGEST_PATH, NODE_ID, Graph, Tensor, oihw, shortest_paths
from ghn_jax.networks.architecture import CIFAR10, AnyArchitecture, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import INPUT, Instruction, ParameterTensor, Program

_JOINING = ("sum", "concat")
"""Types of nodes that would join a single node with nothing."""


def build_graph(architecture: AnyArchitecture, task: Task = CIFAR10) -> Graph:
    """The graph of `architecture` applied to `task`.

    Raises:
      ArchitectureError: the architecture makes no network for this task.

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
    builder = _GraphBuilder()
    source = {INPUT: builder.node("input", [])}
    for register, instruction in enumerate(program.instructions, start=1):
        inputs = [source[r] for r in instruction.inputs if r is not None]
        source[register] = builder.append(instruction, inputs)
    return Graph(
        node_types=np.array(builder.types, np.int32),
        node_shapes=np.array(builder.shapes, np.int32),
        distances=shortest_paths(builder.edges, len(builder.types), LONGEST_PATH),
        tensors=tuple(builder.tensors),
    )


class _GraphBuilder:
    def __init__(self):
        self.types: list[int] = []
        self.shapes: list[tuple[int, int, int, int]] = []
        self.edges: list[tuple[int, int]] = []
        self.tensors: list[Tensor] = []

    def node(self, node_type: str, sources: list[int], shape=(0, 0, 0, 0)) -> int:
        index = len(self.types)
        self.types.append(NODE_ID[node_type])
        self.shapes.append(shape)
        for start in sources:
            self.edges.append((start, index))
        return index

    def layer(self, node_type: str, sources: list[int], tensors: Sequence[ParameterTensor]) -> int:
        """A node that owns `tensors`, with the shape of the first."""
        first = tensors[0]
        node = self.node(node_type, sources, oihw(first.role, first.shape))
        for tensor in tensors:
            self.tensors.append(Tensor(tensor.name, node, tensor.role, tensor.shape))
        return node

    def append(self, instruction: Instruction, inputs: list[int]) -> int:
        """Adds the nodes of one instruction; returns the node that its output comes from."""
        primitive, tensors = instruction.primitive, instruction.tensors
        node_type, inputs = primitive.node_type, list(dict.fromkeys(inputs))
        if node_type is None or (node_type in _JOINING and len(inputs) == 1):
            return inputs[0]
        if not tensors:
            return self.node(node_type, inputs, (1, 1, *primitive.extent) if any(primitive.extent) else (0, 0, 0, 0))
        if primitive.tensor_is_added:
            return self.node("sum", [*inputs, self.layer(node_type, [], tensors)])
        if not primitive.separate_bias:
            return self.layer(node_type, inputs, tensors)
        node = self.layer(node_type, inputs, tensors[:1])
        return self.layer("bias", [node], tensors[1:]) if len(tensors) > 1 else node
