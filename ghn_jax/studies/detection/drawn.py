"""Drawn pictures with known boxes, figures of people among other shapes: to try detectors without a data set."""

from __future__ import annotations

import numpy as np

from ghn_jax.studies.detection.pictures import Picture, picture

MOST_PEOPLE = 3
OTHER_SHAPES = 6
SMALLEST_PERSON, LARGEST_PERSON = 0.3, 0.7
"""Heights of people, as shares of that of the picture."""

MOST_COVERED = 0.3
"""Share of the box of a person that those before may have."""


def draw(count: int, size: int, seed: int) -> list[Picture]:
    """Pictures of one to three people before a background of stripes, discs and blocks.

    A person is a head, a body, two legs and arms, each of a color of its own; the other shapes are of the same colors,
    so that color does not tell them.

    Args:
      count: how many.
      size: height and width, at least 32 pixels.
      seed: of all of them; the first ones do not depend on how many there are.
    """
    return [_picture(f"drawn {number}", size, np.random.default_rng([seed, number])) for number in range(count)]


def _picture(name: str, size: int, rng: np.random.Generator) -> Picture:
    y, x = np.mgrid[:size, :size] + 0.5
    ramp = rng.normal(size=2) @ np.stack([y, x]).reshape(2, -1) / size
    pixels = _color(rng) + 40 * ramp.reshape(size, size, 1) * rng.uniform(0.3, 1, 3)
    for _ in range(rng.integers(OTHER_SHAPES // 2, OTHER_SHAPES + 1)):
        centre, half = rng.uniform(0, size, 2), rng.uniform(0.03, 0.2, 2) * size
        shape = _disc if rng.random() < 0.5 else _block
        pixels[shape(y, x, centre, half)] = _color(rng)
    taken, boxes = np.zeros((size, size), bool), []
    for _ in range(rng.integers(1, MOST_PEOPLE + 1)):
        parts = _person(y, x, size, rng)
        whole = np.any([mask for mask, _ in parts], axis=0)
        rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
        box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        if taken[box[1] : box[3], box[0] : box[2]].mean() > MOST_COVERED:
            continue
        for mask, color in parts:
            pixels[mask] = color
        taken[box[1] : box[3], box[0] : box[2]] = True
        boxes.append(box)
    pixels = pixels + rng.normal(0, 6, pixels.shape)
    return picture(name, np.clip(np.rint(pixels), 0, 255).astype(np.uint8), np.array(boxes))


def _person(y, x, size, rng) -> list[tuple[np.ndarray, np.ndarray]]:
    """The parts of a figure, what they cover and their colors, from back to front."""
    height = rng.uniform(SMALLEST_PERSON, LARGEST_PERSON) * size
    width, stride = height * rng.uniform(0.1, 0.16), height * rng.uniform(0.02, 0.1)
    top, middle = rng.uniform(0, size - height), rng.uniform(width, size - width)
    legs, skin, coat = _color(rng), _color(rng), _color(rng)
    head = 0.09 * height

    def at(share: float) -> float:
        return top + share * height

    parts = []
    for side in (-1, 1):
        parts.append(
            (_block(y, x, (at(0.78), middle + side * (0.5 * width + stride / 2)), (0.22 * height, 0.3 * width)), legs)
        )
        parts.append((_block(y, x, (at(0.4), middle + side * 1.15 * width), (0.17 * height, 0.2 * width)), coat))
    parts.append((_block(y, x, (at(0.4), middle), (0.21 * height, width)), coat))
    parts.append((_disc(y, x, (at(0.09), middle), (head, 0.8 * head)), skin))
    return parts


def _color(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(20, 235, 3)


def _disc(y, x, centre, half) -> np.ndarray:
    return ((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 <= 1


def _block(y, x, centre, half) -> np.ndarray:
    return (np.abs(y - centre[0]) <= half[0]) & (np.abs(x - centre[1]) <= half[1])
