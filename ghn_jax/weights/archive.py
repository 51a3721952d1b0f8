"""Zip archives that may come from strangers: read without trusting what they say of themselves."""

from __future__ import annotations

import collections
import contextlib
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from ghn_jax.checks import files
from ghn_jax.weights.errors import CheckpointError

MOST_ENTRIES = 100_000
"""Of an archive."""

_MOST_AT_ONCE = MOST_ENTRIES * 160
"""Bytes that a list of so many entries takes, with names of usual length."""

MOST_COMPRESSED = 50
"""Times that stored numbers may be smaller than they are: weights hardly shrink, those of an optimiser begin as zeros.
"""

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
            # zipfile reads the list of entries at once, however long the archive says that it is.
            limited: Any = _Limited(file)
            archive = stack.enter_context(zipfile.ZipFile(limited))
            limited.most = sys.maxsize
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


class _Limited:
    """A file that is not read if very much is asked for at once."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self.seekable, self._read = file.seek, file.tell, file.seekable, file.read
        self.most = _MOST_AT_ONCE

    def read(self, size: int = -1) -> bytes:
        if size > self.most:
            raise ValueError(f"a list of entries of {size:,} bytes, expected at most {self.most:,}")
        return self._read(size)


def check_unpacked(archive: zipfile.ZipFile) -> None:
    """Checks that the entries of an archive of numbers are not many times as large as the archive.

    Raises:
      CheckpointError: they say that they are.
    """
    claimed = sum(info.file_size for info in archive.infolist())
    found = sum(info.compress_size for info in archive.infolist())
    if claimed > MOST_COMPRESSED * found + (1 << 24):
        raise CheckpointError(f"{archive.filename} has {found:,} bytes, which claim to unpack to {claimed:,}")


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
