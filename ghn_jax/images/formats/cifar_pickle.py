"""The pickled dictionaries of the Python version of CIFAR, read without running what a pickle may ask for.

Not even NumPy is called: it trusts the state that a pickle gives to a dtype or an array, and one damaged byte can
crash the process.  Stand-ins take the state, check it, and make the array from its bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from ghn_jax.checks import files
from ghn_jax.images.errors import ImageError

_MOST_BYTES = 1 << 28
"""Of a batch; the largest, of CIFAR-100, has 155 million."""

_MOST_INSTRUCTIONS = 1 << 20
"""Of a pickle; that batch has 300,000, most of them for the names of its images.  Each may make an object."""

_MOST_LOOSE_TUPLES = 1000
"""Tuples that are not at once the arguments or the state of something.  Python crashes at a key of very nested ones."""

_REPEATING = ("DUP", "POP", "POP_MARK")
"""Instructions with which a tuple could be taken again.  A key of tuples that hold each other twice takes Python hours:
each of dozens of them doubles the work.
"""

_KEYS = frozenset({"data", "labels", "fine_labels", "coarse_labels"})
"""Of what is read of a batch."""

_MOST_BITS = 31
"""Of an integer.  Dictionaries of larger ones can be made so that every entry meets all others."""


def _check_plain(values: tuple) -> None:
    """Checks that there are only numbers, texts, bytes and None: tuples could be nested without end."""
    if any(type(value) not in (int, bool, str, bytes, type(None)) for value in values):
        raise pickle.UnpicklingError("an array with something else in its description")


class _DType:
    """In the place of `numpy.dtype`: the type of single unsigned bytes, for which byte order means nothing."""

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = False):
        _check_plain((code, align, copy))
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of dtype {code!r}: expected 'u1', unsigned bytes")

    def __setstate__(self, state: tuple) -> None:
        """Takes byte order, alignment and flags, and leaves them."""
        _check_plain(state)


class _Array:
    """In the place of `numpy.ndarray` and of the function that makes an empty one before its state is known."""

    array: np.ndarray

    def __init__(self, kind: type, shape: tuple[int, ...], code: bytes):
        """Takes what describes the empty array, and leaves it."""
        if kind is not _Array:
            raise pickle.UnpicklingError("an array of another class")
        _check_plain((*shape, code))

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran_order, content = state
        _check_plain((version, fortran_order))
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array without its dtype or its bytes")
        if type(shape) is not tuple or any(type(size) is not int for size in shape) or len(shape) > 8:
            raise pickle.UnpicklingError("an array without a shape")
        if len(content) != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(content)} bytes")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran_order else "C")


_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}

# What the standard library's unpickler raises for bytes that are no pickle, depending on where they go wrong.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class _ArrayUnpickler(pickle.Unpickler):
    _encoded = 0

    def _encode(self, text: str, encoding: str) -> bytes:
        """In the place of `_codecs.encode`, with which Python 3 writes bytes for Python 2."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}: expected 'latin1'")
        self._encoded += len(text)
        if self._encoded > _MOST_BYTES:  # one text may be encoded any number of times
            raise pickle.UnpicklingError(f"more than {_MOST_BYTES:,} bytes")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return _STAND_INS[module, name]


def _check_instructions(content: bytes) -> None:
    """Checks that no instruction asks for a place in the unpickler's memory far beyond those before it.

    Raises:
      ValueError: one does, there are very many, a number that no batch has, a key twice, or the bytes are no pickle.
    """
    instructions = loose_tuples = 0
    after_tuple = after_key = False
    keys: set[str] = set()
    kept_keys: set[int] = set()
    places: set[int] = set()
    tuples: set[int] = set()
    for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
        instructions += 1
        if instructions > _MOST_INSTRUCTIONS:
            raise ValueError(f"it has more than {_MOST_INSTRUCTIONS:,} instructions")
        if isinstance(argument, float) or (isinstance(argument, int) and argument.bit_length() > _MOST_BITS):
            raise ValueError(f"instruction {instructions} has a number that no batch has")
        if opcode.name in _REPEATING:
            raise ValueError(f"instruction {instructions}, {opcode.name}, is not one that a batch needs")
        text = argument.decode("latin1") if isinstance(argument, bytes) else argument
        if text in keys or ("GET" in opcode.name and argument in kept_keys):  # a dictionary would keep the last
            raise ValueError(f"instruction {instructions} has a key twice")
        if isinstance(text, str) and text in _KEYS:
            keys.add(text)
        if "PUT" not in opcode.name and opcode.name not in ("MEMOIZE", "FRAME", "PROTO"):
            after_key = isinstance(text, str) and text in _KEYS
            loose_tuples += after_tuple and opcode.name not in ("REDUCE", "BUILD")
            if loose_tuples > _MOST_LOOSE_TUPLES:
                raise ValueError(f"it has more than {_MOST_LOOSE_TUPLES:,} tuples")
            after_tuple = "TUPLE" in opcode.name
        if opcode.name == "MEMOIZE":
            argument = len(places)
        if ("PUT" in opcode.name or opcode.name == "MEMOIZE") and isinstance(argument, int):
            places.add(argument)
            (tuples.add if after_tuple else tuples.discard)(argument)
            (kept_keys.add if after_key else kept_keys.discard)(argument)
        if "GET" in opcode.name and argument in tuples:
            raise ValueError(f"instruction {instructions} asks for a tuple again")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > 2 * instructions + 1000:
            raise ValueError(f"instruction {instructions} asks for place {argument} of its memory")


def read_python_batch(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of plain values and arrays of unsigned bytes; keys of bytes become strings.

    Raises:
      ImageError: a truncated or foreign file, naming it and its size, or one that asks for anything else.
    """
    try:
        content = files.read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    try:
        _check_instructions(content)
        # From memory: of a file, the unpickler would make room for whatever the pickle says is coming.
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise pickle.UnpicklingError(f"holds a {type(batch).__name__}: expected a dictionary")
        found = {
            key.decode() if isinstance(key, bytes) else key: value.array if isinstance(value, _Array) else value
            for key, value in batch.items()
        }
        if len(found) < len(batch):
            raise pickle.UnpicklingError("it has a key twice, as text and as bytes")
        return found
    except _UNPICKLING_ERRORS as error:
        raise ImageError(
            f"{path} ({len(content)} bytes) is not a pickled CIFAR batch, or is truncated: {error}"
        ) from error
