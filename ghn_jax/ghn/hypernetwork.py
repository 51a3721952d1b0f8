"""The hypernetwork: from a meta-batch of graphs to decoded rows of parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jraph
import numpy as np
from flax import linen as nn
from jax import core

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.decoders import decoder
from ghn_jax.ghn.decoders.vector import VectorDecoder
from ghn_jax.ghn.embedders import embedder
from ghn_jax.ghn.layers import LAYER_NORM_EPSILON, embedding_init
from ghn_jax.ghn.rows import FORMS, Rows, Table
from ghn_jax.ghn.shape_encoder import ShapeEncoder
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import NODE_TYPES, Graph

Decoded = dict[Table, jax.Array]
"""Decoded rows; `rows.Placement` says which ones belong to a tensor, `fit.fit` makes the tensor of them."""

DECODER_MODULES = ("decoder", "vector_decoder")
"""The submodules of `Hypernetwork` that turn embeddings into rows."""


def init_params(config: HypernetConfig, seed: int) -> Any:
    """Random parameters of `Hypernetwork(config)`, distributed as in the original."""
    key = jax.random.key(seed)
    traced = isinstance(key, core.Tracer)  # by jax.eval_shape, say
    init = Hypernetwork(config).init if traced else _compiled_init(config)
    return init(key, *_smallest(config))["params"]


@functools.cache
def param_shapes(config: HypernetConfig) -> Any:
    """Shapes and types of the parameters of `Hypernetwork(config)`."""

    def init() -> Any:  # the key is traced too: making one would compile two programs
        return Hypernetwork(config).init(jax.random.key(0), *_smallest(config))["params"]

    return jax.eval_shape(init)


def _smallest(config: HypernetConfig) -> tuple[jraph.GraphsTuple, dict[Table, Rows]]:
    """A graph of one node and one row of each kind: parameters do not depend on them."""
    graph = Graph(np.zeros(1, np.int32), np.zeros((1, 4), np.int32), np.zeros((1, 1), np.int32), ())
    graphs = padding.stack([padding.pad(graph, padding.NODE_BUCKETS[0], config.max_distance)])
    return graphs, {table: Rows(np.zeros(1, np.int32), np.zeros(1, np.int32)) for table in Table}


@functools.cache
def _compiled_init(config: HypernetConfig) -> Callable[..., Any]:
    # Under jit, only what the parameters need is computed.  It runs once: CPUs would spend most of the time in LLVM.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
    return jax.jit(Hypernetwork(config).init, compiler_options=options)


class Hypernetwork(nn.Module):
    """A graph hypernetwork (Knyazev et al. 2021, section 2.2).

    `apply({"params": params}, graphs, rows)` decodes rows for a meta-batch (`padding.stack`).
    """

    config: HypernetConfig

    def setup(self):
        config = self.config
        self.node_type = nn.Embed(len(NODE_TYPES), config.hid, embedding_init=embedding_init(config))
        self.shape_encoder = ShapeEncoder(config)
        self.gnn = embedder(config.hypernet)(config)
        if config.layernorm:
            self.norm = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)
        self.decoder = decoder(config.decoder)(config)
        self.vector_decoder = VectorDecoder(config)

    def __call__(self, graphs: jraph.GraphsTuple, rows: dict[Table, Rows]) -> Decoded:
        nodes = self.embed(graphs).reshape(-1, self.config.hid)  # [G * N, hid]
        return {table: self.decode(table, nodes[asked.nodes], asked.positions) for table, asked in rows.items()}

    def embed(self, graphs: jraph.GraphsTuple) -> jax.Array:
        """Embeddings of the nodes, `[G, N, hid]`; those of padding nodes mean nothing."""
        return self._embed(graphs, self.gnn)

    def embed_without_gradient(self, graphs: jraph.GraphsTuple) -> jax.Array:
        """The same, where nothing is to be differentiated."""
        return self._embed(graphs, getattr(self.gnn, "without_gradient", self.gnn))

    def _embed(self, graphs: jraph.GraphsTuple, gnn: Callable[..., jax.Array]) -> jax.Array:
        given = padding.node_features(graphs)
        features = gnn(self.node_type(given["type"]) + self.shape_encoder(given["shape"]), graphs)
        return self.norm(features) if self.config.layernorm else features

    def decode(self, table: Table, nodes: jax.Array, positions: jax.Array | np.ndarray) -> jax.Array:
        """Rows of a table from embeddings `[R, hid]` at positions `[R]`."""
        form = FORMS[table]
        return getattr(getattr(self, form.module), form.method)(nodes, positions)
