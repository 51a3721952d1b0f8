"""Arrays in IDX files, the format of MNIST and Fashion-MNIST.

Two zero bytes, the type of the elements (8: uint8), the number of axes, each axis as a big-endian uint32,
then the elements.  Source: http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import io
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
            with gzip.open(io.BytesIO(content)) as unpacked:
                # No more than the array has by its own header, and a byte that should not be there.
                start = unpacked.read(4 + 4 * axes)
                shape = struct.unpack_from(f">{axes}I", start, 4) if len(start) == 4 + 4 * axes else ()
                content = start + unpacked.read(min(math.prod(shape), _MOST_BYTES) + 1)
        except (OSError, EOFError, zlib.error) as error:
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
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
