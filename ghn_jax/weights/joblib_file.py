"""Files of tensors that joblib wrote, read without joblib and PyTorch, and without running anything that they contain.

`joblib.dump` writes a pickle, as it is or compressed.  A tensor of PyTorch in it holds its storage as a text of bytes:
what `torch.save` wrote for it alone, in the format of before version 1.6.  That is four small pickles (a number, a
version, what machine wrote it, the storage's type and size), one with a list of keys, and the numbers.

Source: `joblib/numpy_pickle.py`; `torch/storage.py` and `_legacy_save` in `torch/serialization.py` of PyTorch.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from ghn_jax.checks import files
from ghn_jax.weights import torch_file
from ghn_jax.weights.errors import CheckpointError
from ghn_jax.weights.torch_pickle import Machine, Name, Storage, Stored

_LOAD = "torch.storage _load_from_bytes"

_FORMAT = 1001
"""Version of the format of storages."""

_PICKLE = b"\x80"
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_GZIP = b"\x1f\x8b"

_MOST_EXPANSION = 16

# Of a file; the largest published one has 2.5 GB.
_MOST_BYTES = 1 << 40
"""How many times its size a compressed file may take: weights hardly become smaller."""

_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


class JoblibFile:
    """What `joblib.dump` wrote to a file.

    Attributes:
      contents: dictionaries, lists, tuples, texts and numbers, and a `Stored` for every tensor.
      size: of the pickle, in bytes.
    """

    def __init__(self, source: Any, size: int):
        machine = _JoblibMachine()
        self.contents = machine.run(source)
        self.size = size
        if source.read(1):
            raise CheckpointError("refused the pickle: more follows after its end")
        self._storages = machine.storages

    def array(self, tensor: Stored) -> np.ndarray:
        """The values of a tensor of this file, read-only; those of a bfloat16 are float32."""
        stored, order = self._storages[int(tensor.storage)]
        return torch_file.as_array(tensor, stored, order)


def looks_like_one(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as those of `joblib.dump` do; nothing is said of the rest."""
    try:
        with files.open_regular(path, _MOST_BYTES) as file:
            start = file.read(len(torch_file.LEGACY))
    except (OSError, ValueError):
        return False
    return start[:2] in (_GZIP, *_ZLIB) or (start[:1] == _PICKLE and start != torch_file.LEGACY)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[JoblibFile]:
    """The file at `path`, all of it read.

    Raises:
      CheckpointError: no such file, one that is damaged, grows too much when it is unpacked, or has anything but a
        state dictionary's parts in it.
    """
    yield _read(path)


def _read(path: str | os.PathLike[str]) -> JoblibFile:
    name = os.fspath(path)
    try:
        with (
            files.open_regular(path, _MOST_BYTES) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            if mapped[:1] == _PICKLE:
                return JoblibFile(mapped, len(mapped))
            unpacked = _unpacked(mapped)
            return JoblibFile(io.BytesIO(unpacked), len(unpacked))
    except FileNotFoundError:
        raise CheckpointError(f"no file at {name}") from None
    except files.FileError as error:
        raise CheckpointError(str(error)) from error
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except (OSError, ValueError, zlib.error) as error:  # ValueError: of an empty file
        raise CheckpointError(f"{name} is damaged, or no file of weights: {error}") from error


def _unpacked(packed: mmap.mmap) -> bytes:
    unpacker = zlib.decompressobj(_ZLIB_OR_GZIP)
    unpacked = unpacker.decompress(packed, _MOST_EXPANSION * len(packed))
    if unpacker.unconsumed_tail:
        raise CheckpointError(f"it takes more than {_MOST_EXPANSION} times its size when it is unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise CheckpointError("it is damaged: its compressed part does not end where the file does")
    return unpacked


class _JoblibMachine(Machine):
    """Runs pickles with storages in them.

    Attributes:
      storages: bytes of every storage, and the order of those of a number; `Stored.storage` is its place as a text.
    """

    known = Machine.known | {_LOAD}

    def __init__(self):
        super().__init__()
        self.storages: list[tuple[memoryview, Literal["<", ">"]]] = []

    def _op_binbytes(self, value: bytes) -> None:
        self._push(value)

    _op_short_binbytes = _op_binbytes8 = _op_binbytes

    def _made(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        if name != _LOAD:
            return super()._made(name, arguments)
        if len(arguments) != 1 or type(arguments[0]) is not bytes:
            raise self._error("a storage that is no bytes")
        return self._storage(arguments[0])

    def _storage(self, saved: bytes) -> Storage:
        """The storage of these bytes, which are kept."""
        start = torch_file.LEGACY + b"."
        if not saved.startswith(start):
            raise self._error("a storage that torch.save did not write")
        source = io.BytesIO(saved)
        source.seek(len(start))
        version, system, storage, keys = (Machine().run(source) for _ in range(4))
        if version != _FORMAT or not isinstance(system, dict) or type(system.get("little_endian")) is not bool:
            raise self._error(f"a storage in a format other than {_FORMAT}, or of an unknown machine")
        if type(storage) is not Storage or keys != [storage.key]:
            raise self._error("a storage that is not alone")
        order: Literal["<", ">"] = "<" if system["little_endian"] else ">"
        numbers = memoryview(saved)[source.tell() :]
        elements = int.from_bytes(numbers[:8], "little" if order == "<" else "big", signed=True)
        expected = torch_file.stored_bytes(storage.kind, storage.elements)
        if elements != storage.elements or len(numbers) - 8 != expected:
            raise self._error(
                f"a storage of {storage.elements:,} elements with {max(len(numbers) - 8, 0):,} bytes, "
                f"expected {expected:,}"
            )
        self.storages.append((numbers[8:], order))
        return Storage(str(len(self.storages) - 1), storage.kind, elements)
