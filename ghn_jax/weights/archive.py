"""Zip archives that may come from strangers: read without trusting what they say of themselves."""

from __future__ import annotations

import collections
import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator

from ghn_jax.checks import files
from ghn_jax.weights.errors import CheckpointError

MOST_ENTRIES = 100_000
"""Of an archive."""

# What the standard library raises on bytes that are no archive.
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,  # a version or compression that zipfile does not know
    OSError,
    OverflowError,
    RuntimeError,  # an encrypted entry
    ValueError,
)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`; no two entries of it have one name, or lie in the same bytes.

    Raises:
      CheckpointError: no such file, or no such archive.
    """
    with contextlib.ExitStack() as stack:
        with _damage_named(path):
            file = stack.enter_context(files.open_regular(path, most=1 << 40))
            archive = stack.enter_context(zipfile.ZipFile(file))
        archive.filename = os.fspath(path)
        counts = collections.Counter(archive.namelist())
        if len(counts) > MOST_ENTRIES:
            raise CheckpointError(f"{os.fspath(path)} has {len(counts):,} entries, expected at most {MOST_ENTRIES:,}")
        twice = next((name for name, count in counts.items() if count > 1), None)
        if twice is not None:
            raise CheckpointError(f"{os.fspath(path)} has two entries called {twice[:80]!r}")
        stored, found = sum(info.compress_size for info in archive.infolist()), os.fstat(file.fileno()).st_size
        if stored > found:
            raise CheckpointError(f"{os.fspath(path)} has {found:,} bytes, its entries claim {stored:,}")
        yield archive


def read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """The bytes of an entry, decompressed.

    Raises:
      CheckpointError: there is none, it is damaged or encrypted, or has more than `limit` bytes.
    """
    if name not in archive.NameToInfo:
        raise CheckpointError(f"{archive.filename} has no entry {name[:80]!r}")
    size = archive.getinfo(name).file_size  # zipfile reads no more than this, whatever is there
    if size > limit:
        raise CheckpointError(f"{archive.filename}: entry {name[:80]!r} has {size:,} bytes, expected at most {limit:,}")
    with _damage_named(str(archive.filename)):
        return archive.read(name)


@contextlib.contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"no file at {os.fspath(path)}") from None
    except files.FileError as error:
        raise CheckpointError(str(error)) from None
    except _DAMAGE as error:
        raise CheckpointError(f"{os.fspath(path)} is damaged, or no file of weights: {error}") from error
