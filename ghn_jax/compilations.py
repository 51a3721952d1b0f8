"""Counting XLA compilations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def counted() -> Iterator[list[float]]:
    """Seconds of every XLA compilation within the context, in a list that grows; loading from a cache counts too."""
    seconds: list[float] = []
    active = True

    def listener(event: str, duration: float, **_) -> None:
        if active and event == _EVENT:
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield seconds
    finally:
        active = False  # JAX can only forget all listeners at once, those of others too
