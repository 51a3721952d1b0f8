"""All operations that training networks may consist of, found without drawing any.

What an instruction works on depends on few things: the stem, how far the network has been reduced, how many states a
cell concatenates, the factor on the channels, whether there is attention, and the head.  "Corner" networks take every
combination of these, each with every primitive at every place of a cell at once.  New primitives, and other ranges in
`sampler.SPLITS`, need no change here.

The tables are somewhat larger than what a run meets: of a limit on multiply-adds only those count that an edge of a
cell costs by itself, and of the limit on parameters only those of the head.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

from ghn_jax.architecture import CELL_PRIMITIVES, Architecture, Edge, Genotype, Task
from ghn_jax.deepnets.sampler import LARGE_FORM, SMALL_FORM, SPLITS, WIDTHS, head_widths, width_candidates
from ghn_jax.machine.table import Signature, Table, signature_of, signatures_of, table_of
from ghn_jax.program import count_params, lower

RULES = SPLITS["train"]

_ROW = 3
"""A cell's shapes depend on the two cells before it: longer rows of normal cells bring nothing new."""

_EDGE = re.compile(r"(cells\.\d+\._ops\.\d+)\.")


def operations(task: Task, fixed_width: int | None = None, max_multiply_adds: int | None = None) -> dict[int, Table]:
    """The operations of train networks, by the width of networks.

    Args:
      task: what they are applied to.
      fixed_width: channels of all networks; None for those that are drawn.
      max_multiply_adds: networks that cost more per image do not count; None for no limit.
    """
    limit = math.inf if max_multiply_adds is None else max_multiply_adds
    tables = {}
    for width in WIDTHS if fixed_width is None else (fixed_width,):
        signatures: set[Signature] = set()
        for frame in _frames(width, fixed_width is not None):
            signatures |= _inner(frame, task, limit)
        for frame in _frames(width, fixed_width is not None, last=RULES.min_cells):
            signatures |= _outer(frame, task)
        if signatures:
            tables[width] = table_of(signatures)
    return tables


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What the shapes within a network's cells depend on.

    Batch normalisation is there always: networks without have the same operations but this.

    Attributes:
      width, cells, multiplier, stem_type, stem_pool, preproc: fields of the architecture.
      states: how many a cell concatenates.
      attention: whether there is msa.
      any_width: whether all networks have this width, or those alone for which it is drawn.
    """

    width: int
    cells: int
    multiplier: int
    stem_type: int
    stem_pool: bool
    states: int
    attention: bool
    any_width: bool
    preproc: bool = True

    def network(self, names: tuple[str, ...] = (), **fields) -> Architecture:
        """The network whose cells have these primitives, at both inputs and at an inner state.

        Its cells pool both inputs and add the result of every primitive to that.
        """
        edges: list[Edge] = [("none", 0), ("none", 1)] * (self.states - 1)
        if self.attention:  # nothing depends on it
            edges += [("msa", 0), ("none", 1)]
        inner = 2 + len(edges) // 2
        edges += [("max_pool_3x3", 0), ("max_pool_3x3", 1)]
        for last, (name, state) in enumerate(itertools.product(names, (0, 1, inner)), start=inner):
            edges += [(name, state), ("skip_connect", last)]
        concat = (*range(2, 1 + self.states), 1 + len(edges) // 2)
        genotype = Genotype(tuple(edges), concat, tuple(edges), concat)
        return Architecture(
            genotype, self.cells, self.width, stem_type=self.stem_type, stem_pool=self.stem_pool, preproc=self.preproc,
            C_mult=self.multiplier, **fields,
        )  # fmt: skip

    def allows(self, architecture: Architecture) -> bool:
        """Whether such networks have this width."""
        return self.any_width or self.width in width_candidates(architecture, num_params=0)

    def primitives(self) -> tuple[str, ...]:
        """All that a network may have."""
        names = [name for name in CELL_PRIMITIVES if name != "none" and (self.attention or name != "msa")]
        return tuple(name for name in names if self.allows(self.network((name,))))


def _frames(width: int, any_width: bool, last: int = 3 * _ROW) -> Iterator[_Frame]:
    """All combinations, for networks of at most `last` cells."""
    cells = range(RULES.min_cells, min(RULES.max_cells, last) + 1)
    for number, multiplier, states in itertools.product(cells, (1, 2), range(1, RULES.max_steps + 1)):
        for stem_type, stem_pool in ((0, False), (0, True), (1, False)):
            yield _Frame(width, number, multiplier, stem_type, stem_pool, states, False, any_width)
        yield _Frame(width, number, multiplier, 0, False, states, True, any_width)
        if multiplier == states == 1:
            yield _Frame(width, number, multiplier, 0, False, states, True, any_width, preproc=False)


def _inner(frame: _Frame, task: Task, limit: float) -> set[Signature]:
    """Operations within cells, with the primitives on all their edges."""
    if not frame.allows(frame.network()):
        return set()
    program = lower(frame.network(frame.primitives()), task)
    edges, costs = [], collections.Counter()
    for instruction in program.instructions:
        match = _EDGE.match(instruction.tensors[0].name) if instruction.tensors else None
        edges.append(match and match[1])  # None without parameters: then it may belong to any edge, or none
        costs[edges[-1]] += instruction.primitive.multiply_adds(instruction.shape)
    return {
        signature_of(program, instruction)
        for edge, instruction in zip(edges, program.instructions, strict=True)
        if edge is None or costs[edge] <= limit
    }


def _outer(frame: _Frame, task: Task) -> set[Signature]:
    """Operations of stems and heads, in networks with nothing but poolings in their cells."""
    found = set()
    for fields in _stems_and_heads(frame):
        found |= signatures_of(lower(frame.network(**fields), task))
    return found


def _stems_and_heads(frame: _Frame) -> Iterator[dict]:
    """Fields of the architecture that say what comes before and after the cells."""
    for kernel in (3, 5, 7):
        yield {"ks": kernel}
    for pooled in (True, False) if not frame.attention else (True,):
        plain = dataclasses.replace(frame.network(), glob_avg=pooled)
        candidates = width_candidates(plain, num_params=0)
        if not frame.allows(plain):
            continue
        yield {"glob_avg": pooled}
        counted = dataclasses.replace(plain, C=32, norm=None, fc_layers=2)
        if all(count_params(counted, form) <= RULES.max_params for form in (SMALL_FORM, LARGE_FORM)):
            widths = candidates if frame.any_width else (frame.width,)
            for head in sorted({head for width in widths for head in head_widths(candidates, width)}):
                yield {"glob_avg": pooled, "fc_layers": 2, "fc_dim": head}
