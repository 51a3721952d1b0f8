"""Files of users: read only what is a file, of a size that was asked for; replace only what this package wrote."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ghn_jax.checks.fields import shown
from ghn_jax.errors import GHNError

MARK = ".ghn_jax"
"""A file in folders that `replacing` wrote: the names of all other files in it, a line each."""

_OWNER = b"process"
"""How the content of a file begins that `locked` wrote."""

_WRITER = ".ghn_jax_writer"
"""A file in the temporary folders of `replacing`, locked as long as their process lives."""

MOST_BYTES = 1 << 33
"""Of a file that is read from beginning to end, unless its reader knows better."""


class FileError(GHNError, OSError):
    """A file that is none, that is too large, or that may not be replaced."""


def as_path(path: Any) -> Path:
    """A path, as `pathlib` has it.  Raises FileError for what is none: a number, None, bytes."""
    try:
        return Path(path)
    except TypeError:
        raise FileError(f"{shown(path)}: expected the path of a file or folder") from None


def open_regular(path: str | os.PathLike[str], most: int = MOST_BYTES) -> BinaryIO:
    """A file opened for reading, only if it is one: devices never end, and named pipes wait for a writer.

    Args:
      path: of the file; links are followed.
      most: bytes that it may have.

    Raises:
      FileError: it is no path, no regular file, or has more bytes.
      OSError: it is not there, or may not be read.
    """
    path = as_path(path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{os.fspath(path)} is {_kind(found.st_mode)}, expected a regular file")
        if found.st_size > most:
            raise FileError(f"{os.fspath(path)} has {found.st_size:,} bytes, expected at most {most:,}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """The content of a file, which must be one and have at most `most` bytes; raises as `open_regular`."""
    with open_regular(path, most) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)  # not `most`: Python makes room for all that it is asked for, before it reads
    if len(content) > size:
        raise FileError(f"{os.fspath(path)} has more than the {size:,} bytes that it says, or grew while it was read")
    return content


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~user` spelled out.

    Raises:
      FileError: no such user, or one without a home.
    """
    try:
        return as_path(path).expanduser()
    except RuntimeError as error:
        raise FileError(f"{os.fspath(path)}: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
      ValueError: it is no JSON, is nested too deeply for a reader, or an object in it has a name twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_by_name)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _by_name(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of two values under one name, Python would take the last and other readers the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"it has {twice[:80]!r} twice")
    return found


def refuse_to_replace(path: str | os.PathLike[str]) -> None:
    """Checks that `replacing` may replace what is at `path`.

    Raises:
      FileError: that is neither a regular file nor a folder that `replacing` wrote and in which nothing was put since.
    """
    path = _resolved(path)
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISREG(mode):
        return
    if not stat.S_ISDIR(mode):
        raise FileError(f"{path} is {_kind(mode)} and stays as it is: expected the name of a file")
    foreign = _foreign_files(path)
    if foreign is None:
        raise FileError(f"the folder {path} stays as it is: this program did not write it")
    if foreign:
        raise FileError(f"the folder {path} stays as it is: this program did not write {foreign[0]} in it")


def refuse_unwritable(path: str | os.PathLike[str]) -> None:
    """Checks that a file or folder can be made at `path`, by making one beside it, or where its folder will be.

    Raises:
      FileError: it cannot.
    """
    place = _resolved(path).parent
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", suffix=".new", dir=place))
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be written: {error.strerror} in {place}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], refuse_existing: bool = False) -> Iterator[Path]:
    """A temporary name for a file or folder that takes the place of `path` when it is complete.

    It has the name of `path`, in a new folder beside it, which is removed in any case; the next call for `path` removes
    those of processes that were killed.  A file replaces a file.  A folder is marked, and replaces only a marked one.
    A link stays, what it leads to is replaced.

    Args:
      path: what is to be written.
      refuse_existing: replace nothing at all.

    Raises:
      FileError: what is at `path` may not be replaced; see `refuse_to_replace`.
      OSError: of the system.
    """
    path = _resolved(path)
    refuse_to_replace(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".new", dir=path.parent))
        stack.callback(_remove, folder)
        stack.enter_context(locked(folder / _WRITER))
        temporary = folder / path.name
        yield temporary
        if temporary.is_dir():
            _mark(temporary)
        refuse_to_replace(path)  # once more: writing may have taken long
        if refuse_existing and os.path.lexists(path):
            raise FileError(f"{path} exists and is not replaced")
        if temporary.is_dir() != path.is_dir() and path.exists():
            raise FileError(f"{path} stays as it is: a file and a folder do not replace each other")
        before = _before(folder, path)
        try:
            if path.is_dir():
                path.rename(before)
            temporary.rename(path)
        except BaseException:  # Ctrl-C too: what was there would be removed with the temporary folder
            if before.is_dir() and not os.path.lexists(path):
                before.rename(path)
            raise


def _resolved(path: str | os.PathLike[str]) -> Path:
    """What a path leads to.  Raises FileError for a name that nothing can have."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise FileError(f"{os.fspath(path)!r} can be no file: {error}") from None


def _prefix(path: Path) -> str:
    """How the names of temporary folders for `path` begin."""
    return f".{path.name[:100]}."


def _before(folder: Path, path: Path) -> Path:
    """Where a folder at `path` is, in a temporary folder, until another one has taken its place."""
    return folder / f"{path.name}.before"


def _remove_abandoned(path: Path) -> None:
    """Removes the temporary folders for `path` of processes of this machine that are dead.

    Where such a process had moved a folder away from `path`, and not yet put the new one there, it is put back.
    """
    named = re.compile(re.escape(_prefix(path)) + r"[a-z0-9_]{8}\.new")  # as `mkdtemp` does
    found: list[str] = []
    with contextlib.suppress(OSError):  # a folder that may be written, and not listed
        found = list(filter(named.fullmatch, os.listdir(path.parent)))
    for folder in (path.parent / name for name in found):
        with contextlib.suppress(OSError), _writer_is_dead(folder) as dead:
            if not dead or not all(one == _WRITER or one.startswith(path.name) for one in os.listdir(folder)):
                continue
            if _before(folder, path).is_dir() and not os.path.lexists(path):
                _before(folder, path).rename(path)
            _remove(folder)


@contextlib.contextmanager
def _writer_is_dead(folder: Path) -> Iterator[bool]:
    """Whether a process of this machine made a temporary folder and is dead; no other process finds so meanwhile.

    The name of a process is written when it has the lock already, so a living one is never found without.

    Raises:
      OSError: of the system: there is no such file, or a file system without locks.
    """
    import fcntl

    if folder.is_symlink():
        yield False
        return
    with os.fdopen(os.open(folder / _WRITER, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW), "r+b", buffering=0) as file:
        text = file.read(500)
        if not text.startswith(_OWNER) or f" on {socket.gethostname()}, since ".encode() not in text:
            yield False
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _remove(folder: Path) -> None:
    """Removes a temporary folder, as far as possible; what says whose it is goes last."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _WRITER:
                os.unlink(entry.path)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a file that one process at a time can hold; the system lets go of it when the process ends, however.

    The file stays.  File systems without locks hold nobody up, and on a full disk the owner has no name.

    Raises:
      FileError: another process, or another thread, holds it, and the message says which; or the file is none that
        this function wrote, and stays as it is.
      OSError: of the system.
    """
    import fcntl

    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "r+b", buffering=0) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise FileError(f"{os.fspath(path)} is {_kind(mode)}, expected a regular file, or none")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = " ".join(file.read(500).decode(errors="replace").split()) or "another process"
            raise FileError(f"{os.fspath(path)} is held by {owner}: wait for it, or choose another folder") from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                raise
        if not _OWNER.startswith(file.read(len(_OWNER))):
            raise FileError(f"{os.fspath(path)} stays as it is: this program did not write it")
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f" {os.getpid()} on {socket.gethostname()}, since {since}: {' '.join(sys.argv)}\n"
        file.truncate(0)
        file.seek(0)
        with contextlib.suppress(OSError):
            file.write(_OWNER + text.encode(errors="replace"))
        yield


def _mark(folder: Path) -> None:
    """Writes down which files are in a folder."""
    (folder / MARK).write_bytes(os.fsencode("".join(f"{name}\n" for name in sorted(_files(folder)))))


def _foreign_files(folder: Path) -> list[str] | None:
    """Files in a folder that are not those it was written with, None if it has no mark."""
    try:
        known = os.fsdecode(read_regular(folder / MARK)).splitlines()
    except OSError:
        return None
    return sorted(_files(folder) - {MARK, *known})


def _files(folder: Path) -> set[str]:
    """Everything below a folder that is no folder itself, by its path from there."""
    return {
        os.path.relpath(os.path.join(place, name), folder)
        for place, folders, names in os.walk(folder)
        for name in [*names, *(one for one in folders if os.path.islink(os.path.join(place, one)))]
    }


def _kind(mode: int) -> str:
    """What something is, in words."""
    for test, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "no regular file"
