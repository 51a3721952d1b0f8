"""Arrays in IDX files, the format of MNIST and Fashion-MNIST.

Two zero bytes, the type of the elements (8: uint8), the number of axes, each axis as a big-endian uint32,
then the elements.  Source: http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ghn_jax.checks import files
from ghn_jax.images.errors import ImageError

_MOST_BYTES = 1 << 28
"""Of a file, and of what it unpacks to; five times as many as Fashion-MNIST has."""

_GZIP = b"\x1f\x8b"


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array with `axes` axes in an IDX file, which may be gzipped.

    Raises:
      ImageError: the file is no such array, or not of the size that it says itself.
    """
    try:
        content = files.read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    if content.startswith(_GZIP):
        try:
            content = _unpacked(content, axes)
        except (EOFError, zlib.error) as error:
            raise ImageError(f"{path}: damaged gzip file of {len(content)} bytes ({error})") from error
    start = 4 + 4 * axes
    magic = bytes([0, 0, 8, axes])
    if content[:4] != magic or len(content) < start:
        raise ImageError(
            f"{path}: {len(content)} bytes that begin with {content[:4].hex() or 'nothing'}; expected an IDX "
            f"file of uint8 with {axes} axes, which begins with {magic.hex()} and has at least {start} bytes"
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    size = start + math.prod(shape)
    if len(content) != size:
        raise ImageError(f"{path}: found {len(content)} bytes (uncompressed), expected {size} for shape {list(shape)}")
    if 0 in shape:  # the others may be of any size
        raise ImageError(f"{path}: nothing is in an array of shape {list(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(packed: bytes, axes: int) -> bytes:
    """What was gzipped, but no more than the array has by its own header, and a byte that should not be there.

    A file of one piece is expected: there could be millions of empty ones.

    Raises:
      EOFError, zlib.error: it is damaged.
    """
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    start = unpacker.decompress(packed, 4 + 4 * axes)
    shape = struct.unpack_from(f">{axes}I", start, 4) if len(start) == 4 + 4 * axes else ()
    content = start + unpacker.decompress(unpacker.unconsumed_tail, min(math.prod(shape), _MOST_BYTES) + 1)
    if len(content) <= 4 + 4 * axes + math.prod(shape) and not unpacker.eof:
        raise EOFError("it was cut")
    if unpacker.unused_data.strip(b"\0"):
        raise EOFError("more follows after its end")
    return content
