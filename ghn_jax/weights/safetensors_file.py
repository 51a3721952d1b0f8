"""Files in the format of safetensors: eight bytes with the length of a header, the header as JSON, the numbers.

The format is so small that it needs no library.  Files may come from strangers: what a header claims is checked
against the file before anything is made of it.

Source: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ghn_jax.checks import files
from ghn_jax.weights import archive
from ghn_jax.weights.errors import CheckpointError

_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

_METADATA = "__metadata__"
# Some hundred bytes an array; read as JSON, a header takes dozens of times its size.
_MOST_HEADER_BYTES = 1 << 24
_MOST_NUMBERS = 1 << 59  # of an array, as NumPy counts its bytes
_ALIGNMENT = 8


class StoredArray(NamedTuple):
    """Type and shape of an array in a file, and where its bytes begin and end, counted from the end of the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """What the header of a file says: its arrays by name, its metadata, and where the header ends."""

    entries: dict[str, StoredArray]
    metadata: dict[str, str]
    end: int


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays by name, in their order, under the name `path` itself: not for a name that is in use.

    Raises:
      CheckpointError: an array of a type that the format does not know.
      OSError: of the system.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, values in arrays.items():
        if name == _METADATA:
            raise CheckpointError(f"array {name!r}: this name is the metadata's")
        if values.dtype not in _NAMES:
            raise CheckpointError(
                f"array {name!r} of type {values.dtype}: expected one of {', '.join(map(str, _NAMES))}"
            )
        header[name] = {
            "dtype": _NAMES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [end, end + values.nbytes],
        }
        end += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in arrays.values():
            little = values.astype(values.dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by name, in the order of their bytes, and its metadata.

    Raises:
      CheckpointError: no such file, or one that is damaged or of another format.
    """
    header = read_header(path)
    expected = sum(entry.stop - entry.start for entry in header.entries.values())
    try:
        content = np.fromfile(path, np.uint8, count=expected, offset=header.end)
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be read: {error}") from error
    if len(content) != expected:
        raise CheckpointError(f"{os.fspath(path)} became shorter while it was read")
    arrays = {}
    for name, entry in header.entries.items():
        stored = content[entry.start : entry.stop].view(entry.dtype.newbyteorder("<"))
        arrays[name] = stored.astype(entry.dtype, copy=False).reshape(entry.shape)
    return arrays, header.metadata


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a file, after checking that its arrays fill the file without gaps; raises as `read`."""
    if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
        raise CheckpointError(f"no file at {path}")
    try:
        with files.open_regular(path, 1 << 40) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                raise CheckpointError(f"{path} is no safetensors file, or was cut: it has {size:,} bytes")
            text = file.read(length)
    except files.FileError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    try:
        fields = files.parse_json(text)
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
        metadata = fields.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError(f"{_METADATA} does not hold texts")
        if len(fields) > archive.MOST_ENTRIES:
            raise ValueError(f"it has {len(fields):,} arrays, expected at most {archive.MOST_ENTRIES:,}")
        entries = sorted(((name, _entry(name, field)) for name, field in fields.items()), key=lambda e: e[1].start)
        end = 0
        for name, entry in entries:
            if entry.start != end:
                raise ValueError(f"array {name[:80]!r} begins at byte {entry.start}, expected {end}")
            end = entry.stop
        if end != size - 8 - length:
            raise ValueError(f"its arrays take {end:,} bytes, the file has {size - 8 - length:,} for them")
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or no safetensors file: {str(error)[:300]}") from error
    return Header(dict(entries), metadata, 8 + length)


def _entry(name: str, field: Any) -> StoredArray:
    """An array's description.

    Raises:
      ValueError: it makes no sense.
    """
    where = f"array {name[:80]!r}"
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: expected dtype, shape and data_offsets")
    shape, offsets = field["shape"], field["data_offsets"]
    for numbers in (shape, offsets):
        whole = isinstance(numbers, list) and len(numbers) <= 32 and all(type(n) is int and n >= 0 for n in numbers)
        # Of an array without numbers too: where one size is 0, the others could be anything.
        if not whole or math.prod(max(n, 1) for n in numbers) > _MOST_NUMBERS:
            raise ValueError(f"{where}: {str(numbers)[:80]} are no sizes")
    if not isinstance(field["dtype"], str) or field["dtype"] not in _TYPES:
        raise ValueError(f"{where} has type {str(field['dtype'])[:80]!r}, expected one of {', '.join(_TYPES)}")
    dtype = _TYPES[field["dtype"]]
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{where} of {dtype} {str(shape)[:80]} does not fit into bytes {str(offsets)[:80]}")
    return StoredArray(dtype, tuple(shape), *offsets)
