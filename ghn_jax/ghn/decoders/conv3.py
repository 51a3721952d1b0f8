"""The decoder of GHN-3."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from ghn_jax.ghn.decoders.conv import ConvDecoder


class CenteredConvDecoder(ConvDecoder):
    """GHN-2's convolutional decoder, which cuts kernels out of the centre of the largest one, not of its corner.

    Kernels that are larger are interpolated (`fit.py`).
    """

    centered: ClassVar[bool] = True

    def class_weight(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Weights of classification layers, from the centre: `[K, hid]` -> `[K, in, num_classes]`."""
        middle = self.config.max_kernel // 2
        return super().class_weight(nodes, jnp.full_like(positions, middle * self.config.max_kernel + middle))
