"""The decoder of vectors, which all hypernetworks share."""

from __future__ import annotations

import jax
from flax import linen as nn

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import MLP, LinearLayer


class VectorDecoder(nn.Module):
    """The decoder of one-dimensional tensors and of classification biases."""

    config: HypernetConfig

    def setup(self):
        config = self.config
        self.channels = max(config.max_out, config.max_in)
        self.mlp = MLP(config.hid, 2 * config.hid, 2 * self.channels, small=config.small_start)
        self.classes = LinearLayer(self.channels, config.num_classes)

    def vector(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Weights (row 0) and biases (row 1) of channels: `[V, hid]` -> `[V, 2, channels]`; positions do not count."""
        return self.mlp(nodes).reshape(-1, 2, self.channels)

    def class_bias(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Biases of classification layers: `[K, hid]` -> `[K, num_classes]`; positions do not count."""
        return self.classes(nn.relu(self.vector(nodes, positions)[:, 1]))
