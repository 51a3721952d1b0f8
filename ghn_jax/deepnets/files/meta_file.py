"""The meta files of DeepNets-1M: half a gigabyte of JSON for the train split, of which one entry is read at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ghn_jax.checks import files
from ghn_jax.errors import GHNError

_BLOCK = 1 << 22
_MOST_BYTES = 1 << 32
_MOST_ENTRY_BYTES = 1 << 20
_MOST_SKELETON_BYTES = 1 << 24
_MOST_ENTRIES = 1 << 21
"""Twice as many as DeepNets-1M has; each takes more memory than the bytes of an empty one."""
_ENTRY_DEPTH = 3
"""Braces around an entry, its own included: the file, its split, the entry."""


class MetaError(GHNError):
    """A meta file that is missing, truncated or not one of DeepNets-1M."""


class MetaFile:
    """A meta file, scanned once and then read from the disk entry by entry.

    Holds 16 bytes of memory for every architecture.  May be pickled and used from any process.

    Raises:
      MetaError: here and in the methods, naming the file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = files.as_path(path)
        try:
            self._starts, self._ends = _entry_spans(self.path)
            skeleton = files.parse_json(_skeleton(self.path, self._starts, self._ends))
        except OSError as error:
            raise MetaError(f"{self.path} cannot be read: {error}") from error
        except ValueError as error:
            raise MetaError(f"{self.path} is no JSON, or truncated: {error}") from error
        if not isinstance(skeleton, dict) or not skeleton:
            raise MetaError(f"{self.path} holds no splits: expected those of DeepNets-1M")
        self._first: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._names: dict[str, dict[str, dict[int, str]]] = {}
        for split, fields in skeleton.items():
            self._add(split, fields)

    def _add(self, split: str, fields: Any) -> None:
        try:
            nets, names = fields["nets"], self._object(fields["meta"])
            self._names[split] = {
                table: {int(number): str(name) for number, name in names[table].items()}
                for table in ("primitives_ext", "unique_op_names")
            }
            if not isinstance(nets, list) or any(type(number) is not int for number in nets):
                raise ValueError("'nets' is no list of objects")
            if nets and (nets != list(range(nets[0], nets[0] + len(nets))) or nets[-1] >= len(self._starts)):
                raise ValueError("an entry of 'nets' is no object")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
            raise MetaError(
                f"{self.path}: split {split!r} is not as in DeepNets-1M, with lists 'nets' and 'meta': {error}"
            ) from error
        self._first[split] = nets[0] if nets else 0
        self._sizes[split] = len(nets)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._sizes)

    def size(self, split: str) -> int:
        """Number of entries of a split."""
        return self._sizes[split]

    def primitives(self, split: str) -> dict[int, str]:
        """Names of the types of nodes by id."""
        return self._names[split]["primitives_ext"]

    def operations(self, split: str) -> dict[int, str]:
        """Names of operations by id."""
        return self._names[split]["unique_op_names"]

    def entry(self, split: str, index: int) -> dict[str, Any]:
        """What the file says of an architecture."""
        try:
            return self._object(self._first[split] + index)
        except (ValueError, OSError) as error:
            raise MetaError(f"{self.path}: entry {index} of {split!r} is no JSON: {error}") from error

    def _object(self, number: int) -> dict[str, Any]:
        size = int(self._ends[number] - self._starts[number])
        if size > _MOST_ENTRY_BYTES:
            raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_ENTRY_BYTES:,}")
        with files.open_regular(self.path, _MOST_BYTES) as file:
            file.seek(int(self._starts[number]))
            found = files.parse_json(file.read(size))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        return found


def _entry_spans(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where the objects at `_ENTRY_DEPTH` start and end.  Names in these files hold no braces."""
    starts, ends = [], []
    depth, offset = 0, 0
    with files.open_regular(path, _MOST_BYTES) as file:
        while block := file.read(_BLOCK):
            bytes_ = np.frombuffer(block, np.uint8)
            places = np.flatnonzero((bytes_ == ord("{")) | (bytes_ == ord("}")))
            steps = np.where(bytes_[places] == ord("{"), 1, -1)
            depths = depth + np.cumsum(steps)
            starts.append(places[(steps == 1) & (depths == _ENTRY_DEPTH)] + offset)
            ends.append(places[(steps == -1) & (depths == _ENTRY_DEPTH - 1)] + offset + 1)
            depth = int(depths[-1]) if len(depths) else depth
            offset += len(block)
    if depth:
        raise ValueError(f"{depth} braces are never closed")
    if (count := sum(map(len, starts))) > _MOST_ENTRIES:
        raise ValueError(f"{count:,} architectures, expected at most {_MOST_ENTRIES:,}")
    first, last = (np.concatenate(places or [np.zeros(0, int)]) for places in (starts, ends))
    if len(first) != len(last):
        raise ValueError("braces are closed before they are opened")
    return first, last


def _skeleton(path: Path, starts: np.ndarray, ends: np.ndarray) -> bytes:
    """The file with its entries replaced by their numbers.

    Raises:
      ValueError: too much of it belongs to no entry.
    """
    parts, at = [], 0
    rest = os.path.getsize(path) - int(np.sum(ends - starts))
    if rest > _MOST_SKELETON_BYTES:
        raise ValueError(f"{rest:,} bytes of it belong to no architecture, expected at most {_MOST_SKELETON_BYTES:,}")
    with files.open_regular(path, _MOST_BYTES) as file:
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            file.seek(at)
            parts += [file.read(start - at), b"%d" % number]
            at = end
        file.seek(at)
        parts.append(file.read())
    return b"".join(parts)
