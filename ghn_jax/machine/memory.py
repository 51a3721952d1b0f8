"""Where every activation and every gradient of an activation lies in the machine's memory."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple


class Lifetime(NamedTuple):
    """A block of `size` units that is needed from time `start` to time `end`, both included."""

    start: int
    end: int
    size: int


def allocate(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets at which no two blocks overlap that live at the same time, and the units needed in all.

    Blocks go into the smallest gap that is large enough (best fit), in the order in which they are born.
    """
    offsets = [0] * len(lifetimes)
    free: list[tuple[int, int]] = []  # (offset, size) of gaps below `top`, by offset
    top = peak = 0
    births = sorted(range(len(lifetimes)), key=lambda block: (lifetimes[block].start, -lifetimes[block].size))
    deaths = sorted(births, key=lambda block: lifetimes[block].end)
    dead = 0
    for block in births:
        start, _, size = lifetimes[block]
        while lifetimes[deaths[dead]].end < start:
            _release(free, offsets[deaths[dead]], lifetimes[deaths[dead]].size)
            dead += 1
        if free and sum(free[-1]) == top:
            top = free.pop()[0]
        gap = min((gap for gap in free if gap[1] >= size), key=lambda gap: gap[1], default=None)
        if gap is None:
            offsets[block] = top
            top += size
            peak = max(peak, top)
        else:
            offsets[block] = gap[0]
            free.remove(gap)
            if gap[1] > size:
                bisect.insort(free, (gap[0] + size, gap[1] - size))
    return offsets, peak


def _release(free: list[tuple[int, int]], offset: int, size: int) -> None:
    """Adds a gap, joined with the ones it touches."""
    at = bisect.bisect(free, (offset, size))
    if at < len(free) and free[at][0] == offset + size:
        size += free.pop(at)[1]
    if at > 0 and sum(free[at - 1]) == offset:
        offset, before = free.pop(at - 1)
        size += before
    bisect.insort(free, (offset, size))
