"""The base of the errors that this package raises, and the one for packages that are not installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class GHNError(ValueError):
    """Something that was given to the package and that it cannot use; the message says what was expected.

    >>> issubclass(ghn_jax.GraphError, ghn_jax.GHNError)
    True
    """


class MissingExtraError(GHNError, ImportError):
    """A package that an extra of this one brings along is not installed."""


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """A context for imports of packages that come with an extra.

        with extra("plot"):
            import matplotlib.figure

    Raises:
      MissingExtraError: naming the package and the extra.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{error.name or error} is not installed: pip install 'ghn_jax[{name}]'") from error
