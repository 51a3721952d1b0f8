"""Ctrl-C and the polite ways of ending a process: the step at hand is completed first."""

from __future__ import annotations

import contextlib
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

    Args:
      say: called with a sentence for the person who waits.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number, frame):
        stop.signal = number
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        say(f"{signal.Signals(number).name}: stopping after this step, with a checkpoint; once more to stop at once")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
