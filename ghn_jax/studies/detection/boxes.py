"""Boxes: overlaps, anchors, and boxes as offsets from others.

A box is (left, top, right, bottom) in pixels; its right and bottom edges are those of the last pixel, so that a box
around one pixel has an area of one.

Source: Ren et al., Faster R-CNN, NeurIPS 2015, sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.networks.primitives import Array

LARGEST_GROWTH = math.log(1000 / 16)
"""Of a box by its offsets, as a logarithm: an untrained network may ask for any."""


def areas(boxes: Array) -> jax.Array:
    """Of boxes `[..., 4]`, 0 of those that are turned inside out: `[...]`."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def overlaps(first: Array, second: Array) -> jax.Array:
    """Intersection over union of all pairs of boxes `[n, 4]` and `[m, 4]`: `[n, m]`, 0 where both are empty."""
    low = jnp.maximum(first[:, None, :2], second[None, :, :2])
    high = jnp.minimum(first[:, None, 2:], second[None, :, 2:])
    common = areas(jnp.concatenate([low, high], axis=-1))
    union = areas(first)[:, None] + areas(second)[None] - common
    return jnp.where(union > 0, common / jnp.maximum(union, 1e-9), 0)


def encode(boxes: Array, references: Array, weights: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """Boxes as offsets from references.

    Args:
      boxes: `[..., 4]`, not empty.
      references: anchors or proposals `[..., 4]`, not empty.
      weights: factors on the offsets, which make them about as large as each other.

    Returns:
      `[..., 4]`: the centre's offset in widths and heights of the reference, and the logarithms of the growth of both.
    """
    (centre, size), (other, reference) = _centre_and_size(boxes), _centre_and_size(references)
    return jnp.concatenate([(centre - other) / reference, jnp.log(size / reference)], axis=-1) * jnp.asarray(weights)


def decode(offsets: Array, references: Array, weights: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """The boxes `[..., 4]` that `encode` made offsets of; a growth above `LARGEST_GROWTH` is cut to it."""
    offsets = offsets / jnp.asarray(weights)
    other, reference = _centre_and_size(references)
    centre = other + offsets[..., :2] * reference
    size = reference * jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST_GROWTH))
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def clip(boxes: Array, size: Array) -> jax.Array:
    """Boxes `[..., 4]` cut off at the edges of a picture of this height and width."""
    height, width = size[0], size[1]
    return jnp.clip(boxes, 0, jnp.stack([width, height, width, height]))


def make_anchors(
    grid: tuple[int, int], canvas: tuple[int, int], sizes: Sequence[float], ratios: Sequence[float]
) -> np.ndarray:
    """Boxes of all sizes and ratios around the centre of every cell of a grid.

    Args:
      grid: rows and columns of the feature map.
      canvas: height and width of the image, which the grid divides.
      sizes: square roots of their areas, in pixels.
      ratios: of height to width.

    Returns:
      float32 `[rows * columns * ratios * sizes, 4]`, by row, column, ratio and size.
    """
    heights = np.outer(np.sqrt(ratios), sizes).reshape(-1)
    widths = np.outer(1 / np.sqrt(ratios), sizes).reshape(-1)
    shapes = np.stack([-widths, -heights, widths, heights], axis=-1) / 2
    tops, lefts = ((np.arange(cells) + 0.5) * pixels / cells for cells, pixels in zip(grid, canvas, strict=True))
    centres = np.stack(np.meshgrid(lefts, tops), axis=-1)
    return (np.tile(centres, 2)[:, :, None] + shapes).reshape(-1, 4).astype(np.float32)


def _centre_and_size(boxes: Array) -> tuple[jax.Array, jax.Array]:
    """Both as (x, y): `[..., 2]`."""
    low, high = jnp.asarray(boxes[..., :2]), jnp.asarray(boxes[..., 2:])
    return (low + high) / 2, high - low
