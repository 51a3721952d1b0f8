"""The pickled dictionaries of the Python version of CIFAR, read without running what a pickle may ask for."""

from __future__ import annotations

import _codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ghn_jax.images.split import ImageError

# How NumPy pickles an array; the array tells, because the function is private and has moved between versions.
_reconstruct = np.empty(0).__reduce__()[0]


def _dtype(kind, align=False, copy=False):
    """`np.dtype`; the published files hold the flags as numbers, of which NumPy 2.4 warns."""
    return np.dtype(kind, align=bool(align), copy=bool(copy))


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _codecs.encode,  # bytes, as Python 3 writes them for Python 2
}


# What the standard library's unpickler raises for bytes that are no pickle, depending on where they go wrong.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return _ALLOWED[module, name]


def read_python_batch(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of plain values and NumPy arrays; keys of bytes become strings.

    Raises:
      ImageError: a truncated or foreign file, naming it and its size, or one that asks for anything else.
    """
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
    except _UNPICKLING_ERRORS as error:
        raise ImageError(
            f"{path} ({path.stat().st_size} bytes) is not a pickled CIFAR batch, or is truncated: {error}"
        ) from error
    if not isinstance(batch, dict):
        raise ImageError(f"{path} holds a {type(batch).__name__}: expected a dictionary")
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
