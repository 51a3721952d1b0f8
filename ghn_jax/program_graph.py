"""The computational graph of a program, with the nodes and edges of the published graphs."""

from __future__ import annotations

import numpy as np

from ghn_jax import primitives as ops
from ghn_jax.architecture import CIFAR10, AnyArchitecture, Task
from ghn_jax.graph import NODE_ID, Graph, Tensor, shortest_paths
from ghn_jax.program import INPUT, Instruction, Program, lower

MAX_DISTANCE = 250
"""Longest path stored, as in the published files."""

_NODE_TYPES = {
    ops.BatchNorm: "bn",
    ops.LayerNorm: "ln",
    ops.MaxPool: "max_pool",
    ops.AvgPool: "avg_pool",
    ops.Attention: "msa",
    ops.Excite: "cse",
    ops.Add: "sum",
    ops.Concat: "concat",
    ops.GlobalAvgPool: "glob_avg",
}


def build_graph(architecture: AnyArchitecture, task: Task = CIFAR10) -> Graph:
    """The graph of `architecture` applied to `task`.

    Raises:
      ArchitectureError: the architecture makes no network for this task.
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
        distances=shortest_paths(builder.edges, len(builder.types), MAX_DISTANCE),
        tensors=tuple(builder.tensors),
    )


class _GraphBuilder:
    def __init__(self):
        self.types: list[int] = []
        self.shapes: list[tuple[int, int, int, int]] = []
        self.edges: list[tuple[int, int]] = []
        self.tensors: list[Tensor] = []

    def node(self, node_type: str, sources: list[int], shape=(0, 0, 0, 0)) -> int:
        self.types.append(NODE_ID[node_type])
        self.shapes.append(shape)
        index = len(self.types) - 1
        self.edges.extend((start, index) for start in sources)
        return index

    def append(self, instruction: Instruction, inputs: list[int]) -> int:
        """Adds the nodes of one instruction; returns the node that its output comes from."""
        primitive = instruction.primitive
        tensors = [Tensor(t.name, -1, t.role, t.shape) for t in instruction.tensors]
        if isinstance(primitive, ops.Conv | ops.Linear):
            node = self.node(_weight_type(primitive), inputs, tensors[0].shape4)
            self.own(node, tensors[:1])
            for bias in tensors[1:]:
                node = self.node("bias", [node], bias.shape4)
                self.own(node, [bias])
            return node
        if isinstance(primitive, ops.PositionalEncoding):
            codes = self.node("pos_enc", [], tensors[0].shape4)
            self.own(codes, tensors)
            return self.node("sum", [*inputs, codes])
        if isinstance(primitive, ops.Add | ops.Concat):
            inputs = list(dict.fromkeys(inputs))
            if len(inputs) == 1:
                return inputs[0]
        node_type = _NODE_TYPES.get(type(primitive))
        if node_type is None:
            return inputs[0]
        if tensors:
            node = self.node(node_type, inputs, tensors[0].shape4)
            self.own(node, tensors)
            return node
        if isinstance(primitive, ops.MaxPool | ops.AvgPool):
            return self.node(node_type, inputs, (1, 1, primitive.kernel, primitive.kernel))
        return self.node(node_type, list(dict.fromkeys(inputs)))

    def own(self, node: int, tensors: list[Tensor]) -> None:
        self.tensors.extend(Tensor(t.name, node, t.role, t.shape) for t in tensors)


def _weight_type(primitive: ops.Conv | ops.Linear) -> str:
    if isinstance(primitive, ops.Conv) and primitive.depthwise:
        return "dil_conv" if primitive.dilation > 1 else "sep_conv"
    return "conv"
