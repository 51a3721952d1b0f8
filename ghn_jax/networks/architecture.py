"""What a target network is, before any array exists.

An architecture is a frozen, hashable description.  `Architecture` is a network of DARTS-style cells
(every network of DeepNets-1M and the ViT are of this kind); `ResNet` is the classical bottleneck residual
network.  A `Task` says what the network is applied to.  `ghn_jax.networks.lowering.lower` turns an architecture and a
task into instructions.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, section 3 and
appendix A; field names follow the published meta files, so `from_json` reads their entries.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Flag, Is, Maybe, OneOf, Several, Whole
from ghn_jax.errors import GHNError

CELL_PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_1x1",
    "conv_7x1_1x7",
    "conv_3x3",
    "conv_5x5",
    "conv_7x7",
    "msa",
    "cse",
)
"""Operations that the edges of a cell may have."""

ATTENTION_HEADS = 8
"""Heads of every `msa` primitive; the channels of a network with `msa` must be a multiple of it."""

MOST_CELLS = 256
MOST_STEPS = 64
"""Of a cell."""

MOST_EDGES = 1 << 13
"""Of all cells of a network together: larger ones take minutes to lower and gigabytes for their graph."""

MOST_BLOCKS = 512
"""Of a residual network."""

_CHANNELS = Whole(1, 1 << 14)
_LARGEST = Whole(1, 1 << 16)
_CLASSES = Whole(1, 1 << 20)


class ArchitectureError(GHNError):
    """An architecture that describes no valid network.

    >>> ghn_jax.named('resnet51')
    Traceback (most recent call last):
        ...
    ghn_jax.networks.architecture.ArchitectureError: no architecture is called 'r...
    """


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is applied to: square RGB images and a number of classes.

    `large_images` chooses the stems for 224x224 images (stride 4 and 16x16 patches) over those for 32x32.

    >>> ghn_jax.Task(num_classes=100).image_size
    32
    """

    num_classes: int = 10
    image_size: int = 32
    large_images: bool = False

    def __post_init__(self):
        fields.check(self, ArchitectureError, num_classes=_CLASSES, image_size=_LARGEST, large_images=Flag())


CIFAR10 = Task(num_classes=10, image_size=32, large_images=False)
IMAGENET = Task(num_classes=1000, image_size=224, large_images=True)

Edge = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Genotype:
    """The wiring of a normal and a reduction cell.

    `normal` and `reduce` hold two `(primitive, input state)` edges per step.  States 0 and 1 are the cell's
    inputs (the outputs of the last but one and the last cell), state `2 + i` is the sum made by step `i`.
    The cell's output is the concatenation of the states listed in `*_concat`.

    >>> cell = ghn_jax.Genotype(
    ...     normal=(('sep_conv_3x3', 0), ('conv_1x1', 1)), normal_concat=(2,),
    ...     reduce=(('max_pool_3x3', 0), ('skip_connect', 1)), reduce_concat=(2,),
    ... )
    >>> cell.uses('msa')
    False
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]

    def __post_init__(self):
        for field in ("normal", "reduce"):
            edges = _checked_edges(field, getattr(self, field))
            object.__setattr__(self, field, edges)
            states = 2 + len(edges) // 2
            # `Several.high` is no number of states: one that is listed twice counts twice.
            concat = Several(Whole(0, states - 1), 1, 4 * MOST_STEPS)
            fields.check(self, ArchitectureError, None, **{f"{field}_concat": concat})
        if len(self.normal_concat) != len(self.reduce_concat):
            raise ArchitectureError(
                "Genotype.normal_concat and reduce_concat must have the same length, got "
                f"{self.normal_concat} and {self.reduce_concat}"
            )

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, of the normal cell and then of the reduction cell."""
        return self.normal + self.reduce

    def uses(self, *primitives: str) -> bool:
        """Whether any edge of either cell is one of `primitives`."""
        return any(name in primitives for name, _ in self.edges)


def _checked_edges(field: str, edges: Any) -> tuple[Edge, ...]:
    """The edges of a cell, as tuples.  Raises ArchitectureError, naming the first that cannot be."""
    if not isinstance(edges, (tuple, list)) or not 2 <= len(edges) <= 2 * MOST_STEPS or len(edges) % 2:
        count = len(edges) if isinstance(edges, (tuple, list)) else fields.shown(edges)
        raise ArchitectureError(f"Genotype.{field} needs two edges per step and 1 to {MOST_STEPS} steps, got {count}")
    checked = []
    for position, edge in enumerate(edges):
        if not isinstance(edge, (tuple, list)) or len(edge) != 2:
            place = f"Genotype.{field}[{position}]"
            raise ArchitectureError(f"{place}={fields.shown(edge)}: expected a primitive and the state that it reads")
        name, index = edge
        if not isinstance(name, str) or name not in CELL_PRIMITIVES:
            raise ArchitectureError(
                f"Genotype.{field}[{position}]: unknown primitive {fields.shown(name)}; "
                f"known are {', '.join(CELL_PRIMITIVES)}"
            )
        step = position // 2
        if type(index) is not int or not 0 <= index < 2 + step:
            place = f"Genotype.{field}[{position}]"
            index = fields.taken(index, _ANY_STATE, ArchitectureError, f"{place}, state")
            if not 0 <= index < 2 + step:
                raise ArchitectureError(
                    f"{place}: step {step} reads state {index}, but only states 0..{1 + step} exist before it"
                )
        checked.append((name, index))
    return tuple(checked)


_ANY_STATE = Whole(-(1 << 63), 1 << 63)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network of cells.

    Attributes:
      genotype: wiring of the two kinds of cell.
      n_cells: number of cells; cells `n_cells // 3` and `2 * n_cells // 3` reduce.
      C: channels of the first cells.
      ks: kernel size of the stem's first convolution (unless the stem makes patches).
      stem_type: 0 is one convolution, 1 three of them with strides.
      stem_pool: max-pool after a type-0 stem.
      norm: "bn" or None.
      preproc: 1x1 convolutions at the inputs of every cell.
      C_mult: factor on the channels at each reduction.
      fc_layers: fully connected layers of the head.
      fc_dim: their width.
      glob_avg: global average pooling before the head, else the features are flattened.

    Raises:
      ArchitectureError: naming the field, its value and what was expected.

    >>> edges = (('conv_3x3', 0), ('skip_connect', 1))
    >>> cell = ghn_jax.Genotype(edges, (2,), edges, (2,))
    >>> network = ghn_jax.Architecture(cell, n_cells=4, C=16)
    >>> ghn_jax.build_graph(network).num_nodes
    46
    """

    genotype: Genotype
    n_cells: int
    C: int = 32
    ks: int = 3
    stem_type: int = 0
    stem_pool: bool = False
    norm: str | None = "bn"
    preproc: bool = True
    C_mult: int = 2
    fc_layers: int = 1
    fc_dim: int = 256
    glob_avg: bool = True

    def __post_init__(self):
        fields.check(self, ArchitectureError, **_ARCHITECTURE)

        def require(holds: bool, field: str, expected: str) -> None:
            if not holds:
                raise ArchitectureError(f"Architecture.{field}={getattr(self, field)!r}: expected {expected}")

        edges = self.n_cells * max(len(self.genotype.normal), len(self.genotype.reduce))
        require(edges <= MOST_EDGES, "n_cells", f"at most {MOST_EDGES:,} edges in all cells together, here {edges:,}")
        if self.has_attention:
            require(self.C % ATTENTION_HEADS == 0, "C", f"a multiple of {ATTENTION_HEADS}, the heads of msa")
        if self.stem_type == 1 or self.genotype.uses("skip_connect"):
            require(self.C % 2 == 0, "C", "an even number, halved by this stem or by strided skip connections")
        if len(self.genotype.normal_concat) > 1 or self.C_mult > 1:
            require(self.preproc, "preproc", "True when cells concatenate several states or C_mult > 1")
        if self.stem_pool:
            require(self.stem_type == 0, "stem_pool", "False with stem_type 1")

    @property
    def has_attention(self) -> bool:
        """Whether the network uses `msa`; then it has a patch stem, a positional encoding and no strides."""
        return self.genotype.uses("msa")

    def reduces(self, cell: int) -> bool:
        """Whether cell number `cell` is a reduction cell."""
        return cell > 0 and cell in (self.n_cells // 3, 2 * self.n_cells // 3)


_ARCHITECTURE = {
    "genotype": Is(Genotype),
    "n_cells": Whole(1, MOST_CELLS),
    "C": _CHANNELS,
    "ks": OneOf(1, 3, 5, 7, 9, 11),
    "stem_type": OneOf(0, 1),
    "stem_pool": Flag(),
    "norm": Maybe(OneOf("bn")),
    "preproc": Flag(),
    "C_mult": Whole(1, 64),
    "fc_layers": Whole(1, 64),
    "fc_dim": _LARGEST,
    "glob_avg": Flag(),
}
"""What the fields of an `Architecture` may be, each by itself."""


@dataclasses.dataclass(frozen=True)
class ResNet:
    """A bottleneck residual network (He et al., CVPR 2016), named as in torchvision.

    With small images the first convolution is 3x3 with stride 1 and there is no max-pool.

    >>> ghn_jax.build_graph(ghn_jax.ResNet(depths=(1, 1, 1, 1), width=16)).num_nodes
    42
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    def __post_init__(self):
        depths = Several(Whole(1, MOST_BLOCKS), 1, 16)
        fields.check(self, ArchitectureError, depths=depths, width=_CHANNELS)
        if sum(self.depths) > MOST_BLOCKS:
            raise ArchitectureError(f"ResNet.depths={self.depths}: expected at most {MOST_BLOCKS} blocks together")


AnyArchitecture = Architecture | ResNet


def to_json(architecture: AnyArchitecture) -> dict[str, Any]:
    """A dictionary of plain JSON values from which `from_json` makes an equal architecture."""
    if isinstance(architecture, ResNet):
        return {"kind": "resnet", "depths": list(architecture.depths), "width": architecture.width}
    return {"kind": "cells", **json.loads(json.dumps({**vars(architecture), "genotype": vars(architecture.genotype)}))}


# Entries of the published meta files describe the stored graph too.
_META_FIELDS = frozenset({"num_nodes", "num_params"})


def from_json(stored: Mapping[str, Any]) -> AnyArchitecture:
    """The architecture described by `to_json` or by an entry of a published DeepNets-1M meta file.

    Raises:
      ArchitectureError: an unknown or missing field, or a value that makes no network.
    """
    if not isinstance(stored, Mapping):
        raise ArchitectureError(f"expected the fields of an architecture by name, got {fields.shown(stored)}")
    values = dict(stored)
    kind = values.pop("kind", "cells")
    if not isinstance(kind, str) or kind not in ("cells", "resnet"):
        raise ArchitectureError(f"unknown kind of architecture {fields.shown(kind)}: expected 'cells' or 'resnet'")
    if kind == "resnet":
        return fields.construct(ResNet, values, ArchitectureError)
    for name in _META_FIELDS:
        values.pop(name, None)
    if isinstance(values.get("genotype"), Mapping):
        values["genotype"] = fields.construct(Genotype, values["genotype"], ArchitectureError)
    if isinstance(values.get("norm"), str) and values["norm"] in _BATCH_NORMS:
        values["norm"] = "bn"
    return fields.construct(Architecture, values, ArchitectureError)


_BATCH_NORMS = ("bn", "bnorm", "bn-track")
"""How different versions write batch norm."""


DARTS = Genotype(
    normal=(
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
    ),
    reduce_concat=(2, 3, 4, 5),
)  # fmt: skip
"""Liu et al., DARTS, ICLR 2019 (second order)."""

PDARTS = Genotype(
    normal=(
        ("skip_connect", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 0), ("dil_conv_5x5", 4),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        ("avg_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2),
        ("max_pool_3x3", 0), ("dil_conv_3x3", 1), ("dil_conv_3x3", 1), ("dil_conv_5x5", 3),
    ),
    reduce_concat=(2, 3, 4, 5),
)  # fmt: skip
"""Chen et al., Progressive DARTS, ICCV 2019."""

VIT = Genotype(
    normal=(("none", 0), ("msa", 1)),
    normal_concat=(2,),
    reduce=(("none", 0), ("avg_pool_3x3", 1)),
    reduce_concat=(2,),
)
"""A plain chain of transformer layers, with two average pools in the place of reductions."""

NAMED_ARCHITECTURES: dict[str, AnyArchitecture] = {
    "darts": Architecture(DARTS, n_cells=20, C=36, stem_type=0),
    "pdarts": Architecture(PDARTS, n_cells=20, C=36, stem_type=0),
    "vit": Architecture(VIT, n_cells=12, C=128, preproc=False, C_mult=1),
    "resnet50": ResNet(),
}
"""Architectures that can be asked for by name."""


def named(name: str) -> AnyArchitecture:
    """The architecture called `name`.

    Raises:
      ArchitectureError: no such name.

    >>> ghn_jax.named('resnet50')
    ResNet(depths=(3, 4, 6, 3), width=64)
    """
    try:
        return NAMED_ARCHITECTURES[name]
    except (KeyError, TypeError):  # the latter for what is no name at all
        raise ArchitectureError(
            f"no architecture is called {name!r}; known are {', '.join(NAMED_ARCHITECTURES)}"
        ) from None
