"""Files with a JSON line for every result, which grow as results come, so that a command can go on with them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
"""Name of the file in the folder of a training run that has a line for every step."""


def read(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The lines of a file, but for one that is cut off or follows one that is."""
    with open(path) as lines, contextlib.suppress(json.JSONDecodeError):
        for line in lines:
            yield json.loads(line)


def append(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Adds a line to a file."""
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def rewrite(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces the lines of a file, under a temporary name first."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    temporary.replace(path)


def resume(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that is to grow; one that is cut off is removed, and without a file there are none."""
    if not path.exists():
        return []
    rows = list(read(path))
    rewrite(path, rows)
    return rows
