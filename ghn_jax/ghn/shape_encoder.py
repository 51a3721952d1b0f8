"""Embedding of parameter shapes.

A size selects a row of an embedding table through a constant lookup table, so graphs hold raw sizes and do not
depend on the hypernetwork.

Source: Knyazev et al. 2021, appendix B.1.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import embedding_init


@functools.cache
def channel_vocabulary(num_classes: int) -> tuple[int, ...]:
    """Numbers of channels that have an embedding of their own, ascending."""
    return tuple(sorted({1, 3, num_classes, *range(8, 64, 8), *range(64, 4096, 16), *range(4096, 8193, 32)}))


@functools.cache
def spatial_vocabulary(max_kernel: int) -> tuple[int, ...]:
    """Kernel heights and widths that have an embedding of their own, ascending."""
    return tuple(sorted({*range(1, max(12, max_kernel), 2), 14, 16}))


def lookup_table(vocabulary: tuple[int, ...], merged: dict[int, int]) -> np.ndarray:
    """Rows of the embedding table by size, int32 `[largest size + 1]`.

    A size outside the vocabulary takes the row of the nearest size in it, the smaller one in a tie, but those in
    `merged` take the row of the size given there.  Size 0 stands for 'no shape', the row after all others; sizes
    beyond the table take its last entry.
    """
    known = np.array(vocabulary)
    sizes = np.arange(known[-1] + 1)
    for size, replacement in merged.items():
        sizes[size] = replacement
    # Half way between two of them, the smaller one is still the nearest.
    rows = np.searchsorted((known[:-1] + known[1:]) / 2, sizes)
    rows[0] = len(vocabulary)
    return rows.astype(np.int32)


@functools.cache
def channel_table(num_classes: int) -> np.ndarray:
    """Lookup table of channels; 4 to 7 of them, rare in training, count as 8."""
    return lookup_table(channel_vocabulary(num_classes), {size: 8 for size in range(4, 8)})


@functools.cache
def spatial_table(max_kernel: int) -> np.ndarray:
    """Lookup table of kernel heights and widths; 2, never seen in training, counts as 3."""
    return lookup_table(spatial_vocabulary(max_kernel), {2: 3})


class ShapeEncoder(nn.Module):
    """Embeds shapes int32 `[..., 4]` as `(out, in, h, w)`, zeros for none, into `[..., hid]`."""

    config: HypernetConfig

    def setup(self):
        features = self.config.hid // 4
        channels = len(channel_vocabulary(self.config.num_classes)) + 1
        spatial = len(spatial_vocabulary(self.config.max_kernel)) + 1
        self.channels = self.param("channels", embedding_init(self.config), (channels, features))
        self.spatial = self.param("spatial", embedding_init(self.config), (spatial, features))

    def __call__(self, shapes: jax.Array) -> jax.Array:
        channel_rows = _rows(channel_table(self.config.num_classes), shapes[..., :2])
        spatial_rows = _rows(spatial_table(self.config.max_kernel), shapes[..., 2:])
        parts = jnp.concatenate([self.channels[channel_rows], self.spatial[spatial_rows]], axis=-2)
        return parts.reshape(*shapes.shape[:-1], self.config.hid)


def _rows(table: np.ndarray, sizes: jax.Array) -> jax.Array:
    return jnp.asarray(table)[jnp.minimum(sizes, len(table) - 1)]
