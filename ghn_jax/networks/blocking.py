"""Batches cut into blocks that stay in a processor's cache while several operations go over them."""

from __future__ import annotations

import jax

from ghn_jax.networks.platforms import platform

_BLOCK_BYTES = 1 << 20


def blocks(arrays: tuple[jax.Array, ...], bytes_per_image: int) -> tuple[jax.Array, ...]:
    """`[B, ...]` arrays as `[blocks, B / blocks, ...]`, of blocks that take about a megabyte each.

    On other backends than CPUs, which have no such cache to fill, there is one block.
    """
    batch = len(arrays[0])
    images = batch
    if platform() == "cpu":
        images = min(max(_BLOCK_BYTES // bytes_per_image, 1), batch)
        while batch % images:
            images -= 1
    return tuple(array.reshape(batch // images, images, *array.shape[1:]) for array in arrays)
