"""The MLP decoder."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import PRECISION, LinearLayer, uniform

# Rows computed at a time: every one of them gathers [2 hid, in, out] weights, a megabyte.
_ROWS = 32


class MLPDecoder(nn.Module):
    """The MLP decoder: one hidden layer, and a last layer with weights of its own for every position."""

    config: HypernetConfig
    centered: ClassVar[bool] = False

    def setup(self):
        config = self.config
        hidden = 2 * config.hid
        channels = (config.max_in, config.max_out)
        positions = config.max_kernel**2
        self.first = LinearLayer(config.hid, hidden)
        self.position_kernel = self.param("position_kernel", uniform(hidden), (positions, hidden, *channels))
        self.position_bias = self.param("position_bias", uniform(hidden), (positions, *channels))
        classes = (config.max_in, config.num_classes)
        self.class_kernel = self.param("class_kernel", uniform(hidden), (hidden, *classes))
        self.class_bias = self.param("class_bias", uniform(hidden), classes)

    def _hidden(self, nodes: jax.Array) -> jax.Array:
        return nn.relu(self.first(nodes))

    def dense(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows of dense tensors: `[R, hid]` embeddings and `[R]` positions -> `[R, in, out]`."""
        return _position_rows(self.position_kernel, self.position_bias, self._hidden(nodes), positions)

    def depthwise(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows of depthwise tensors, only the first input channel: `[R, hid]`, `[R]` -> `[R, out]`."""
        kernel, bias = self.position_kernel[:, :, 0], self.position_bias[:, 0]
        return _position_rows(kernel, bias, self._hidden(nodes), positions)

    def class_weight(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Weights of classification layers: `[K, hid]` -> `[K, in, num_classes]`; positions are zeros."""
        hidden = self._hidden(nodes)
        return jnp.einsum("rk,kic->ric", hidden, self.class_kernel, precision=PRECISION) + self.class_bias


def _position_rows(kernel: jax.Array, bias: jax.Array, hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """`hidden[r] @ kernel[positions[r]] + bias[positions[r]]` for all rows r, in bounded memory."""

    @jax.checkpoint  # the gathered weights are not kept for differentiation
    def row(inputs):
        hidden, position = inputs
        return jnp.tensordot(hidden, kernel[position], axes=1, precision=PRECISION) + bias[position]

    return lax.map(row, (hidden, positions), batch_size=_ROWS)
