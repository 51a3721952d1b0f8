"""The computational graph of a program, with the nodes and edges of the published graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghn_jax.graphs.graph import LONGEST_PATH, NODE_ID, Graph, Tensor, oihw, shortest_paths
from ghn_jax.networks.architecture import CIFAR10, AnyArchitecture, Task
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program import Instruction, ParameterTensor, Program

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
    source = [builder.node("input", [])]  # of every register
    for instruction in program.instructions:
        inputs = [source[r] for r in instruction.inputs if r is not None]
        source.append(builder.append(instruction, inputs))
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

    def layer(self, node_type: str, sources: list[int], shape, tensors: Sequence[ParameterTensor]) -> int:
        """A node that owns `tensors`."""
        node = self.node(node_type, sources, shape)
        for name, role, tensor_shape in tensors:
            self.tensors.append(Tensor(name, node, role, tensor_shape))
        return node

    def append(self, instruction: Instruction, inputs: list[int]) -> int:
        """Adds the nodes of one instruction; returns the node that its output comes from."""
        primitive, tensors = instruction.primitive, instruction.tensors
        node_type, shape = primitive.node_type, primitive.node_shape
        if len(inputs) > 1:
            inputs = list(dict.fromkeys(inputs))
        if node_type is None or (len(inputs) == 1 and node_type in _JOINING):
            return inputs[0]
        if primitive.tensor_is_added:
            return self.node("sum", [*inputs, self.layer(node_type, [], shape, tensors)])
        if not primitive.separate_bias or len(tensors) == 1:
            return self.layer(node_type, inputs, shape, tensors)
        node = self.layer(node_type, inputs, shape, tensors[:1])
        bias = tensors[1]
        return self.layer("bias", [node], oihw(bias.role, bias.shape), tensors[1:])
