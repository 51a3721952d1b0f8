"""Pictures with the boxes of objects, checked; and many of them as arrays of one size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Whole
from ghn_jax.errors import extra
from ghn_jax.images import ImageError
from ghn_jax.studies.train_networks import StudyError

UNIT = 32
"""Height and width of a canvas are multiples of it, so that most networks divide it evenly."""


class Picture(NamedTuple):
    """A picture with the objects in it; `picture` checks it.

    Attributes:
      name: what it is called in messages.
      pixels: uint8 `[height, width, 3]`.
      boxes: float32 `[n, 4]`, (left, top, right, bottom) in pixels, at least one.
    """

    name: str
    pixels: np.ndarray
    boxes: np.ndarray


def picture(name: str, pixels: np.ndarray, boxes: np.ndarray) -> Picture:
    """A picture whose boxes fit.

    Raises:
      ImageError: naming the picture and the box that is empty or not inside of it; or there is none.
    """
    height, width = pixels.shape[:2]
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    if not len(boxes):
        raise ImageError(f"{name} has no box: expected at least one object")
    for number, box in enumerate(boxes, start=1):
        left, top, right, bottom = box.tolist()
        shown = f"box {number} of {name}, ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        if not (0 <= left and right <= width and 0 <= top and bottom <= height):
            raise ImageError(f"{shown}: expected one inside of the picture of {width}x{height} pixels")
        if not (left < right and top < bottom):
            raise ImageError(f"{shown}: it is empty, expected left < right and top < bottom")
    return Picture(name, pixels, boxes)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How pictures are scaled: the shorter side to `shorter`, but the longer one to at most `longer` pixels.

    Raises:
      StudyError: naming the field, its value and what was expected.

    Source: torchvision's detectors (800 and 1333).
    """

    shorter: int = 800
    longer: int = 1333

    def __post_init__(self):
        fields.check(self, StudyError, shorter=Whole(1, 1 << 13), longer=Whole(1, 1 << 13))
        if self.shorter > self.longer:
            raise StudyError(f"Scaling.shorter={self.shorter}: expected at most longer={self.longer}")

    def factor(self, height: int, width: int) -> float:
        """What a picture of this size is scaled by."""
        return min(self.shorter / min(height, width), self.longer / max(height, width))


class Scenes(NamedTuple):
    """Pictures, scaled and padded on the right and below to one size; boxes filled up to one number.

    Attributes:
      pixels: uint8 `[n, H, W, 3]`.
      sizes: float32 `[n, 2]`, height and width of the picture in it.
      boxes: float32 `[n, m, 4]`.
      present: bool `[n, m]`, which boxes there are.
      factors: float32 `[n, 2]`, what heights and widths were scaled by.
    """

    pixels: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    present: np.ndarray
    factors: np.ndarray

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of all."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def chosen(self, indices: np.ndarray) -> Scenes:
        """Some of them."""
        return Scenes(*(values[indices] for values in self))

    def mirrored(self, which: np.ndarray) -> Scenes:
        """Those of `which`, bool `[n]`, with left and right changed, padding still on the right."""
        pixels, boxes = self.pixels.copy(), self.boxes.copy()
        for index in np.flatnonzero(which):
            width = int(self.sizes[index, 1])
            pixels[index, :, :width] = self.pixels[index, :, :width][:, ::-1]
            boxes[index, :, 0::2] = width - self.boxes[index, :, 2::-2]
        return self._replace(pixels=pixels, boxes=np.where(self.present[..., None], boxes, 0))


def scenes(pictures: Sequence[Picture], scaling: Scaling) -> Scenes:
    """Pictures as arrays of the size that holds all of them.

    Raises:
      MissingExtraError: pictures are to be scaled, and there is no Pillow.
      StudyError: there is no picture.
    """
    if not pictures:
        raise StudyError("there are no pictures: expected at least one")
    scaled = [_scaled(one.pixels, scaling.factor(*one.pixels.shape[:2])) for one in pictures]
    sizes = np.array([pixels.shape[:2] for pixels in scaled], np.float32)
    factors = sizes / np.array([one.pixels.shape[:2] for one in pictures], np.float32)
    height, width = (UNIT * math.ceil(max(pixels.shape[axis] for pixels in scaled) / UNIT) for axis in (0, 1))
    most = max(len(one.boxes) for one in pictures)
    found = Scenes(
        np.zeros((len(pictures), height, width, 3), np.uint8),
        sizes,
        np.zeros((len(pictures), most, 4), np.float32),
        np.zeros((len(pictures), most), bool),
        factors,
    )
    for index, (one, pixels) in enumerate(zip(pictures, scaled, strict=True)):
        found.pixels[index, : pixels.shape[0], : pixels.shape[1]] = pixels
        found.boxes[index, : len(one.boxes)] = one.boxes * np.tile(factors[index, ::-1], 2)
        found.present[index, : len(one.boxes)] = True
    return found


def _scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(1, math.floor(side * factor)) for side in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    with extra("detection"):
        from PIL import Image

    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)
