"""Decoding as many rows as a meta-batch asks for, in arrays with room for many more.

Compiled code has fixed sizes, but rows of padding should cost nothing: rows are decoded in chunks by a loop that ends
with the last chunk in use, and so is the gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.decoders import ConvDecoder, MLPDecoder, VectorDecoder
from ghn_jax.ghn.hypernetwork import Decoded
from ghn_jax.ghn.requests import Requests

CHUNK = 128
"""Rows decoded at a time; the numbers of rows that requests are padded to are multiples of it."""


def decode(config: HypernetConfig, params: Any, nodes: jax.Array, requests: Requests, rows: jax.Array) -> Decoded:
    """What `Hypernetwork.__call__` makes of node embeddings, at a cost that follows the rows in use.

    Args:
      config: of the hypernetwork.
      params: its parameters.
      nodes: `[G * N, hid]`, embeddings of the nodes.
      requests: padded; dense and depthwise rows to multiples of `CHUNK`.
      rows: int32 `[2]`, numbers of dense and of depthwise rows in use.  Those after them are zeros, or copies of
        arbitrary ones up to the end of a chunk; their gradient must be zero.
    """
    decoder, vector_decoder = _decoder(config), VectorDecoder(config)
    vectors = {"params": params["vector_decoder"]}
    return Decoded(
        dense=_rows(config, "dense", params["decoder"], nodes, requests.dense_node, requests.dense_position, rows[0]),
        depthwise=_rows(
            config, "depthwise", params["decoder"], nodes, requests.depthwise_node, requests.depthwise_position, rows[1]
        ),
        vector=vector_decoder.apply(vectors, nodes[requests.vector_node], method="vector"),
        class_weight=decoder.apply(
            {"params": params["decoder"]}, nodes[requests.class_weight_node], method="class_weight"
        ),
        class_bias=vector_decoder.apply(vectors, nodes[requests.class_bias_node], method="class_bias"),
    )


def _decoder(config: HypernetConfig) -> ConvDecoder | MLPDecoder:
    # The submodules of `Hypernetwork` by the names of its attributes.
    return ConvDecoder(config) if config.decoder == "conv" else MLPDecoder(config)


def _chunk(config: HypernetConfig, method: str, params: Any, features: jax.Array, positions: jax.Array) -> jax.Array:
    return _decoder(config).apply({"params": params}, features, positions, method=method)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rows(config, method, params, nodes, index, positions, count):
    def body(state):
        start, rows = state
        chosen, where = _at(index, start), _at(positions, start)
        chunk = _chunk(config, method, params, nodes[chosen], where)
        return start + CHUNK, lax.dynamic_update_slice_in_dim(rows, chunk, start, axis=0)

    shape = (len(index), config.max_in, config.max_out) if method == "dense" else (len(index), config.max_out)
    start = (jnp.zeros((), jnp.int32), jnp.zeros(shape, nodes.dtype))
    return lax.while_loop(lambda state: state[0] < count, body, start)[1]


def _rows_forward(config, method, params, nodes, index, positions, count):
    return _rows(config, method, params, nodes, index, positions, count), (params, nodes, index, positions, count)


def _rows_backward(config, method, residuals, rows_bar):
    params, nodes, index, positions, count = residuals

    def body(state):
        start, params_bar, nodes_bar = state
        chosen, where = _at(index, start), _at(positions, start)
        bar = _at(rows_bar, start)
        used = (start + jnp.arange(CHUNK) < count).reshape(-1, *[1] * (bar.ndim - 1))
        _, pull_back = jax.vjp(
            lambda params, features: _chunk(config, method, params, features, where), params, nodes[chosen]
        )
        chunk_bar, features_bar = pull_back(jnp.where(used, bar, 0))
        params_bar = jax.tree.map(jnp.add, params_bar, chunk_bar)
        return start + CHUNK, params_bar, nodes_bar.at[chosen].add(features_bar)

    start = (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), jnp.zeros_like(nodes))
    _, params_bar, nodes_bar = lax.while_loop(lambda state: state[0] < count, body, start)
    return params_bar, nodes_bar, None, None, None


_rows.defvjp(_rows_forward, _rows_backward)


def _at(values: jax.Array, start: jax.Array) -> jax.Array:
    return lax.dynamic_slice_in_dim(values, start, CHUNK, allow_negative_indices=False)
