"""The Graphormer of GHN-3: a transformer over the nodes, whose attention knows the distances between them.

The initial features are those of GHN-2, and every node adds embeddings of its numbers of in-edges and out-edges and of
its distance from the input.  Attention between nodes i and j gets a bias made of the shortest paths from i to j and
from j to i, one a head and the same in all layers:

    logits_ij = q_i k_j / sqrt(hid / heads) + MLP([E(d_ij), E(d_ji)])

Nodes are in topological order, so one of the two distances is 0, and the pair is one signed number.  The MLP is
applied once to each of these numbers, and pairs of nodes look their biases up; the original applies it to all N^2
pairs.

Source: Knyazev et al. 2023, "Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models?", section 3;
Ying et al. 2021, "Do Transformers Really Perform Bad for Graph Representation?", section 3.1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph
from flax import linen as nn

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import LAYER_NORM_EPSILON, MLP, LinearLayer, embedding_init, product, uniform
from ghn_jax.graphs import padding

MAX_DEGREE = 100
"""In-edges and out-edges that are told apart; a node with more counts as one with these."""

MAX_INPUT_DISTANCE = 1000
"""Distances from the input that are told apart."""

MAX_EDGE_DISTANCE = 254
"""Distances between two nodes that are told apart."""

# Rows of the table of edges: distance d has row d + 2, no path that of 0, and rows 0 and 1 are never looked up.
_EDGE_OFFSET = 2

EDGE_ROWS = MAX_EDGE_DISTANCE + _EDGE_OFFSET + 1
"""Of the table of edges."""

# What logits of padding are set to: small enough that softmax makes it 0, and a number of 16 bits too.
_MASKED = -(2.0**15)


class Graphormer(nn.Module):
    """The network over a meta-batch of padded graphs: `[G, N, hid]` -> `[G, N, hid]`."""

    config: HypernetConfig

    def setup(self):
        config = self.config
        hid, init = config.hid, embedding_init(config)
        self.in_degree = self.param("in_degree", init, (MAX_DEGREE + 1, hid))
        self.out_degree = self.param("out_degree", init, (MAX_DEGREE + 1, hid))
        self.input_distance = self.param("input_distance", init, (MAX_INPUT_DISTANCE + 1, hid))
        self.edge = self.param("edge", init, (EDGE_ROWS, hid))
        self.edge_bias = MLP(2 * hid, hid, config.heads, dtype=config.embedder_dtype)
        self.layers = [Layer(config) for _ in range(config.layers)]

    def __call__(self, features: jax.Array, graphs: jraph.GraphsTuple) -> jax.Array:
        distances = padding.node_features(graphs)["distances"]  # [G, N, N]
        real = jnp.arange(distances.shape[-1]) < graphs.n_node[:, :1]  # [G, N]
        features = jnp.where(real[..., None], features + self._structure(distances), 0)
        bias = self._bias(distances)
        for layer in self.layers:
            features = layer(features, bias, real)
        return features

    def _structure(self, distances: jax.Array) -> jax.Array:
        """What nodes add to their features: `[G, N, N]` -> `[G, N, hid]`."""
        edges = distances == 1
        received = jnp.minimum(jnp.sum(edges, axis=1), MAX_DEGREE)
        sent = jnp.minimum(jnp.sum(edges, axis=2), MAX_DEGREE)
        from_input = jnp.minimum(distances[:, 0], MAX_INPUT_DISTANCE)
        return self.in_degree[received] + self.out_degree[sent] + self.input_distance[from_input]

    def _bias(self, distances: jax.Array) -> jax.Array:
        """Biases of attention: `[G, N, N]` -> `[G, heads, N, N]`."""
        longest = MAX_EDGE_DISTANCE
        signed = jnp.arange(-longest, longest + 1)
        forward, backward = jnp.maximum(signed, 0), jnp.maximum(-signed, 0)
        pairs = jnp.concatenate([self.edge[forward + _EDGE_OFFSET], self.edge[backward + _EDGE_OFFSET]], axis=-1)
        table = self.edge_bias(pairs)  # [2 longest + 1, heads]
        between = jnp.minimum(distances, longest)
        between = between - jnp.swapaxes(between, 1, 2)
        return jnp.swapaxes(table.T[:, between + longest], 0, 1)


class Layer(nn.Module):
    """A layer of the transformer, with normalisation before attention and before the MLP."""

    config: HypernetConfig

    def setup(self):
        config = self.config
        hid, dtype = config.hid, config.embedder_dtype
        self.attention_norm = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)
        self.qkv = self.param("qkv", uniform(hid), (hid, 3 * hid))
        self.out = LinearLayer(hid, hid, dtype=dtype)
        self.mlp_norm = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)
        self.first = LinearLayer(hid, 4 * hid, dtype=dtype)
        self.second = LinearLayer(4 * hid, hid, dtype=dtype)

    def __call__(self, features: jax.Array, bias: jax.Array, real: jax.Array) -> jax.Array:
        """Features `[G, N, hid]`, biases `[G, heads, N, N]`, and which nodes are no padding, `[G, N]`."""
        features = features + self.out(self._attend(self.attention_norm(features), bias, real))
        return features + self.second(nn.gelu(self.first(self.mlp_norm(features)), approximate=False))

    def _attend(self, features: jax.Array, bias: jax.Array, real: jax.Array) -> jax.Array:
        heads, dtype = self.config.heads, self.config.embedder_dtype
        graphs, nodes, hid = features.shape
        qkv = product("gnh,ho->gno", features, self.qkv, dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(graphs, nodes, 3, heads, hid // heads), 2, 0)
        logits = product("gihc,gjhc->ghij", q, k, dtype) * (hid // heads) ** -0.5 + bias
        weights = nn.softmax(jnp.where(real[:, None, None, :], logits, _MASKED))
        return product("ghij,gjhc->gihc", weights, v, dtype).reshape(graphs, nodes, hid)
