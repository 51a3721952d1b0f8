"""Checks of the fields of dataclasses: type, range and finiteness, once, in the class that owns them.

@dataclasses.dataclass(frozen=True)
class Crop:
    padding: int
    share: float

    def __post_init__(self):
        fields.check(self, CropError, padding=Whole(0, 64), share=Real(0, 1))
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import operator
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 100
_SHOWN.maxlong = 40
_SHOWN.maxlist = _SHOWN.maxtuple = _SHOWN.maxdict = 8
_SHOWN.maxlevel = 4


def shown(value: Any) -> str:
    """A value for a message, however large it is; `repr` refuses integers of many digits."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    try:
        return _SHOWN.repr(value)
    except ValueError:  # such an integer, somewhere in it
        return f"a {type(value).__name__}"


class Rule(Protocol):
    """What a field may be."""

    @property
    def expected(self) -> str:
        """In words."""
        ...

    def take(self, value: Any) -> Any:
        """The value, as the field keeps it.

        Raises:
          ValueError, TypeError, OverflowError: it may not be that.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`, of Python or NumPy; True and False are none."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        return f"an integer from {self.low:,} to {self.high:,}"

    def take(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError
        number = operator.index(value)
        if not self.low <= number <= self.high:
            raise ValueError
        return number


@dataclasses.dataclass(frozen=True)
class Real:
    """A finite number from `low` to `high`; above `low`, below `high` if those do not belong to it."""

    low: float
    high: float
    with_low: bool = True
    with_high: bool = True

    @property
    def expected(self) -> str:
        low = "from" if self.with_low else "above"
        return f"a number {low} {self.low:g} {'to' if self.with_high else 'and below'} {self.high:g}"

    def take(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        number = value if isinstance(value, int) else float(value)
        above = number >= self.low if self.with_low else number > self.low
        below = number <= self.high if self.with_high else number < self.high
        if not (math.isfinite(number) and above and below):
            raise ValueError
        return number


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    expected = "True or False"

    def take(self, value: Any) -> bool:
        if type(value) is not bool and type(value).__name__ not in ("bool_", "bool"):  # NumPy's
            raise TypeError
        return bool(value)


@dataclasses.dataclass(frozen=True)
class Text:
    """A text of at most `most` characters."""

    most: int = 4096

    @property
    def expected(self) -> str:
        return f"a text of at most {self.most:,} characters, none of them zero"

    def take(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        if len(value) > self.most or "\0" in value:  # no path may have one
            raise ValueError
        return value


class Either:
    """What one of a few rules takes."""

    def __init__(self, *rules: Rule):
        self.rules = rules

    @property
    def expected(self) -> str:
        return ", or ".join(rule.expected for rule in self.rules)

    def take(self, value: Any) -> Any:
        for rule in self.rules:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                return rule.take(value)
        raise ValueError


class Batches:
    """Something that makes one batch after the other; an array is one that somebody forgot to put into a list."""

    expected = "a list of batches, or what makes one after the other"

    def take(self, value: Any) -> Iterable[Any]:
        if isinstance(value, (str, bytes, Mapping)) or hasattr(value, "shape") or not hasattr(type(value), "__iter__"):
            raise TypeError
        return value


class OneOf:
    """One of a few values, and of their types: 1 is not True."""

    def __init__(self, *values: Any):
        self.values = values

    @property
    def expected(self) -> str:
        return " or ".join(map(repr, self.values))

    def take(self, value: Any) -> Any:
        for known in self.values:
            if type(known) is type(value) and known == value:
                return known
        raise ValueError


@dataclasses.dataclass(frozen=True)
class Maybe:
    """None, or what another rule takes."""

    rule: Rule

    @property
    def expected(self) -> str:
        return f"{self.rule.expected}, or None"

    def take(self, value: Any) -> Any:
        return None if value is None else self.rule.take(value)


@dataclasses.dataclass(frozen=True)
class Several:
    """A tuple (or list) of `low` to `high` values that another rule takes."""

    rule: Rule
    low: int
    high: int

    @property
    def expected(self) -> str:
        count = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        return f"{count} entries, each {self.rule.expected}"

    def take(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)):
            raise TypeError
        if not self.low <= len(value) <= self.high:
            raise ValueError
        return tuple(self.rule.take(item) for item in value)


@dataclasses.dataclass(frozen=True)
class ByName:
    """A mapping from texts to what another rule takes; `numbered` if the texts are whole numbers, as of steps."""

    rule: Rule
    numbered: bool = False

    @property
    def expected(self) -> str:
        return f"{self.rule.expected} by {'number' if self.numbered else 'name'}"

    def take(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise TypeError
        if self.numbered and not all(map(_is_number, value)):
            raise ValueError
        return {name: self.rule.take(item) for name, item in value.items()}


def _is_number(name: str) -> bool:
    """Whether a text is a whole number as it is usually written: 0100 is another name than 100, but no other number."""
    return name.isascii() and name.isdecimal() and len(name) < 20 and (name == "0" or name[0] != "0")


class Is:
    """An object of a class, or of one of a few."""

    def __init__(self, *kinds: type):
        self.kinds = kinds

    @property
    def expected(self) -> str:
        return " or ".join(f"a {kind.__name__}" for kind in self.kinds)

    def take(self, value: Any) -> Any:
        if not isinstance(value, self.kinds):
            raise TypeError
        return value


def check(instance: Any, error: type[Exception], title: str | None = None, /, **rules: Rule) -> None:
    """Checks fields of a dataclass, and keeps them as their rules do: lists as tuples, NumPy's numbers as Python's.

    Args:
      instance: of a dataclass, which may be frozen.
      error: what is raised.
      title: what its fields are called after, the name of its class by default.
      rules: for fields, by name.

    Raises:
      error: naming the field, its value and what was expected.
    """
    for name, rule in rules.items():
        value = getattr(instance, name)
        try:
            kept = rule.take(value)
        except (TypeError, ValueError, OverflowError):
            raise _refused(value, rule, error, f"{title or type(instance).__name__}.{name}") from None
        if kept is not value:
            object.__setattr__(instance, name, kept)


def taken(value: Any, rule: Rule, error: type[Exception], title: str) -> Any:
    """A single value, as its rule keeps it; raises `error`, as `check`."""
    try:
        return rule.take(value)
    except (TypeError, ValueError, OverflowError):
        raise _refused(value, rule, error, title) from None


def _refused(value: Any, rule: Rule, error: type[Exception], title: str) -> Exception:
    return error(f"{title}={shown(value)}: expected {rule.expected}")


def construct(kind: Any, values: Any, error: type[Exception]) -> Any:
    """A dataclass with these fields, as they were stored somewhere.

    Args:
      kind: the dataclass, which checks its fields.
      values: by name.
      error: what is raised.

    Raises:
      error: `values` is no mapping, an unknown or missing field, or a value that a field may not have.
    """
    if not isinstance(values, Mapping):
        raise error(f"{kind.__name__}: expected its fields by name, got {shown(values)}")
    known = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        raise error(
            f"{kind.__name__} has no field {', '.join(shown(name) for name in unknown[:8])}; "
            f"known are {', '.join(known)}"
        )
    required = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise error(f"{kind.__name__} needs the field {', '.join(map(repr, missing))}")
    return kind(**values)
