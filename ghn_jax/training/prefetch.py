"""Preparing the next items in a thread while the current one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

from ghn_jax.runtime import own_settings

Item = TypeVar("Item")

AHEAD = 8
"""Items that are prepared before they are asked for."""


def prefetch(items: Iterable[Item], ahead: int = AHEAD) -> Generator[Item, None, None]:
    """The same items in the same order, made ahead of time in a thread; its errors come out where they would have."""
    ready: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()

    @own_settings()
    def produce():
        try:
            for item in items:
                if not _put(ready, (item, None), stop):
                    return
            _put(ready, (None, StopIteration()), stop)
        except BaseException as error:
            _put(ready, (None, error), stop)

    def consume():
        try:
            while True:
                item, error = ready.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield item
        finally:
            stop.set()
            producer.join()  # a thread that still works when the interpreter ends can crash it

    producer = threading.Thread(target=produce, name="ghn_jax_prefetch", daemon=True)
    producer.start()
    return consume()


def _put(ready: queue.Queue, item, stop: threading.Event) -> bool:
    """Waits for room; False if nobody wants any more."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.2)
            return True
        except queue.Full:
            continue
    return False
