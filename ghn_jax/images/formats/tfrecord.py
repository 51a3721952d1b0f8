"""Images in TFRecord files of `tf.train.Example` messages, found without reading the images.

A message is walked through as protocol buffers write it: a key (number of the field and how it is written) before every
field, lengths before texts and messages, numbers as varints.
Source: https://protobuf.dev/programming-guides/encoding and TensorFlow's example.proto and feature.proto.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from ghn_jax.checks import files
from ghn_jax.images.errors import ImageError
from ghn_jax.images.photos import MOST_FILE_BYTES, Photos
from ghn_jax.images.split import Split

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_HEADER, _CHECKSUM = 12, 4
_MOST_BYTES = 1 << 40
_MOST_NAME_BYTES = 1024
_MOST_FIELDS = 10_000  # of a record; an example of ImageNet has a dozen
_THREADS = 16
"""They wait for the disk, not for a processor."""


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Where images are.

    Attributes:
      paths: TFRecord files.
      files: int32 [n], the file of every image.
      starts: int64 [n], its first byte.
      lengths: int64 [n], its bytes.
      names: bytes [n], what it was called.
    """

    paths: tuple[Path, ...]
    files: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    names: np.ndarray

    def read(self, number: int) -> bytes:
        with files.open_regular(self.paths[self.files[number]], _MOST_BYTES) as file:
            file.seek(self.starts[number])
            return file.read(min(int(self.lengths[number]), MOST_FILE_BYTES))

    def name(self, number: int) -> str:
        path = self.paths[self.files[number]]
        return f"{path}, image {os.fsdecode(self.names[number])} at byte {self.starts[number]},"


class ImageRecord(NamedTuple):
    """One image: where its bytes are, its label and its name."""

    start: int
    length: int
    label: int
    name: bytes


def read_index(paths: Sequence[Path]) -> Split:
    """The images of examples with `image`, `label` and `file_name`, in the order of their label and name.

    Raises:
      ImageError: a file that ends within a record, or a record that is no such example.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        bar = tqdm(
            threads.map(lambda path: list(image_records(path)), paths),
            total=len(paths),
            desc="finding images",
            unit="file",
            leave=False,
            delay=2,
        )
        found = list(bar)
    if not any(found):
        raise ImageError(f"no images in {', '.join(map(str, paths)) or 'no files'}")
    numbers = np.repeat(np.arange(len(paths), dtype=np.int32), [len(of_file) for of_file in found])
    starts, lengths, labels, names = (
        np.array(column, dtype)
        for column, dtype in zip(
            zip(*(entry for of_file in found for entry in of_file), strict=True),
            (np.int64, np.int64, np.int32, None),
            strict=True,
        )
    )
    order = np.lexsort((names, labels))
    return Split(Photos(Records(tuple(paths), numbers, starts, lengths, names), order), labels[order])


def image_records(path: Path) -> Iterator[ImageRecord]:
    """The images of one file.

    Raises:
      ImageError: as `read_index`.
    """
    with _opened(path) as file:
        cursor = _Cursor(file.fileno())
        while cursor.position < cursor.size:
            first = cursor.position
            start = first + _HEADER
            end = start + struct.unpack("<Q", cursor.take(8))[0] if start <= cursor.size else start
            if end + _CHECKSUM > cursor.size:
                raise ImageError(
                    f"{path} has {cursor.size} bytes: expected at least {end + _CHECKSUM}, it ends within a record"
                )
            cursor.position, cursor.fields_left = start, _MOST_FIELDS
            try:
                yield _entry(cursor, end)
            except ValueError as error:
                raise ImageError(f"{path}, record at byte {first}: {error}") from None
            cursor.position = end + _CHECKSUM


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = files.open_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    with file:
        yield file


class _Cursor:
    """Reads a file a little at a time, wherever it is put."""

    AHEAD = 512

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._buffer, self._first = b"", 0
        self.size = os.fstat(descriptor).st_size
        self.position = 0
        self.fields_left = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        offset = self.position - self._first
        if offset < 0 or offset + count > len(self._buffer):
            self._buffer = os.pread(self._descriptor, max(count, self.AHEAD), self.position)
            self._first, offset = self.position, 0
            if len(self._buffer) < count:
                raise ValueError("it ends too early")
        self.position += count
        return self._buffer[offset : offset + count]

    def varint(self) -> int:
        """The next number: seven bits a byte, the lowest first; the highest bit says that there are more."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("not a message: a number of more than ten bytes")


def _fields(cursor: _Cursor, end: int) -> Iterator[tuple[int, int | range]]:
    """Numbers of the fields up to byte `end`, each with its value: a number, or where its text or message is.

    The cursor is at the start of a text or message, and may be left anywhere.
    """
    while cursor.position < end:
        cursor.fields_left -= 1
        if cursor.fields_left < 0:
            raise ValueError(f"it has more than {_MOST_FIELDS:,} fields")
        number, kind = divmod(cursor.varint(), 8)
        if kind == _VARINT:
            yield number, cursor.varint()
        elif kind == _DELIMITED:
            length = cursor.varint()
            place = range(cursor.position, cursor.position + length)
            if place.stop > end:
                raise ValueError(f"not a message: field {number} goes beyond the end of what it is in")
            yield number, place
            cursor.position = place.stop
        elif kind in (_FIXED64, _FIXED32):
            cursor.position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"not a message: a field of kind {kind}")
    if cursor.position != end:
        raise ValueError("not a message: its last field goes beyond its end")


def _messages(cursor: _Cursor, end: int, wanted: int) -> Iterator[range]:
    """Where the texts or messages are that are fields of this number."""
    for number, value in _fields(cursor, end):
        if number == wanted and isinstance(value, range):
            yield value


def _entry(cursor: _Cursor, end: int) -> ImageRecord:
    """From Example.features (1) .feature (1), entries of a key (1) and a Feature (2)."""
    image = label = name = None
    for features in _messages(cursor, end, 1):
        for entry in _messages(cursor, features.stop, 1):
            key = b""
            for number, value in _fields(cursor, entry.stop):
                if not isinstance(value, range):
                    continue
                if number == 1:
                    key = cursor.take(len(value)) if len(value) <= _MOST_NAME_BYTES else b""
                elif key == b"image":
                    image = _first_bytes(cursor, value.stop)
                elif key == b"label":
                    label = _first_number(cursor, value.stop)
                elif key == b"file_name" and (place := _first_bytes(cursor, value.stop)) is not None:
                    if len(place) > _MOST_NAME_BYTES:
                        raise ValueError(f"a file name of {len(place):,} bytes")
                    name = cursor.take(len(place))
    for what, found in (("image", image), ("label", label), ("file_name", name)):
        if found is None:
            raise ValueError(f"it has no {what!r}, as TFDS writes for imagenet2012")
    assert image is not None and label is not None and name is not None
    if label >= 2**31:
        raise ValueError(f"its label is {label}")
    return ImageRecord(image.start, len(image), label, name)


def _first_bytes(cursor: _Cursor, end: int) -> range | None:
    """Where the first bytes (1) in the list (1) of a Feature are; the cursor stays at their start."""
    for values in _messages(cursor, end, 1):
        for place in _messages(cursor, values.stop, 1):
            return place
    return None


def _first_number(cursor: _Cursor, end: int) -> int | None:
    """The first number (1) in the list (3) of a Feature, written by itself or packed together with others."""
    for values in _messages(cursor, end, 3):
        for number, value in _fields(cursor, values.stop):
            if number == 1:
                return cursor.varint() if isinstance(value, range) else value
    return None
