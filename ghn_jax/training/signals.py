"""Ctrl-C and the polite ways of ending a process: the step at hand is completed first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the process has been asked to end, and by which signal."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def asked_to_stop(say: Callable[[str], None]) -> Iterator[Stop]:
    """Notes the first signal and lets the second one end the process at once.

    A thread listens: a handler of Python's would have to wait for the main thread, which may be compiling for minutes.

    Args:
      say: called with a sentence for the person who waits.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    heard, hears = os.pipe()
    os.set_blocking(hears, False)
    listener = threading.Thread(target=_listen, args=(heard, stop, say), name="ghn_jax_signals", daemon=True)
    handlers = {number: signal.signal(number, _wake_up) for number in SIGNALS}
    before = signal.set_wakeup_fd(hears, warn_on_full_buffer=False)
    listener.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(hears)
        listener.join()
        os.close(heard)


def _wake_up(number, frame) -> None:
    """Does nothing: that there is a handler has Python write the signal's number into the pipe."""


def _listen(heard: int, stop: Stop, say: Callable[[str], None]) -> None:
    """Reads numbers of signals until the other end of the pipe is closed."""
    while number := os.read(heard, 1):
        name = number[0]
        if name not in SIGNALS:
            continue
        if stop:
            os._exit(128 + name)  # nothing is half written that is not under a temporary name
        stop.signal = name
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            say(f"{signal.Signals(name).name}: stopping after this step, with a checkpoint; once more to stop at once")
