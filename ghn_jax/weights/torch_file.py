"""Files that PyTorch wrote, read without PyTorch and without running anything that they contain.

`torch.save` writes a zip archive: `NAME/data.pkl` is a pickle of everything but the numbers (`torch_pickle`), and
`NAME/data/KEY` are the numbers of a storage, in which several tensors may lie.

Source: `torch/serialization.py` of PyTorch 1.6 and later.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ghn_jax.checks import files
from ghn_jax.weights import archive, torch_pickle
from ghn_jax.weights.errors import CheckpointError
from ghn_jax.weights.torch_pickle import Stored

# PyTorch before 1.6 wrote no archive, but a pickle of this number first.
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

# The pickle of a hypernetwork and its optimiser has about 20 kB.
_MOST_PICKLE_BYTES = 1 << 20


_MOST_SHARED = 16
"""How many times the size of a file its tensors may take; models use some of theirs several times."""


class TorchFile:
    """What `torch.save` wrote to a file that is open.

    Attributes:
      contents: dictionaries, lists, tuples, texts and numbers, and a `Stored` for every tensor.
      size: of the file, in bytes.
    """

    def __init__(self, zipped: zipfile.ZipFile):
        if any(info.compress_type != zipfile.ZIP_STORED for info in zipped.infolist()):
            raise CheckpointError(f"{zipped.filename} was not written by torch.save: it is compressed")
        self._zipped = zipped
        self._storages: dict[str, bytes] = {}
        self.size = os.path.getsize(str(zipped.filename))
        self._root = self._find_root()
        self._order: Literal["<", ">"] = self._byte_order()
        pickled = archive.read(zipped, f"{self._root}data.pkl", _MOST_PICKLE_BYTES)
        try:
            self.contents: Any = torch_pickle.read(pickled)
        except CheckpointError as error:
            raise CheckpointError(f"{zipped.filename}: {error}") from error

    def array(self, tensor: Stored) -> np.ndarray:
        """The values of a tensor of this file, read-only; those of a bfloat16 are float32.

        Raises:
          CheckpointError: the storage is missing, of another size than it says, or damaged.
        """
        name = f"{self._root}data/{tensor.storage}"
        expected = stored_bytes(tensor.kind, tensor.elements)
        # Read once, however many tensors are parts of it.
        if name not in self._storages:
            self._storages[name] = archive.read(self._zipped, name, expected)
        stored = self._storages[name]
        if len(stored) != expected:
            raise CheckpointError(
                f"{self._zipped.filename}: entry {name[:80]!r} has {len(stored):,} bytes, expected {expected:,}"
            )
        return as_array(tensor, stored, self._order)

    def _find_root(self) -> str:
        """The folder in the archive that everything is in, with a slash."""
        pickles = [name for name in self._zipped.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            found = f"{len(pickles)} files called data.pkl" if pickles else "no data.pkl"
            raise CheckpointError(f"{self._zipped.filename} was not written by torch.save: {found} in it, expected one")
        return pickles[0].removesuffix("data.pkl")

    def _byte_order(self) -> Literal["<", ">"]:
        """NumPy's sign for the order of bytes in a number; PyTorch before 2.1 did not write it down."""
        name = f"{self._root}byteorder"
        if name not in self._zipped.NameToInfo:
            return "<"
        order = archive.read(self._zipped, name, 16)
        if order not in (b"little", b"big"):
            raise CheckpointError(f"{self._zipped.filename}: byteorder is {order!r}, expected little or big")
        return "<" if order == b"little" else ">"


def _stored_type(kind: str) -> np.dtype:
    # The two bytes of a bfloat16 are the first of a float32.
    return np.dtype(np.uint16 if kind == "BFloat16Storage" else torch_pickle.STORAGES[kind])


def stored_bytes(kind: str, elements: int) -> int:
    """Bytes that a storage of a kind takes."""
    return elements * _stored_type(kind).itemsize


def as_array(tensor: Stored, stored: bytes | memoryview, order: Literal["<", ">"]) -> np.ndarray:
    """The values of a tensor, read-only, from all bytes of its storage; those of a bfloat16 are float32."""
    stored_type = _stored_type(tensor.kind)
    numbers = np.frombuffer(stored, stored_type.newbyteorder(order))[tensor.offset :]
    # Where there is a single step, a stride means nothing, and may be any number.
    strides = tuple(
        stride * numbers.itemsize if size > 1 else 0 for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    # Only then converted: the storage may be much larger, and have many tensors.
    values = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)
    values = values.astype(stored_type, copy=False)
    if tensor.kind == "BFloat16Storage":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    values.flags.writeable = False
    return values


def check_total(tensors: Iterable[Stored], size: int) -> None:
    """Checks that tensors of a file do not share storages so often that they take many times its memory.

    Args:
      tensors: of the file.
      size: of the file, in bytes.

    Raises:
      CheckpointError: they do.
    """
    total = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
    if total > _MOST_SHARED * size + (1 << 24):
        raise CheckpointError(f"its tensors take {total:,} bytes, but the file has {size:,}")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[TorchFile]:
    """The file at `path`; its tensors are read when `TorchFile.array` is asked for them.

    Raises:
      CheckpointError: no such file, one that PyTorch did not write or wrote before version 1.6, or one that has
        anything but a state dictionary's parts in it.
    """
    _refuse_legacy(files.as_path(path))
    with archive.opened(path) as zipped:
        yield TorchFile(zipped)


def _refuse_legacy(path: Path) -> None:
    """Says what to do with the format of old PyTorch; any other thing wrong with a file, `archive.opened` finds."""
    if not os.path.isfile(path):
        return
    try:
        with path.open("rb") as file:
            legacy = file.read(len(LEGACY)) == LEGACY
    except OSError:
        return
    if legacy:
        raise CheckpointError(
            f"{path} is in the format of PyTorch before 1.6: write it again with a newer one, "
            "torch.save(torch.load(FILE), FILE)"
        )
