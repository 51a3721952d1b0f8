"""The process that networks run in: programs kept on disk, compilations counted, memory kept by the C library."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import compilation_cache, core, xla_bridge
from jax._src.compilation_cache_interface import CacheInterface

from ghn_jax.errors import GHNError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_EVENT = "/jax/core/compile/backend_compile_duration"

_HALF = re.compile(r".+\.[0-9]+\.[0-9]+")
"""Names of entries of the cache that are half written; see `Entries.put`."""

_SECONDS_OF_A_WRITE = 3600.0
"""No entry takes so long to be written: its process was killed."""


class ForkError(GHNError, RuntimeError):
    """JAX was used before this process was forked: its threads are not there, and a computation would never end."""


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Within the context JAX and NumPy compute as this package means it, however strict the settings of its user are.

    They are those of a thread: what another thread is to do takes them along as `own_settings()(function)`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.transfer_guard("allow"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))  # as NumPy begins
        config: Any = jax.config  # whose attributes type checkers do not know
        if config.jax_disable_jit:
            stack.enter_context(jax.disable_jit(False))
        yield


@contextlib.contextmanager
def outside_of_traces() -> Iterator[None]:
    """As `own_settings`; and what is computed is no part of a function that JAX may be tracing.

    Such a function may predict too, say as a constant.  What is put aside for later calls must not belong to it.
    """
    with own_settings(), core.eval_context():
        yield


_forked = False


def _after_fork() -> None:
    global _forked
    _forked = xla_bridge.backends_are_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_not_forked() -> None:
    """Checks that this process can use JAX.

    Raises:
      ForkError: it was forked from one that had begun to use it.
    """
    if _forked:
        raise ForkError(
            "this process was forked from one that had used JAX, whose threads it does not have: start processes with "
            "multiprocessing.get_context('spawn')"
        )


def use_compilation_cache() -> None:
    """Turns JAX's persistent cache on, in `~/.cache/ghn_jax/xla`, unless the user has set one up.

    Operations compile in well under a second each, so even the quick ones are worth keeping.  A damaged entry is
    compiled again; a folder that cannot be used is said once, on stderr, and nothing is kept.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    entries = own_entries()
    if entries is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(entries.folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX would make a cache of its own for this folder, and offers no way to give it another.
    compilation_cache._cache = entries


def own_entries() -> Entries | None:
    """What is kept in `~/.cache/ghn_jax/xla`; None where that folder cannot be used, which is said once, on stderr."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "ghn_jax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # the latter if there is no home
        _say_once(f"no compiled programs are kept: {error}")
        return None
    return _entries_in(folder)


class Entries(CacheInterface):
    """A folder of entries, each with a checksum at its end, for any number of processes at once.

    JAX's own cache keeps entries that a full disk or the end of a process has cut short, and warns of them in every
    process.

    Args:
      folder: where they are.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._keeps = True
        self._said_damaged = False
        self._tidy = False

    def get(self, key: str) -> bytes | None:
        try:
            stored = self._file(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
            return None
        value, checksum = stored[:-4], stored[-4:]
        if checksum == _checksum(value):
            return value
        if not self._said_damaged:
            self._said_damaged = True
            say(f"{self._file(key)} is damaged: it is compiled again, and so are others like it")
        return None

    def put(self, key: str, value: bytes) -> None:
        if not self._keeps:
            return
        # Under a name of its own until it is complete; an entry that could not be read is replaced.
        part = self.folder / f"{key}.{os.getpid()}.{threading.get_ident()}"
        try:
            if not self._tidy:
                self._tidy = True
                self._remove_half_written()
            part.write_bytes(value + _checksum(value))
            part.replace(self._file(key))
        except OSError as error:
            self._give_up(error)
            try:
                part.unlink(missing_ok=True)
            except OSError:
                pass  # neither can it be removed

    def _remove_half_written(self) -> None:
        """Removes what processes that were killed have left."""
        before = time.time() - _SECONDS_OF_A_WRITE
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                if _HALF.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.program"

    def _give_up(self, error: OSError) -> None:
        if self._keeps:
            self._keeps = False
            say(f"no more compiled programs are kept in {self.folder}: {error}")


@functools.cache
def _entries_in(folder: Path) -> Entries:
    """Those of a folder, which says once in a process what is wrong with it."""
    return Entries(folder)


def _checksum(value: bytes) -> bytes:
    return zlib.crc32(value, 1).to_bytes(4, "little")  # from 1, so that zeros are no entry


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        say(text)


def say(text: str) -> None:
    """On stderr and not as a warning: even where warnings are errors, nothing is to stop for want of a cache."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(f"ghn_jax: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def counted() -> Iterator[list[float]]:
    """Seconds of every XLA compilation within the context, in a list that grows; loading from a cache counts too."""
    seconds: list[float] = []
    active = True

    def listener(event: str, duration_secs: float, **_) -> None:
        if active and event == _EVENT:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield seconds
    finally:
        active = False  # JAX can only forget all listeners at once, those of others too


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed blocks of up to a gigabyte instead of handing them back to the system.

    Activations come and go with every operation.  By default each large one is mapped afresh, and the system fills it
    with zeros page by page: a tenth of the time of training on CPUs.  To be called before anything large is allocated;
    the process keeps the most that it has ever used.

    Returns:
      Whether this C library (glibc) can be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_ARENA_MAX, 1))
    return all([mallopt(name, value) == 1 for name, value in settings])
