"""The part of a photograph that a network sees: a random one in training, the centre in evaluation.

Sources: Szegedy et al. 2015, section 6 (random crops by area and aspect ratio); the published code of the paper for
the strength of the changes of colour, which are those of torchvision on Pillow images.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Flag, Real, Several
from ghn_jax.images.errors import ImageError
from ghn_jax.images.photos import Photos, render

if TYPE_CHECKING:
    from PIL import Image

ATTEMPTS = 10
"""Random crops that are drawn before the largest central one is taken."""

SHORT_SIDE = 256 / 224
"""Short side of an evaluated image over the side of the centre that is cut out of it."""

LONGEST = 8
"""Long side over short side of what is scaled; far more than any photograph of ImageNet has."""


@dataclasses.dataclass(frozen=True)
class PhotoAugmentation:
    """What is done to training photographs: a random crop, a random mirroring, random changes of colour.

    Attributes:
      area: smallest and largest share of the image's area that a crop takes.
      ratio: smallest and largest width of a crop over its height.
      flip: mirror left and right with probability 1/2.
      brightness, contrast, saturation: a factor from 1 - value to 1 + value for each.
      hue: a turn of at most this share of the colour circle, either way.

    Raises:
      ImageError: a range or a strength that makes no sense.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.2

    def __post_init__(self):
        def require(holds: bool, field: str, expected: str) -> None:
            if not holds:
                raise ImageError(f"PhotoAugmentation.{field}={getattr(self, field)!r}: expected {expected}")

        strength = Real(0, 1)
        fields.check(
            self, ImageError,
            area=Several(Real(0, 1, with_low=False), 2, 2), ratio=Several(Real(0, 1000, with_low=False), 2, 2),
            flip=Flag(), brightness=strength, contrast=strength, saturation=strength, hue=Real(0, 0.5),
        )  # fmt: skip
        require(self.area[0] <= self.area[1], "area", "two shares of the area, in order")
        require(self.ratio[0] <= self.ratio[1], "ratio", "two positive numbers, in order")


def random_views(photos: Photos, augmentation: PhotoAugmentation, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random view of every image: uint8 [n, size, size, 3].

    Every image has a generator of its own, so the result does not depend on the order in which they are decoded.
    """
    generators = rng.spawn(len(photos))
    return render(photos, size, [functools.partial(random_view, augmentation, size, rng) for rng in generators])


def centre_views(photos: Photos, size: int) -> np.ndarray:
    """The centre of every image: uint8 [n, size, size, 3]."""
    return render(photos, size, [functools.partial(centre_view, size)] * len(photos))


def random_view(
    augmentation: PhotoAugmentation, size: int, rng: np.random.Generator, image: Image.Image
) -> Image.Image:
    """A random crop of an RGB image, scaled to `size` bilinearly, perhaps mirrored, its colours changed."""
    from PIL import Image

    left, top, width, height = random_box(*image.size, augmentation, rng)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < (0.5 if augmentation.flip else 0.0):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return change_colours(image, augmentation, rng)


def centre_view(size: int, image: Image.Image) -> Image.Image:
    """The central `size` x `size` pixels of an RGB image whose short side is scaled to 256/224 of that, bilinearly."""
    from PIL import Image

    short = round(size * SHORT_SIDE)
    width, height = image.size
    most = LONGEST * min(width, height)
    if max(width, height) > most:  # no more of a strip than is looked at is enlarged
        box_width, box_height = min(width, most), min(height, most)
        left, top = (width - box_width) // 2, (height - box_height) // 2
        image = image.crop((left, top, left + box_width, top + box_height))
        width, height = image.size
    scaled = (short, short * height // width) if width <= height else (short * width // height, short)
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.crop((left, top, left + size, top + size))


def random_box(
    width: int, height: int, augmentation: PhotoAugmentation, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a crop whose area is uniform and whose aspect ratio is log-uniform.

    Crops that do not fit into the image are drawn again; after `ATTEMPTS` it is the largest central crop whose aspect
    ratio is allowed.
    """
    areas = width * height * rng.uniform(*augmentation.area, ATTEMPTS)
    lowest, highest = np.log(augmentation.ratio)
    ratios = np.exp(rng.uniform(lowest, highest, ATTEMPTS))
    widths, heights = np.rint(np.sqrt([areas * ratios, areas / ratios])).astype(int)
    fitting = np.flatnonzero((widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height))
    if fitting.size:
        w, h = int(widths[fitting[0]]), int(heights[fitting[0]])
        return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    narrowest, widest = augmentation.ratio
    w = min(width, max(1, round(height * widest)))
    h = min(height, max(1, round(width / narrowest)))
    return (width - w) // 2, (height - h) // 2, w, h


def change_colours(image: Image.Image, augmentation: PhotoAugmentation, rng: np.random.Generator) -> Image.Image:
    """Random brightness, contrast, saturation and hue, in a random order."""
    from PIL import ImageEnhance

    low = 1 - np.array([augmentation.brightness, augmentation.contrast, augmentation.saturation])
    factors = rng.uniform(low, 2 - low)
    turn = rng.uniform(-augmentation.hue, augmentation.hue)
    for change in rng.permutation(4):
        match change:
            case 0:
                image = ImageEnhance.Brightness(image).enhance(factors[0])
            case 1:
                image = ImageEnhance.Contrast(image).enhance(factors[1])
            case 2:
                image = ImageEnhance.Color(image).enhance(factors[2])
            case 3 if augmentation.hue:  # a turn by nothing still rounds
                image = turn_hue(image, turn)
    return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """All hues moved by `turn`, a share of the colour circle, in steps of 1/256."""
    from PIL import Image

    steps = math.trunc(turn * 255)  # as torchvision rounds
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
