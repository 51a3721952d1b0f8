"""RoIAlign: the features inside of boxes, in a grid of a fixed size.

Source: He et al., Mask R-CNN, ICCV 2017, section 3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ghn_jax.networks.primitives import Array


def roi_align(features: jax.Array, boxes: Array, size: int = 7, samples: int = 2) -> jax.Array:
    """Means of bilinear samples over the cells of a grid in every box.

    The samples of a box lie on a grid, so its features are two matrix products, along rows and along columns: there is
    no gather, whose gradient is slow on accelerators.  Feature (i, j) is the value at the centre of its cell,
    (j + 0.5, i + 0.5).

    Args:
      features: `[H, W, C]`.
      boxes: `[n, 4]`, in cells of the feature map.
      size: rows and columns of the grid.
      samples: in each of both directions of a cell of the grid.

    Returns:
      `[n, size, size, C]`.
    """
    height, width, _ = features.shape
    rows = _weights(boxes[:, 1], boxes[:, 3], height, size, samples)
    columns = _weights(boxes[:, 0], boxes[:, 2], width, size, samples)
    return jnp.einsum("nyh,hwc,nxw->nyxc", rows, features, columns)


def _weights(low: Array, high: Array, length: int, size: int, samples: int) -> jax.Array:
    """What each of `length` features counts for in each cell of the grid, along one axis: `[n, size, length]`.

    Samples beyond the last centres have the value there, those more than a cell outside of the map count as zero.
    """
    places = (jnp.arange(size * samples) + 0.5) / (size * samples)
    places = low[:, None] + places * (high - low)[:, None] - 0.5
    inside = (places >= -1) & (places <= length)
    distances = jnp.abs(jnp.clip(places, 0, length - 1)[..., None] - jnp.arange(length))
    weights = jnp.maximum(1 - distances, 0) * inside[..., None]
    return jnp.mean(weights.reshape(len(places), size, samples, length), axis=2)
