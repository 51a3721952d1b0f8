"""The graph of a model while it is read: nodes, their parents, and the parameters they claim.

A parameter may be claimed several times: tied weights, or the layers of a loop, each its own part.  The first claim of
a part owns it; claims of other nodes give these nodes their shape only.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ghn_jax.graphs.graph import LONGEST_PATH, NODE_ID, Graph, GraphError, Role, Tensor, oihw, shortest_paths
from ghn_jax.graphs.tree import Correction, Leaf, ParameterTree, Place, whole
from ghn_jax.tracing.corrections import corrections, scaled
from ghn_jax.tracing.equations import Equations
from ghn_jax.tracing.initial_values import Magnitudes, beyond
from ghn_jax.tracing.layout import View

NO_SHAPE = (0, 0, 0, 0)


@dataclasses.dataclass(eq=False)
class Node:
    """A node.

    Attributes:
      type: one of `NODE_TYPES`.
      parents: numbers of the nodes it reads.
      shape: `(out, in, h, w)`.
      scope: where it is in the model.
      features: output features of a layer.
      weighted, shifted: whether a norm layer has its weight and its bias.
      bare: it only scales, nothing is normalised.
      first_alone: a norm layer over the first axis alone: whether that is the batch, its weight tells.
    """

    type: str
    parents: list[int]
    shape: tuple[int, int, int, int]
    scope: str
    features: int = 0
    weighted: bool = False
    shifted: bool = False
    bare: bool = False
    first_alone: bool = False


@dataclasses.dataclass(frozen=True)
class Claim:
    """A node's tensor: how it is predicted and where in the parameters it is."""

    node: int
    role: Role
    shape: tuple[int, ...]
    place: Place
    rows: tuple[frozenset[int] | None, ...]
    remark: str
    use: int | None


class About(NamedTuple):
    """What tracing knows of a model beside its operations.

    Attributes:
      rebuild, initial, inputs, states, notes: as in `ParameterTree`.
      magnitudes: of the initial values.
      reached: indices of the leaves that the outputs depend on.
    """

    rebuild: Callable[..., Any]
    initial: Callable[..., Any]
    magnitudes: Magnitudes
    reached: set[int]
    inputs: tuple[str, ...]
    states: Mapping[int, str]
    notes: tuple[str, ...]


class TracedNetwork:
    """Nodes are numbered in topological order."""

    def __init__(self, leaves: Sequence[Leaf]):
        self.leaves = leaves
        self.nodes: list[Node] = []
        self.claims: list[Claim] = []
        self.refused: dict[int, str] = {}
        self.deciding: set[int] = set()
        self.unsupported: dict[str, None] = {}
        self._constant: int | None = None
        self._pools: dict[tuple, int] = {}
        self._rows: dict[int, list[tuple[frozenset[int] | None, ...]]] = {}

    def add(self, node_type: str, parents: Iterable[int], scope: str, shape=NO_SHAPE, features: int = 0) -> int:
        """A new node; returns its number."""
        self.nodes.append(Node(node_type, list(dict.fromkeys(parents)), shape, scope, features))
        return len(self.nodes) - 1

    def join(self, node_type: str, sources: Iterable[int], scope: str) -> int:
        """A node for values from different nodes; none if they come from one."""
        distinct = list(dict.fromkeys(sources))
        return distinct[0] if len(distinct) == 1 else self.add(node_type, distinct, scope)

    def pool(self, node_type: str, parent: int, scope: str, shape=NO_SHAPE) -> int:
        """A pooling over the whole extent: one node, however often it is used."""
        key = (node_type, parent, shape)
        if key not in self._pools:
            self._pools[key] = self.add(node_type, [parent], scope, shape)
        return self._pools[key]

    def constant(self) -> int:
        """The node of values that do not depend on the inputs, such as coordinates that go through a layer."""
        if self._constant is None:
            self._constant = self.add("input", [], "constant")
        return self._constant

    def is_pooled(self, node: int) -> bool:
        """Whether a node is a mean over all positions."""
        return self.nodes[node].type == "glob_avg"

    def pooled_from(self, node: int | None) -> int | None:
        """What a node is the mean over all positions of; None if it is none."""
        return self.nodes[node].parents[0] if node is not None and self.is_pooled(node) else None

    def gate(self, gated: int, by: int, scope: str) -> int:
        """A node for a product of activations.

        If one is computed from the mean of the other over all positions, that is squeeze-and-excitation, and the mean
        is part of this node (as in the published graphs).
        """
        for source, gate in ((gated, by), (by, gated)):
            below = self._first_after_squeeze(gate, source)
            if below is not None:
                self.nodes[below].parents = [source]
                return self.add("cse", [source, gate], scope)
        return self.add("cse", [gated, by], scope)

    def _first_after_squeeze(self, node: int, source: int) -> int | None:
        while len(self.nodes[node].parents) == 1 and self.nodes[node].type in ("conv", "sep_conv", "bias", "bn", "ln"):
            (parent,) = self.nodes[node].parents
            if self.nodes[parent].type == "glob_avg" and self.nodes[parent].parents == [source]:
                return node
            node = parent
        return None

    def claim(
        self,
        node: int,
        role: Role,
        view: View,
        groups: Sequence[Sequence],
        shape: tuple[int, ...],
        remark: str = "",
        cut: int | None = None,
        use: int | None = None,
    ) -> None:
        """Lets `node` own (part of) a parameter as a tensor whose axes, split, are `groups`.

        If the part is not known, it is the whole parameter.  `use` is the number of the value that the node uses, if it
        is computed from the parameter.
        """
        place = view.place(groups, cut)
        if place is None:
            self.refuse(view.leaf, "its layout is lost on the way to the operation that uses it")
            return
        if self.nodes[node].shape == NO_SHAPE:
            self.nodes[node].shape = oihw(role, shape)
        self.claims.append(Claim(node, role, shape, place, view.rows(), remark, use))

    def row_of_kernel(self, first: int, second: int) -> Claim | None:
        """The claim of the second to its row of the kernel of a depthwise convolution that is written out.

        The nodes are copies of one activation, shifted, each scaled by its own row of that parameter; the first may be
        the sum of several.  None of others.
        """
        if self.nodes[first].parents != self.nodes[second].parents or not self.nodes[second].bare:
            return None
        own = [claim for claim in self.claims if claim.node == second]
        rows = self._rows.get(first) or [claim.rows for claim in self.claims if claim.node == first]
        if not (self.nodes[first].bare or first in self._rows) or len(own) != 1:
            return None
        leaves = self.leaves_of(first) | {own[0].place.leaf}
        if len(leaves) > 1 or not all(_disjoint(own[0].rows, other) for other in rows):
            return None
        self._rows[first] = [*rows, own[0].rows]
        return own[0]

    def unscaled(self, first: int, second: int) -> int | None:
        """The node that both are, only scaled; the scales are slopes of an activation function, and are left."""
        ways = [self._scales(first), self._scales(second)]
        source = next((node for node in ways[0] if node in ways[1]), None)
        if source is not None:
            self.leave_scales(node for way in ways for node in way[: way.index(source)])
        return source

    def _scales(self, node: int) -> list[int]:
        """A node, and those below it as far as they are only scaled."""
        way = [node]
        while self.nodes[way[-1]].bare:
            way.extend(self.nodes[way[-1]].parents)
        return way

    def leaves_of(self, node: int) -> set[int]:
        """The parameters that a node claims."""
        return {claim.place.leaf for claim in self.claims if claim.node == node}

    def leave_scales(self, nodes: Iterable[int]) -> None:
        """Lets the parameters of these nodes keep their initial values."""
        scales = set(nodes)
        for claim in self.claims:
            if claim.node in scales:
                self.refuse(claim.place.leaf, "it is a slope of an activation function, no norm layer")

    def refuse(self, leaf: int, reason: str) -> None:
        """Says why a parameter cannot be predicted (unless another operation can claim it)."""
        self.refused.setdefault(leaf, reason)

    def graph(self, outputs: Sequence[int], equations: Equations, about: About, limit: int | None = None) -> Graph:
        """The graph of all nodes that lead to `outputs`.

        Args:
          outputs: numbers of nodes, the main one first.
          equations: that it was read from.
          about: the model.
          limit: number of nodes that it may have.

        Raises:
          GraphError: no node leads to an output, or there are too many.
        """
        classes = self._class_layer(outputs)
        live = self._live(outputs)
        if limit is not None and len(live) > limit:
            raise GraphError(f"a graph of {len(live)} nodes is too large: expected at most {limit} nodes")
        number = {node: index for index, node in enumerate(live)}
        edges = [(number[parent], number[node]) for node in live for parent in self.nodes[node].parents]
        owned, ties = self._owned(number)
        unpredicted = self._unpredicted(owned, about, unfollowed=bool(equations.unfollowed))
        for index, reason in beyond(_roles(owned, unpredicted), about.magnitudes).items():
            unpredicted[index], owned[index] = reason, []
        remarks: dict[int, str] = {}
        found = self._corrections(owned, ties, equations, unpredicted, remarks)
        tensors = self._tensors(owned, number, classes, remarks)
        tree = ParameterTree(
            about.rebuild, tuple(self.leaves), about.initial, unpredicted, remarks, tuple(self.unsupported),
            about.inputs, about.states, about.notes, found,
        )  # fmt: skip
        return Graph(
            node_types=np.array([NODE_ID[self.nodes[node].type] for node in live], np.int32),
            node_shapes=np.array([self.nodes[node].shape for node in live], np.int32).reshape(-1, 4),
            distances=shortest_paths(edges, len(live), LONGEST_PATH),
            tensors=tensors,
            tree=tree,
        )

    def _live(self, outputs: Sequence[int]) -> list[int]:
        if not outputs:
            raise GraphError("the outputs depend on no input and no parameter")
        live = set()
        stack = list(outputs)
        while stack:
            node = stack.pop()
            if node not in live:
                live.add(node)
                stack.extend(self.nodes[node].parents)
        return sorted(live)

    def _class_layer(self, outputs: Sequence[int]) -> dict[int, Role]:
        """Nodes of the layer that ends in the first output: a linear layer (or 1x1 convolution) and its bias."""
        node = outputs[0] if outputs else None
        found = {}
        if node is not None and self.nodes[node].type == "bias" and len(self.nodes[node].parents) == 1:
            found[node] = Role.CLASS_BIAS
            (node,) = self.nodes[node].parents
        if node is None or self.nodes[node].type != "conv" or self.nodes[node].shape[2:] != (1, 1):
            return {}
        return found | {node: Role.CLASS_WEIGHT}

    def _owned(self, number: Mapping[int, int]) -> tuple[dict[int, list[Claim]], list[Claim]]:
        """The claims that own their parts, by leaf, and those of layers that parts of others are tied to."""
        owned: dict[int, list[Claim]] = {}
        ties = []
        for claim in self.claims:
            if claim.node not in number:
                self.deciding.add(claim.place.leaf)
                continue
            claims = owned.setdefault(claim.place.leaf, [])
            if all(_disjoint(claim.rows, other.rows) for other in claims):
                claims.append(claim)
            else:
                ties.append(claim)
        return owned, ties

    def _unpredicted(self, owned: Mapping[int, Sequence[Claim]], about: About, unfollowed: bool) -> dict[int, str]:
        """The leaves that are not, or not wholly, predicted."""
        unpredicted = {}
        for index, leaf in enumerate(self.leaves):
            claims = owned.get(index, ())
            covered = sum(_count(claim.rows, leaf) for claim in claims)
            if covered < leaf.size and index not in about.states:
                decides = "it only decides which way the computation takes"
                unused = decides if index in self.deciding else "no operation that tracing knows uses it"
                reason = self.refused.get(index, unused)
                if index not in about.reached:
                    beside = ", but for what is read from references in ways that are not followed"
                    reason = "the output does not depend on it" + (beside if unfollowed else "")
                elif claims:
                    reason = f"only {covered} of {leaf.size} elements are used"
                unpredicted[index] = reason
        return unpredicted

    def _corrections(
        self,
        owned: dict[int, list[Claim]],
        ties: Sequence[Claim],
        equations: Equations,
        unpredicted: dict[int, str],
        remarks: dict[int, str],
    ) -> tuple[Correction, ...]:
        """Of leaves that are used otherwise than as they are; those without any are taken out of `owned`."""
        found: list[Correction] = []
        for index, claims in sorted(owned.items()):
            for claim in claims:
                if claim.use is None:
                    continue
                made = corrections(equations, claim.use, index, claim.role, claim.shape)
                if isinstance(made, str):
                    unpredicted[index], owned[index] = made, []
                    break
                for item in made:
                    if item.leaf == index or item.leaf in unpredicted:
                        found.append(item)
                    if item.leaf != index and unpredicted.pop(item.leaf, None) is not None:
                        remarks[item.leaf] = f"it makes the {self.leaves[index].name!r} that is used the predicted one"
        tables = {claims[0].place.leaf for claims in owned.values() if claims and claims[0].role is Role.EMBEDDING}
        tied = {claim.place.leaf: claim.shape[0] for claim in ties if claim.role is Role.WEIGHT}
        return (*found, *(scaled(leaf, fan_in**-0.5) for leaf, fan_in in tied.items() if leaf in tables))

    def _tensors(
        self,
        owned: Mapping[int, Sequence[Claim]],
        number: Mapping[int, int],
        classes: Mapping[int, Role],
        remarks: dict[int, str],
    ) -> tuple[Tensor, ...]:
        """The tensors to be predicted, in the order of their operations; adds remarks on their leaves."""
        tensors = []
        tensors_of = Counter(claim.node for claims in owned.values() for claim in claims)
        position = {id(claim): order for order, claim in enumerate(self.claims)}
        kept = sorted((claim for claims in owned.values() for claim in claims), key=lambda claim: position[id(claim)])
        for claim in kept:
            leaf = self.leaves[claim.place.leaf]
            role = claim.role
            alone = tensors_of[claim.node] == len(owned[claim.place.leaf]) == 1
            if claim.node in classes and role in (Role.WEIGHT, Role.BIAS) and alone:
                role = classes[claim.node]
            shape = claim.shape[-2:] if role is Role.CLASS_WEIGHT else claim.shape
            if claim.remark:
                remarks.setdefault(claim.place.leaf, claim.remark)
            part = [rows for rows in claim.rows if rows is not None]
            name = leaf.name + (f"[{', '.join(_listed(rows) for rows in part)}]" if part else "")
            plain = claim.place == whole(claim.place.leaf, leaf) and shape == leaf.shape
            place = whole(claim.place.leaf, leaf) if plain else claim.place
            tensors.append(Tensor(name, number[claim.node], role, shape, place))
        return tuple(tensors)


def _roles(owned: Mapping[int, Sequence[Claim]], unpredicted: Mapping[int, str]) -> dict[int, Role]:
    """The role of every leaf that is predicted, and used, as it is."""
    roles = {}
    for index, claims in owned.items():
        if claims and index not in unpredicted and all(claim.use is None for claim in claims):
            roles[index] = claims[0].role
    return roles


def _disjoint(rows: tuple[frozenset[int] | None, ...], other: tuple[frozenset[int] | None, ...]) -> bool:
    return any(a is not None and b is not None and a.isdisjoint(b) for a, b in zip(rows, other, strict=True))


def _count(rows: tuple[frozenset[int] | None, ...], leaf: Leaf) -> int:
    return int(np.prod([size if part is None else len(part) for part, size in zip(rows, leaf.shape, strict=True)]))


def _listed(rows: frozenset[int]) -> str:
    return str(min(rows)) if len(rows) == 1 else f"{min(rows)}:{max(rows) + 1}"
