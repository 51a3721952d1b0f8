"""The hypernetwork: from a meta-batch of graphs to decoded rows of parameters."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import jax
import jraph
import numpy as np
from flax import linen as nn

from ghn_jax.ghn.config import KINDS, HypernetConfig
from ghn_jax.ghn.decoders import ConvDecoder, MLPDecoder, VectorDecoder
from ghn_jax.ghn.rows import Requests, Sizes, pad_requests, request
from ghn_jax.ghn.shape_encoder import ShapeEncoder
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import NODE_TYPES, Graph

LAYER_NORM_EPSILON = 1e-5


class Decoded(NamedTuple):
    """Decoded rows; `requests.Placement` says which ones belong to a tensor, `fit.fit` makes the tensor of them.

    Attributes:
      dense: `[R, in, out]`, one position of a kernel each.
      depthwise: `[D, out]`.
      vector: `[V, 2, channels]`, a norm weight and a bias.
      class_weight: `[K, in, num_classes]`.
      class_bias: `[K, num_classes]`.
    """

    dense: jax.Array
    depthwise: jax.Array
    vector: jax.Array
    class_weight: jax.Array
    class_bias: jax.Array


DECODERS = ("decoder", "vector_decoder")
"""The submodules of `Hypernetwork` that turn embeddings into rows."""


def init_params(config: HypernetConfig, seed: int) -> Any:
    """Random parameters of `Hypernetwork(config)`, distributed as in the original."""
    nodes = padding.NODE_BUCKETS[0]
    graph = Graph(np.zeros(1, np.int32), np.zeros((1, 4), np.int32), np.zeros((1, 1), np.int32), ())
    graphs = padding.stack([padding.pad(graph, nodes, config.max_distance)])
    requests, _ = request([graph], nodes, config)
    # Under jit, only what the parameters need is computed.
    init = jax.jit(Hypernetwork(config).init)
    return init(jax.random.key(seed), graphs, pad_requests(requests, Sizes(1, 1, 1, 1)))["params"]


@functools.cache
def param_shapes(config: HypernetConfig) -> Any:
    """Shapes and types of the parameters of `Hypernetwork(config)`."""
    return jax.eval_shape(lambda: init_params(config, 0))


def kind(name: str) -> type[nn.Module]:
    """The module called `name` in `config.KINDS`."""
    file, _, module = KINDS[name].partition(":")
    return getattr(importlib.import_module(file), module)


class Hypernetwork(nn.Module):
    """A graph hypernetwork (Knyazev et al. 2021, section 2.2).

    `apply({"params": params}, graphs, requests)` decodes rows for a meta-batch (`padding.stack`).
    """

    config: HypernetConfig

    def setup(self):
        config = self.config
        self.node_type = nn.Embed(len(NODE_TYPES), config.hid, embedding_init=nn.initializers.normal(1.0))
        self.shape_encoder = ShapeEncoder(config)
        self.gnn = kind(config.hypernet)(config)
        if config.layernorm:
            self.norm = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)
        self.decoder = ConvDecoder(config) if config.decoder == "conv" else MLPDecoder(config)
        self.vector_decoder = VectorDecoder(config)

    def __call__(self, graphs: jraph.GraphsTuple, requests: Requests) -> Decoded:
        nodes = self.embed(graphs).reshape(-1, self.config.hid)  # [G * N, hid]
        return Decoded(
            dense=self.dense(nodes[requests.dense_node], requests.dense_position),
            depthwise=self.depthwise(nodes[requests.depthwise_node], requests.depthwise_position),
            vector=self.vector(nodes[requests.vector_node]),
            class_weight=self.class_weight(nodes[requests.class_weight_node]),
            class_bias=self.class_bias(nodes[requests.class_bias_node]),
        )

    def embed(self, graphs: jraph.GraphsTuple) -> jax.Array:
        """Embeddings of the nodes, `[G, N, hid]`; those of padding nodes mean nothing."""
        features = self.node_type(graphs.nodes["type"]) + self.shape_encoder(graphs.nodes["shape"])
        features = self.gnn(features, graphs)
        return self.norm(features) if self.config.layernorm else features

    def dense(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """`[R, hid]` embeddings at positions `[R]` -> `[R, in, out]`."""
        return self.decoder.dense(nodes, positions)

    def depthwise(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """`[D, hid]` embeddings at positions `[D]` -> `[D, out]`."""
        return self.decoder.depthwise(nodes, positions)

    def vector(self, nodes: jax.Array) -> jax.Array:
        """`[V, hid]` -> `[V, 2, channels]`."""
        return self.vector_decoder.vector(nodes)

    def class_weight(self, nodes: jax.Array) -> jax.Array:
        """`[K, hid]` -> `[K, in, num_classes]`."""
        return self.decoder.class_weight(nodes)

    def class_bias(self, nodes: jax.Array) -> jax.Array:
        """`[K, hid]` -> `[K, num_classes]`."""
        return self.vector_decoder.class_bias(nodes)
