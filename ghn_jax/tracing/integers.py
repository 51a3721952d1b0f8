"""Integers and truth values that are known while a program is read: what operations make of them."""

from __future__ import annotations

from collections.abc import Callable


def _select(which: int, *cases: int) -> int:
    return cases[which]


def _quotient(x: int, y: int) -> int:
    """Rounded towards zero."""
    size = abs(x) // abs(y) if y else 0
    return size if (x < 0) == (y < 0) else -size


RULES: dict[str, Callable[..., int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": _quotient,
    "rem": lambda x, y: x - y * _quotient(x, y),
    "sign": lambda x: (x > 0) - (x < 0),
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "clamp": lambda least, x, most: min(max(x, least), most),
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "max": max,
    "min": min,
    "select_n": _select,
    "convert_element_type": lambda x: x,
    "squeeze": lambda x: x,
    "reshape": lambda x: x,
    "broadcast_in_dim": lambda x: x,
}
"""How integers that are known make others."""
