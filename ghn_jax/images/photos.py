"""Photographs that stay on disk, encoded and of any size, until a batch needs them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from ghn_jax.errors import extra
from ghn_jax.images.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG")
"""Of photographs.  Pillow knows dozens, some of which start other programs."""

MOST_FILE_BYTES = 1 << 28
MOST_PIXELS = 89_478_485
"""As Pillow's own limit, above which it only warns.  The largest image of ImageNet has 61 million."""

_SMALL = 1 << 20
_MOST_PIXELS_A_BYTE = 10_000
"""Of a complete file: compressed, a byte stands for 1,032 at most, of 8 pixels each in black and white."""

_MOST_SCANS = 50
"""Of the largest image; one that is sent in steps has about ten."""


class Source(Protocol):
    """Encoded images, numbered from 0."""

    def read(self, number: int) -> bytes:
        """The content of an image file.  Raises OSError."""
        ...

    def name(self, number: int) -> str:
        """Where the image is, for people to find it."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """Some of the images of a source, indexed like the first axis of an array of images.

    Attributes:
      source: where they are.
      numbers: int64 [n], which of them.
    """

    source: Source
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: slice | np.ndarray) -> Photos:
        """Some of these images, still on disk."""
        return Photos(self.source, self.numbers[chosen])


PhotoView = Callable[["Image.Image"], "Image.Image"]
"""From an RGB image of any size to one of a given size."""


def render(photos: Photos, size: int, views: Sequence[PhotoView]) -> np.ndarray:
    """Reads and decodes images on all processors: uint8 [n, size, size, 3].

    Args:
      photos: n images.
      size: height and width of what the views return.
      views: n of them, one for each image.

    Raises:
      ImageError: an image that cannot be read or is damaged, naming it.
    """
    pixels = np.empty((len(photos), size, size, 3), np.uint8)

    def one(position: int) -> None:
        pixels[position] = np.asarray(views[position](decode_rgb(photos.source, int(photos.numbers[position]))))

    for _ in _threads().map(one, range(len(photos))):
        pass
    return pixels


def decode_rgb(source: Source, number: int) -> Image.Image:
    """An image in RGB, whatever its colours were.

    Raises:
      ImageError: it cannot be read or is damaged, naming it.
    """
    return _decoded(source, number, _in_rgb)


def decode_numbers(source: Source, number: int) -> np.ndarray:
    """An image of one number a pixel, such as a mask, as int64 [height, width]; of a palette the places in it.

    Raises:
      ImageError: it cannot be read, is damaged or has several numbers a pixel, naming it.
    """
    return _decoded(source, number, _numbers)


_Decoded = TypeVar("_Decoded")


def _decoded(source: Source, number: int, convert: Callable[[Image.Image], _Decoded]) -> _Decoded:
    """`convert` of an image that is not decoded yet, of a size that its file can have."""
    with extra("photos"):
        from PIL import Image, UnidentifiedImageError

    try:
        content = source.read(number)
    except OSError as error:
        raise ImageError(f"{source.name(number)} cannot be read: {error}") from error
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_size(image, content)
        _check_scans(image, content)
        return convert(image)
    except UnidentifiedImageError as error:
        reason, cause = "neither JPEG nor PNG", error
    except Exception as error:  # Pillow raises whatever its readers do, an AssertionError too
        reason, cause = str(error) or type(error).__name__, error
    where = f"{source.name(number)} ({len(content)} bytes)"
    raise ImageError(f"{where} is not an image, or is damaged: {reason}") from cause


def _in_rgb(image: Image.Image) -> Image.Image:
    """The image, which is not decoded yet, in RGB.

    Raises:
      ValueError: its numbers have no colours.
    """
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 1 << 16:
            raise ValueError("values of more than 16 bits")
        return Image.fromarray((values.astype(np.int64) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("fractional values")
    return image.convert("RGB")


def _numbers(image: Image.Image) -> np.ndarray:
    """The numbers of an image that is not decoded yet.

    Raises:
      ValueError: it has several numbers a pixel.
    """
    if len(image.getbands()) != 1 or image.mode == "F":
        raise ValueError(f"pixels of the form {image.mode}, expected one integer a pixel")
    return np.asarray(image).astype(np.int64)


def _check_scans(image: Image.Image, content: bytes) -> None:
    """Checks that a JPEG is not decoded thousands of times: a scan of a few bytes may go over the whole image.

    Raises:
      ValueError: it would be.
    """
    # In numbers of pixels this mark cannot be; in what cameras append, it is there by chance.
    scans = content.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if scans * image.width * image.height > _MOST_SCANS * MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels in {scans:,} scans")


def _check_size(image: Image.Image, content: bytes) -> None:
    size = f"{image.width}x{image.height} pixels"
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise ValueError(f"{size}, expected at most {MOST_PIXELS:,}")
    if pixels > _SMALL + _MOST_PIXELS_A_BYTE * len(content):
        raise ValueError(f"{size} in {len(content):,} bytes, no image has so many")


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    """Pillow decodes and resizes outside Python's lock, so threads are enough."""
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ghn_jax_decode")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # they are not there
