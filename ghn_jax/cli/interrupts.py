"""Ctrl-C in a program: no traceback at any moment, and nobody waits for a compiler.

Importing this module takes no time, so a program can begin with it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import types
from collections.abc import Iterator


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Within the context Ctrl-C ends the process by the signal, as in a program in C.

    Nothing waits for threads, and no exception comes out of the middle of an import.  For code that leaves nothing
    half done.
    """
    if not _ours() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # somebody has other plans
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def ends_at_second() -> Iterator[None]:
    """Within the context Ctrl-C raises KeyboardInterrupt; the second one ends the process at once.

    A thread listens: Python raises only when the main thread comes back from what it does, such as compiling.  After
    the context Ctrl-C ends the process by the signal, where that was so before.
    """
    before = signal.getsignal(signal.SIGINT)
    if not _ours() or before not in (signal.SIG_DFL, signal.default_int_handler):
        yield
        return
    heard, hears = os.pipe()
    os.set_blocking(hears, False)
    resent: list[int] = []
    listener = threading.Thread(target=_listen, args=(heard, resent), name="ghn_jax_interrupts", daemon=True)
    wakeup = signal.set_wakeup_fd(hears, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, functools.partial(_interrupt, resent))
    listener.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(wakeup)
        os.close(hears)
        listener.join()
        os.close(heard)


def _ours() -> bool:
    """Whether this thread may say what signals do."""
    return threading.current_thread() is threading.main_thread()


_LOSING = ("__del__", "_xla_gc_callback")
"""Functions whose exceptions Python drops: finalizers, and what JAX has the garbage collector call."""


def _interrupt(resent: list[int], number: int, frame: types.FrameType | None) -> None:
    """Raises KeyboardInterrupt; where it would be lost, the signal is sent again a little later."""
    while frame is not None:
        if frame.f_code.co_name in _LOSING:
            threading.Timer(0.05, _send_again, [resent, number]).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _send_again(resent: list[int], number: int) -> None:
    resent.append(number)
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _listen(heard: int, resent: list[int]) -> None:
    """Ends the process at the second Ctrl-C; returns when the other end of the pipe is closed.

    Args:
      heard: has the number of every signal.
      resent: those of them that nobody pressed.
    """
    interrupts = 0
    while number := os.read(heard, 1):
        interrupts += number[0] == signal.SIGINT
        if interrupts - len(resent) >= 2:
            os._exit(128 + signal.SIGINT)
