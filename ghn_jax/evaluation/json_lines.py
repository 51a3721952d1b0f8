"""Files with a JSON line for every result, which grow as results come, so that a command can go on with them.

A line that is cut off, or that something else wrote, costs itself and no other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ghn_jax.checks import files
from ghn_jax.checks.fields import ByName, Real, Rule, Several

METRICS = "metrics.jsonl"
"""Name of the file in the folder of a training run that has a line for every step."""

_MOST_LINE_BYTES = 1 << 22

Row = dict[str, Any]
"""What a line holds, by field."""

ACCURACIES = ByName(Real(0, 1), numbered=True)
"""A field of results: accuracies (0..1) by number of steps or epochs."""


def numbers(low: int, high: int) -> Rule:
    """A field that is a list of `low` to `high` finite numbers, such as features."""
    return Several(Real(-1e30, 1e30), low, high)


class Losses:
    """A field that is a list of numbers, which may be infinite or none, as losses may."""

    expected = "a list of numbers"

    def take(self, value: Any) -> list[float]:
        if not isinstance(value, list) or not all(_is_float(item) for item in value):
            raise TypeError
        return value


def parse(line: bytes) -> Row | None:
    """The object of a line, None if it holds none."""
    try:
        row = files.parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read(path: str | os.PathLike, **kinds: type | Rule) -> Iterator[Row]:
    """The rows of a file, but for lines that are no objects, or have a field of another kind.

    Args:
      path: the file.
      kinds: of fields that a row must have, by name, or rules for them; an integer is a float if it is not larger than
        floats are, True and False are neither.
    """
    with files.open_regular(path) as file:
        for line in lines(file):
            row = parse(line)
            if row is not None and all(_is(row.get(name), kind) for name, kind in kinds.items()):
                yield row


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; in the place of each that is so long that no result is in it there is nothing, `b""`."""
    while line := file.readline(_MOST_LINE_BYTES):
        if line.endswith(b"\n") or len(line) < _MOST_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_MOST_LINE_BYTES)
        yield b""


def _is(value: Any, kind: type | Rule) -> bool:
    if isinstance(kind, type):
        return _is_float(value) if kind is float else type(value) is kind
    try:
        kind.take(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _is_float(value: Any) -> bool:
    return type(value) is float or (type(value) is int and value.bit_length() < 64)


def append(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Adds a line to a file, or nothing if it does not fit onto the disk; one that was cut off before is left alone.

    Raises:
      OSError: of the system.
    """
    with open(path, "a+b", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        line = (json.dumps(row) + "\n").encode()
        if start and os.pread(file.fileno(), 1, start - 1) != b"\n":
            line = b"\n" + line
        written = 0
        try:
            while written < len(line):
                written += file.write(line[written:])
        except OSError:
            if os.fstat(file.fileno()).st_size == start + written:  # nobody else added to it
                file.truncate(start)
            raise


def resume(path: Path, **kinds: type | Rule) -> list[Row]:
    """The rows of a file that is to grow, none without a file; see `read`."""
    return list(read(path, **kinds)) if path.exists() else []


WEIGHTS = "weights"
"""A field of results: the fingerprint of the hypernetwork whose predictions they are of."""


def is_of(row: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Whether a row has the fields of `key`; one from before fingerprints were stored says nothing of weights."""
    return {WEIGHTS: key.get(WEIGHTS), **row}.items() >= key.items()


def as_stored(row: Mapping[str, Any]) -> Row:
    """A row as it is read again: tuples are lists, keys are texts."""
    return json.loads(json.dumps(row))
