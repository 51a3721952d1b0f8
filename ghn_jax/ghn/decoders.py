"""Decoders: from node embeddings to rows of parameters.

Both decoders work position by position: what they predict at kernel position (y, x) depends on the node's embedding
and on (y, x) alone.  So kernels of all sizes are decoded together, as rows of one (node, position) pair each, and
nothing is decoded that is not used.  The original decodes groups of equal kernel size instead, in slices that for
some numbers of input channels (20, for example) mix up the axes; here the slice is always the leading one.
A position is `y * S + x` with S the side of the largest kernel; rows come out as `[in, out]`, the last axes of a
kernel in JAX layout.

Source: Knyazev et al. 2021, appendix B.1; Zhang et al., ICLR 2019.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import MLP, PRECISION, Linear, uniform

# Rows of the MLP decoder computed at a time: every one of them gathers [2 hid, in, out] weights, a megabyte.
_MLP_ROWS = 32


class ConvDecoder(nn.Module):
    """The convolutional decoder of both published GHNs."""

    config: HypernetConfig

    def setup(self):
        config = self.config
        hid, positions = config.hid, config.max_kernel**2
        self.position_kernel = self.param("position_kernel", uniform(hid), (positions, hid, 4 * hid))
        self.position_bias = self.param("position_bias", uniform(hid), (positions, 4 * hid))
        self.conv = Linear(4 * hid, 8 * hid)
        channels = (config.max_in, config.max_out)
        self.kernel = self.param("kernel", uniform(8 * hid), (8 * hid, *channels))
        self.bias = self.param("bias", uniform(8 * hid), channels)
        self.classes = Linear(config.max_out, config.num_classes)

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

    def class_weight(self, nodes: jax.Array) -> jax.Array:
        """Weights of classification layers: `[K, hid]` -> `[K, in, num_classes]`."""
        rows = self.dense(nodes, jnp.zeros(len(nodes), jnp.int32))
        return self.classes(nn.relu(rows))


class MLPDecoder(nn.Module):
    """The MLP decoder: one hidden layer, and a last layer with weights of its own for every position."""

    config: HypernetConfig

    def setup(self):
        config = self.config
        hidden = 2 * config.hid
        channels = (config.max_in, config.max_out)
        positions = config.max_kernel**2
        self.first = Linear(config.hid, hidden)
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

    def class_weight(self, nodes: jax.Array) -> jax.Array:
        """Weights of classification layers: `[K, hid]` -> `[K, in, num_classes]`."""
        hidden = self._hidden(nodes)
        return jnp.einsum("rk,kic->ric", hidden, self.class_kernel, precision=PRECISION) + self.class_bias


def _position_rows(kernel: jax.Array, bias: jax.Array, hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """`hidden[r] @ kernel[positions[r]] + bias[positions[r]]` for all rows r, in bounded memory."""

    @jax.checkpoint  # the gathered weights are not kept for differentiation
    def row(inputs):
        hidden, position = inputs
        return jnp.tensordot(hidden, kernel[position], axes=1, precision=PRECISION) + bias[position]

    return lax.map(row, (hidden, positions), batch_size=_MLP_ROWS)


class VectorDecoder(nn.Module):
    """The decoder of one-dimensional tensors and of classification biases."""

    config: HypernetConfig

    def setup(self):
        config = self.config
        self.channels = max(config.max_out, config.max_in)
        self.mlp = MLP(config.hid, 2 * config.hid, 2 * self.channels)
        self.classes = Linear(self.channels, config.num_classes)

    def vector(self, nodes: jax.Array) -> jax.Array:
        """Weights (row 0) and biases (row 1) of channels: `[V, hid]` -> `[V, 2, channels]`."""
        return self.mlp(nodes).reshape(-1, 2, self.channels)

    def class_bias(self, nodes: jax.Array) -> jax.Array:
        """Biases of classification layers: `[K, hid]` -> `[K, num_classes]`."""
        return self.classes(nn.relu(self.vector(nodes)[:, 1]))
