"""The MLP baseline: every node is looked at alone (Knyazev et al. 2021, section 5.1)."""

from __future__ import annotations

import jax
import jraph
from flax import linen as nn

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import LinearLayer


class NodeMLP(nn.Module):
    """Two linear layers, each with a ReLU after it: `[G, N, hid]` -> `[G, N, hid]`; the graphs play no part."""

    config: HypernetConfig

    def setup(self):
        self.first = LinearLayer(self.config.hid, self.config.hid)
        self.second = LinearLayer(self.config.hid, self.config.hid)

    def __call__(self, features: jax.Array, graphs: jraph.GraphsTuple) -> jax.Array:
        return nn.relu(self.second(nn.relu(self.first(features))))
