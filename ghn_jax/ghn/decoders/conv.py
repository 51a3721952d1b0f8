"""The convolutional decoder."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import PRECISION, LinearLayer, small, uniform


class ConvDecoder(nn.Module):
    """The convolutional decoder of GHN-1 and GHN-2."""

    config: HypernetConfig
    centered: ClassVar[bool] = False

    def setup(self):
        config = self.config
        hid, positions = config.hid, config.max_kernel**2
        self.position_kernel = self.param("position_kernel", uniform(hid), (positions, hid, 4 * hid))
        self.position_bias = self.param("position_bias", uniform(hid), (positions, 4 * hid))
        self.conv = LinearLayer(4 * hid, 8 * hid)
        channels = (config.max_in, config.max_out)
        weights, biases = uniform(8 * hid), uniform(8 * hid)
        if config.small_start:
            weights, biases = small(8 * hid), nn.initializers.zeros
        self.kernel = self.param("kernel", weights, (8 * hid, *channels))
        self.bias = self.param("bias", biases, channels)
        self.classes = LinearLayer(config.max_out, config.num_classes, small=config.small_start)

    def _hidden(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """`[R, hid]` embeddings and `[R]` positions -> `[R, 8 hid]`, the input of the last convolution."""
        kernel = self.position_kernel[positions]  # [R, hid, 4 hid]
        hidden = jnp.einsum("rh,rhk->rk", nodes, kernel, precision=PRECISION) + self.position_bias[positions]
        return nn.relu(self.conv(nn.relu(hidden)))

    def dense(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows of dense tensors: `[R, hid]` embeddings and `[R]` positions -> `[R, in, out]`."""
        return jnp.einsum("rk,kio->rio", self._hidden(nodes, positions), self.kernel, precision=PRECISION) + self.bias

    def depthwise(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows of depthwise tensors, only the first input channel: `[R, hid]`, `[R]` -> `[R, out]`."""
        hidden = self._hidden(nodes, positions)
        return jnp.matmul(hidden, self.kernel[:, 0], precision=PRECISION) + self.bias[0]

    def class_weight(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Weights of classification layers: `[K, hid]` -> `[K, in, num_classes]`; positions are zeros."""
        rows = self.dense(nodes, positions)
        return self.classes(nn.relu(rows))
