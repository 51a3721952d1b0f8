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
        if self.num_classes < 1 or self.image_size < 1:
            raise ArchitectureError(f"Task needs positive num_classes and image_size, got {self}")


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
            edges = tuple((str(name), int(index)) for name, index in getattr(self, field))
            object.__setattr__(self, field, edges)
            _check_edges(field, edges)
        for field, edges in (("normal_concat", self.normal), ("reduce_concat", self.reduce)):
            concat = tuple(int(index) for index in getattr(self, field))
            object.__setattr__(self, field, concat)
            states = 2 + len(edges) // 2
            if not concat or any(not 0 <= index < states for index in concat):
                raise ArchitectureError(f"Genotype.{field} must list states in 0..{states - 1}, got {concat}")
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


def _check_edges(field: str, edges: tuple[Edge, ...]) -> None:
    if not edges or len(edges) % 2:
        raise ArchitectureError(f"Genotype.{field} needs two edges per step, got {len(edges)}")
    for position, (name, index) in enumerate(edges):
        if name not in CELL_PRIMITIVES:
            raise ArchitectureError(
                f"Genotype.{field}[{position}]: unknown primitive {name!r}; known are {', '.join(CELL_PRIMITIVES)}"
            )
        step = position // 2
        if not 0 <= index < 2 + step:
            raise ArchitectureError(
                f"Genotype.{field}[{position}]: step {step} reads state {index}, "
                f"but only states 0..{1 + step} exist before it"
            )


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
        def require(holds: bool, field: str, expected: str) -> None:
            if not holds:
                raise ArchitectureError(f"Architecture.{field}={getattr(self, field)!r}: expected {expected}")

        require(isinstance(self.genotype, Genotype), "genotype", "a Genotype")
        require(self.n_cells >= 1, "n_cells", "at least 1")
        require(self.C >= 1, "C", "at least 1")
        require(self.ks in (1, 3, 5, 7, 9, 11), "ks", "an odd kernel size from 1 to 11")
        require(self.stem_type in (0, 1), "stem_type", "0 (simple) or 1 (three convolutions)")
        require(self.norm in ("bn", None), "norm", "'bn' or None")
        require(self.C_mult >= 1, "C_mult", "at least 1")
        require(self.fc_layers >= 1, "fc_layers", "at least 1")
        require(self.fc_dim >= 1, "fc_dim", "at least 1")
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
        object.__setattr__(self, "depths", tuple(int(depth) for depth in self.depths))
        if not self.depths or min(self.depths) < 1:
            raise ArchitectureError(f"ResNet.depths={self.depths}: expected positive numbers of blocks")
        if self.width < 1:
            raise ArchitectureError(f"ResNet.width={self.width}: expected at least 1")


AnyArchitecture = Architecture | ResNet


def to_json(architecture: AnyArchitecture) -> dict[str, Any]:
    """A dictionary of plain JSON values from which `from_json` makes an equal architecture."""
    if isinstance(architecture, ResNet):
        return {"kind": "resnet", "depths": list(architecture.depths), "width": architecture.width}
    fields = dataclasses.asdict(architecture)
    return {"kind": "cells", **json.loads(json.dumps(fields))}


# Entries of the published meta files describe the stored graph too.
_META_FIELDS = frozenset({"num_nodes", "num_params"})


def from_json(fields: Mapping[str, Any]) -> AnyArchitecture:
    """The architecture described by `to_json` or by an entry of a published DeepNets-1M meta file.

    Raises:
      ArchitectureError: an unknown or missing field, or a value that makes no network.
    """
    fields = dict(fields)
    kind = fields.pop("kind", "cells")
    if kind not in ("cells", "resnet"):
        raise ArchitectureError(f"unknown kind of architecture {kind!r}: expected 'cells' or 'resnet'")
    if kind == "resnet":
        return _construct(ResNet, fields)
    for name in _META_FIELDS:
        fields.pop(name, None)
    genotype = fields.get("genotype")
    if isinstance(genotype, Mapping):
        fields["genotype"] = _construct(Genotype, genotype)
    if str(fields.get("norm")).startswith("bn"):
        fields["norm"] = "bn"  # written as 'bn', 'bnorm' or 'bn-track' by different versions
    return _construct(Architecture, fields)


def _construct(cls, fields: Mapping[str, Any]):
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ArchitectureError(
            f"{cls.__name__} has no field {', '.join(map(repr, unknown))}; known are {', '.join(sorted(known))}"
        )
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        if isinstance(error, ArchitectureError):
            raise
        raise ArchitectureError(f"{cls.__name__} cannot be made from {dict(fields)}: {error}") from error


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
    except KeyError:
        raise ArchitectureError(
            f"no architecture is called {name!r}; known are {', '.join(NAMED_ARCHITECTURES)}"
        ) from None
