"""What can be wrong with weights."""

from ghn_jax.errors import GHNError


class CheckpointError(GHNError):
    """A checkpoint that is missing, damaged, of another program or of another configuration, or cannot be written.

    >>> ghn_jax.load('runs/no_such_run')
    Traceback (most recent call last):
        ...
    ghn_jax.weights.errors.CheckpointError: there is no 'runs/no_such_ru...
    """
