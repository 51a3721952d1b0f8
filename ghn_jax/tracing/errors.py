"""What can go wrong when a model is traced."""

from __future__ import annotations

from ghn_jax.errors import GHNError


class TraceError(GHNError):
    """A model that cannot be traced, or parameters that cannot be predicted where all have to be.

    >>> ghn_jax.trace(42)
    Traceback (most recent call last):
        ...
    ghn_jax.tracing.errors.TraceError: expected a Linen or NNX module or a function, got int
    """
