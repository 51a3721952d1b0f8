"""Drawing the architectures of DeepNets-1M, each a pure function of its split and index.

Source: Knyazev et al. 2021, section 3 and appendix A; the rules are those of the published generator, its random
numbers are not.  Published files are therefore different draws from the same distribution.

Splits share no structure (see `ownership`), but "wide" has the networks of "test" with more channels.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterator, Sequence

import numpy as np

from ghn_jax.deepnets.ownership import owner
from ghn_jax.errors import GHNError
from ghn_jax.networks.architecture import (
    AnyArchitecture,
    Architecture,
    ArchitectureError,
    Edge,
    Genotype,
    Task,
    named,
)
from ghn_jax.networks.lowering import count_params, lower
from ghn_jax.networks.program import Program

GENERATOR_VERSION = 2
"""Part of every seed; goes up when a change here changes any architecture."""

MAX_NODES_BATCH = 2200
"""Meta-batches with more nodes than this in all are skipped in training."""

DRAWN_PRIMITIVES = (
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
"""Operations that DeepNets-1M draws; an architecture may have others (`networks.architecture.CELL_PRIMITIVES`)."""

POOL_PRIMITIVES = DRAWN_PRIMITIVES[:4]
"""What a reduction cell without learnable operations chooses from: 'none', two poolings and 'skip_connect'."""

WIDTHS = tuple(range(32, 129, 16))
"""Candidates for `Architecture.C` in training."""

FC_WIDTHS = tuple(range(64, 513, 64))
"""Candidates for `Architecture.fc_dim` in training."""


SHOWN_WIDTHS = tuple(range(32, 257, 32))
"""Channels that the nodes of a training network may show in the place of its own (`shown_width`)."""


@dataclasses.dataclass(frozen=True)
class WidthRules:
    """How wide training networks are drawn, by their parameters at 32 channels and their cells.

    Attributes:
      most_params, most_cells: networks with more have the first of `WIDTHS`.
      medium: those with more than 400,000 parameters or 10 cells have one of the first so many.
      small: and those with more than 200,000 or 8 cells; all others have any.
      as_small_form: parameters are those of the form for small images, whatever networks are used for.
    """

    most_params: int
    most_cells: int
    medium: int
    small: int
    as_small_form: bool


PAPER_WIDTHS = WidthRules(800_000, 12, 2, 3, as_small_form=False)
"""Those of DeepNets-1M."""

WIDER = WidthRules(2_000_000, 14, 4, 5, as_small_form=True)
"""Those of GHN-3 (Knyazev et al. 2023), which predicts better for large networks."""

# Networks are counted with ten classes in both forms, whatever they are used for.
SMALL_FORM = Task(num_classes=10, image_size=32, large_images=False)
LARGE_FORM = Task(num_classes=10, image_size=224, large_images=True)

# Take the place of `SplitRules.stream` in the seeds of training runs.
_ORDER_STREAM = 100
_WIDTH_STREAM = 101
_SHOWN_STREAM = 102


@dataclasses.dataclass(frozen=True)
class SplitRules:
    """The numbers by which the architectures of a split are drawn.

    Attributes:
      stream: part of the seed; splits that share it share their draws.
      owner: name of the split in `ownership.SHARES`.
      size: number of architectures.
      min_cells, max_cells: range of the number of cells, both ends included.
      deep_thresholds: a network with more cells than a threshold drawn from these is deep.
      min_steps, max_steps, max_steps_deep: range of the steps of a cell, with an upper end for deep networks.
      max_params: largest number of parameters, at 32 channels and 10 classes, in either form.
      norm: normalisation of all but shallow networks.
      shallow_norms: choices for shallow ones, of at most `min_cells + 1` cells with at most `max_steps_deep` steps.
      cnn_preproc_tenths: chance of optional 1x1 convolutions at cell inputs without msa, out of ten.
      C, large_C: channels of the networks for small and for large images.
    """

    stream: int
    owner: str
    size: int
    min_cells: int = 4
    max_cells: int = 18
    deep_thresholds: tuple[int, ...] = (7, 8, 9, 10)
    min_steps: int = 1
    max_steps: int = 4
    max_steps_deep: int = 2
    max_params: int = 10**7
    norm: str | None = "bn"
    shallow_norms: tuple[str | None, ...] = ("bn", None)
    cnn_preproc_tenths: int = 10
    C: int = 32
    large_C: int = 32


SPLITS = {
    "train": SplitRules(stream=0, owner="train", size=1_000_000),
    "val": SplitRules(stream=1, owner="val", size=500),
    "test": SplitRules(stream=2, owner="test", size=500),
    "wide": SplitRules(stream=2, owner="test", size=100, C=128, large_C=64),
    "deep": SplitRules(
        stream=3, owner="deep", size=100, min_cells=10, max_cells=36, deep_thresholds=(18,), max_params=10**8
    ),
    "dense": SplitRules(
        stream=4, owner="dense", size=100, min_steps=2, max_steps=10, max_steps_deep=6, max_params=10**8
    ),
    "bnfree": SplitRules(stream=5, owner="bnfree", size=100, norm=None, shallow_norms=(None,)),
    "search": SplitRules(
        stream=6, owner="search", size=100_000, min_cells=6, max_cells=20, deep_thresholds=(10,), max_steps=6,
        max_steps_deep=3, shallow_norms=("bn",), cnn_preproc_tenths=8,
    ),
}  # fmt: skip
"""The splits of DeepNets-1M that are drawn at random."""

PREDEFINED = ("resnet50", "vit")
"""Names of the architectures of the split "predefined", in the order of the original."""

ALL_SPLITS = (*SPLITS, "predefined")


def split_size(split: str) -> int:
    """Number of architectures in one of `ALL_SPLITS`.

    Raises:
      SplitError: an unknown split.
    """
    return len(PREDEFINED) if split == "predefined" else _rules(split).size


class SplitError(GHNError):
    """An unknown split, or an index outside of one."""


class _Draws:
    """Uniform draws, the same on every machine and with every NumPy.

    NumPy keeps the raw words of a bit generator stable, but not what `Generator` makes of them (NEP 19), so the
    words become choices here, by integer arithmetic.
    """

    def __init__(self, *key: int):
        self._words = _words(np.random.PCG64(np.random.SeedSequence(key)))

    def below(self, count: int) -> int:
        """An integer from 0 to `count - 1`."""
        return ((next(self._words) >> 32) * count) >> 32

    def between(self, first: int, last: int) -> int:
        """An integer from `first` to `last`, both included."""
        return first + self.below(last - first + 1)

    def choice(self, options: Sequence):
        """One of `options`."""
        return options[self.below(len(options))]

    def chance(self, numerator: int, denominator: int) -> bool:
        """True in `numerator` of `denominator` cases."""
        return self.below(denominator) < numerator


def _words(generator: np.random.PCG64) -> Iterator[int]:
    """The raw words of a bit generator, taken by the dozen: one at a time takes longer."""
    while True:
        yield from generator.random_raw(48).tolist()


def sample_architecture(split: str, index: int, large_images: bool = False) -> AnyArchitecture:
    """Architecture number `index` of `split`, the same on every machine; drawn at random unless it is "predefined".

    `large_images` matters to the split "wide" only: four times the channels for small images, twice for large ones.

    Raises:
      SplitError: an unknown split, or an index outside of it.
    """
    if split == "predefined":
        _check_index(split, index)
        return named(PREDEFINED[index])
    rules = _rules(split)
    architecture, _ = sample_program(split, index)
    return dataclasses.replace(architecture, C=rules.large_C if large_images else rules.C)


def sample_program(split: str, index: int) -> tuple[Architecture, Program]:
    """Architecture number `index` of `split` with 32 channels, and its program for CIFAR-10.

    Raises:
      SplitError: an unknown split, or an index outside of it.
    """
    rules = _rules(split)
    _check_index(split, index)
    draws = _Draws(GENERATOR_VERSION, rules.stream, index)
    while True:
        architecture = _draw_architecture(draws, rules)
        if architecture is None:
            continue
        try:
            program = lower(architecture, SMALL_FORM)
        except ArchitectureError:  # 'none' edges cut the logits off from the images
            continue
        if owner(program) == rules.owner and _fits(architecture, program, rules.max_params):
            return architecture, program


def train_index(seed: int, position: int) -> int:
    """Index of the train architecture at `position` of a training run, uniform over the split.

    Unlike the original, which permutes the split in every epoch, positions are independent of each other.
    """
    return _Draws(GENERATOR_VERSION, _ORDER_STREAM, seed, position).below(SPLITS["train"].size)


def train_architecture(
    seed: int, position: int, large_images: bool = False, rules: WidthRules = PAPER_WIDTHS
) -> Architecture:
    """The architecture at `position` of a training run, with the widths drawn for it.

    A pure function of its arguments: any part of a run can be made again, in any order and on any machine.
    """
    architecture, program = sample_program("train", train_index(seed, position))
    large = large_images and not rules.as_small_form
    num_params = count_params(architecture, LARGE_FORM) if large else program.num_params_with_unused
    return draw_widths(architecture, num_params, seed, position, rules)


def width_candidates(architecture: Architecture, num_params: int, rules: WidthRules = PAPER_WIDTHS) -> tuple[int, ...]:
    """Candidates for `C` of a network that has `num_params` parameters at 32 channels."""
    cells = architecture.n_cells
    large_kernels = architecture.genotype.uses("conv_5x5", "conv_7x7")
    if num_params > rules.most_params or not architecture.glob_avg or large_kernels or cells > rules.most_cells:
        return WIDTHS[:1]
    if num_params > 400_000 or cells > 10:
        return WIDTHS[: rules.medium]
    if num_params > 200_000 or cells > 8:
        return WIDTHS[: rules.small]
    return WIDTHS


def head_widths(candidates: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Candidates for `fc_dim` of a network whose `C` is `width`, one of `candidates`."""
    return FC_WIDTHS if candidates == WIDTHS and width <= 64 else FC_WIDTHS[:4]


def draw_widths(
    architecture: Architecture, num_params: int, seed: int, position: int, rules: WidthRules = PAPER_WIDTHS
) -> Architecture:
    """`architecture`, which has `num_params` parameters at 32 channels, with the widths drawn for a position.

    Source: appendix A; the candidates are those of the published loader, which allows a wide head (`fc_dim` above 256)
    only to small networks of up to 64 channels.
    """
    draws = _Draws(GENERATOR_VERSION, _WIDTH_STREAM, seed, position)
    candidates = width_candidates(architecture, num_params, rules)
    width = draws.choice(candidates)
    return dataclasses.replace(architecture, C=width, fc_dim=draws.choice(head_widths(candidates, width)))


def shown_width(seed: int, position: int, share: float) -> int | None:
    """The channels that the network at a position of a training run shows: with chance `share` one of `SHOWN_WIDTHS`.

    None is for its own.
    """
    draws = _Draws(GENERATOR_VERSION, _SHOWN_STREAM, seed, position)
    return draws.choice(SHOWN_WIDTHS) if draws.chance(round(share * 1000), 1000) else None


def _rules(split: str) -> SplitRules:
    if not isinstance(split, str) or split not in SPLITS:
        raise SplitError(f"no split is called {split!r}; known are {', '.join(ALL_SPLITS)}")
    return SPLITS[split]


def _check_index(split: str, index: int) -> None:
    whole = isinstance(index, numbers.Integral) and not isinstance(index, bool)
    if not whole or not 0 <= index < split_size(split):
        raise SplitError(f"index {index}: split {split!r} has architectures 0 to {split_size(split) - 1}")


def _draw_architecture(draws: _Draws, rules: SplitRules) -> Architecture | None:
    """One draw, or None where its cells break a rule."""
    cells = draws.between(rules.min_cells, rules.max_cells)
    deep = cells > draws.choice(rules.deep_thresholds)
    steps = draws.between(rules.min_steps, rules.max_steps_deep if deep else rules.max_steps)
    genotype = _draw_genotype(draws, steps)
    if not _trainable(genotype):
        return None

    attention = genotype.uses("msa")
    multiplier = draws.choice((1, 2))
    preproc = steps > 1 or multiplier > 1 or draws.chance(2 if attention else rules.cnn_preproc_tenths, 10)
    glob_avg = attention or deep or draws.chance(9, 10)
    shallow = cells <= rules.min_cells + 1 and steps <= rules.max_steps_deep
    norm = draws.choice(rules.shallow_norms) if shallow else rules.norm
    stem_type = draws.choice((0, 1))
    return Architecture(
        genotype,
        n_cells=cells,
        ks=draws.choice((3, 5, 7)),
        stem_type=stem_type,
        stem_pool=stem_type == 0 and draws.chance(1, 2),
        norm=norm,
        preproc=preproc,
        C_mult=multiplier,
        fc_layers=draws.choice((1, 2)),
        glob_avg=glob_avg,
    )


def _draw_genotype(draws: _Draws, steps: int) -> Genotype:
    """Cells of `steps` steps, with 'none' edges where there are several steps.

    The paper draws independent normal scores for every primitive on every edge, and each step keeps the two edges
    with the best scores, best first, and the best primitive of each.  As the scores are exchangeable, the order of
    the edges is uniform, so is the primitive of each, and all are independent (a softmax over an edge's scores
    treats its primitives alike and changes nothing): drawn here directly.
    """
    allowed = DRAWN_PRIMITIVES if steps > 1 else DRAWN_PRIMITIVES[1:]
    only_pool = draws.chance(1, 2)
    allowed_in_reduction = tuple(name for name in allowed if name in POOL_PRIMITIVES) if only_pool else allowed
    drop_concat = steps > 1 and draws.chance(1, 2)
    normal = _draw_edges(draws, steps, allowed)
    reduce = _draw_edges(draws, steps, allowed_in_reduction)
    last = 1 + steps
    # Without the last state the others could reach nothing.
    concat = tuple(state for state in range(2, 2 + steps) if state == last or not drop_concat or draws.chance(1, 2))
    return Genotype(normal, concat, reduce, concat)


def _draw_edges(draws: _Draws, steps: int, allowed: tuple[str, ...]) -> tuple[Edge, ...]:
    """Two edges from different states to each step."""
    edges = []
    for step in range(steps):
        first = draws.below(2 + step)
        second = draws.below(1 + step)
        second += second >= first
        edges += [(draws.choice(allowed), first), (draws.choice(allowed), second)]
    return tuple(edges)


def _trainable(genotype: Genotype) -> bool:
    """Whether the cells have something to learn and are neither hard to train nor heavy on memory."""
    if not any("conv" in name for name, _ in genotype.edges):
        return genotype.uses("msa") and not genotype.uses("cse")
    for edges in (genotype.normal, genotype.reduce):
        names = [name for name, _ in edges]
        if names.count("cse") > 1 or names.count("conv_5x5") + names.count("conv_7x7") > 1:
            return False
    return True


def _fits(architecture: Architecture, program: Program, max_params: int) -> bool:
    """Whether both forms of a network, `program` being the one for CIFAR-10, have at most `max_params` parameters."""
    num_params = program.num_params_with_unused
    if num_params > max_params:
        return False
    # With global pooling the large form differs in the stem only: at most 26,112 more, with msa.
    if architecture.glob_avg and num_params <= max_params - 30_000:
        return True
    return count_params(architecture, LARGE_FORM) <= max_params
