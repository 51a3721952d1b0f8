"""The gated graph neural network: one walk through the graph's nodes forward, then one backward.

At every node i, in order,

    m_i = sum over in-edges j of MLP(h_j) + sum over all edges j, real and virtual, of MLP_ve(h_j) / d_ij
    h_i = GRU(m_i, h_i)

and later nodes see the new h_i; on the way back, out-edges count.  Every MLP is applied to a node once, just after
its update: all nodes whose messages reach i come before it, so the outputs can be kept.  The original applies them
once an edge.

Source: Knyazev et al. 2021, equations 3 and 4; Zhang et al., ICLR 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
from flax import linen as nn
from jax import lax

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import MLP, PRECISION, Affine, Linear

# Steps of the walk that are compiled together: fewer rounds of the loop for somewhat more code.
_UNROLL = 4


class Weights(NamedTuple):
    """Weights of the network; `message_ve` is None without virtual edges."""

    message: tuple[Affine, Affine]
    message_ve: tuple[Affine, Affine] | None
    gru_input: Affine
    gru_hidden: Affine


def dense_distances(graph: jraph.GraphsTuple) -> jax.Array:
    """Distances between the nodes of a padded graph, int32 `[N, N]` from row to column; 0 where there is no edge."""
    nodes = graph.nodes["type"].shape[0]
    # Edges of padding have distance 0, and lead from and to nodes of padding.
    return jnp.zeros((nodes, nodes), jnp.int32).at[graph.senders, graph.receivers].max(graph.edges)


def propagate(weights: Weights, features: jax.Array, distances: jax.Array) -> jax.Array:
    """Node features after the walk forward and backward.

    Args:
      weights: of the network.
      features: `[N, hid]`, nodes in topological order.
      distances: int32 `[N, N]`, from row to column.

    Returns:
      `[N, hid]`.
    """
    features = _walk(weights, features, distances.T, reverse=False)
    return _walk(weights, features, distances, reverse=True)


def _walk(weights: Weights, features: jax.Array, distances: jax.Array, reverse: bool) -> jax.Array:
    """One walk; `distances[i, j]` is that from node j, whose message arrives, to node i."""
    nodes, hid = features.shape
    coefficients = (distances == 1).astype(features.dtype)
    if weights.message_ve is not None:
        virtual = jnp.where(distances > 0, 1.0 / jnp.maximum(distances, 1), 0.0)
        coefficients = jnp.concatenate([coefficients, virtual.astype(features.dtype)], axis=1)
    hidden_gates = weights.gru_hidden(features)
    # The outputs of the MLPs, `[kinds, N, hid]`.  A node that has not been reached yet has none, and sends nothing.
    # Nothing else is carried, so differentiation keeps only `[hid]`-sized values of every step.
    messages = jnp.zeros((1 if weights.message_ve is None else 2, nodes, hid), features.dtype)

    def step(messages, inputs):
        node, coefficients, feature, hidden = inputs
        message = jnp.matmul(coefficients, messages.reshape(-1, hid), precision=PRECISION)
        feature = gru_cell(weights.gru_input(message), hidden, feature)
        sent = [_message(weights.message, feature)]
        if weights.message_ve is not None:
            sent.append(_message(weights.message_ve, feature))
        messages = lax.dynamic_update_slice(messages, jnp.stack(sent)[:, None], (0, node, 0))
        return messages, feature

    inputs = (jnp.arange(nodes), coefficients, features, hidden_gates)
    return lax.scan(step, messages, inputs, reverse=reverse, unroll=_UNROLL)[1]


def _message(mlp: tuple[Affine, Affine], feature: jax.Array) -> jax.Array:
    first, second = mlp
    return nn.relu(second(nn.relu(first(feature))))


def gru_cell(input_gates: jax.Array, hidden_gates: jax.Array, hidden: jax.Array) -> jax.Array:
    """PyTorch's gated recurrent unit: gates r, z, n, with r applied after the hidden linear layer.

    Args:
      input_gates: `[..., 3 hid]`, the input after its linear layer.
      hidden_gates: `[..., 3 hid]`, the hidden state after its linear layer.
      hidden: `[..., hid]`, the hidden state.

    Returns:
      The new hidden state, `[..., hid]`.
    """
    input_r, input_z, input_n = jnp.split(input_gates, 3, axis=-1)
    hidden_r, hidden_z, hidden_n = jnp.split(hidden_gates, 3, axis=-1)
    r = nn.sigmoid(input_r + hidden_r)
    z = nn.sigmoid(input_z + hidden_z)
    n = jnp.tanh(input_n + r * hidden_n)
    return (1 - z) * n + z * hidden


class GatedGNN(nn.Module):
    """The network over a meta-batch of padded graphs: `[G, N, hid]` -> `[G, N, hid]`."""

    config: HypernetConfig

    def setup(self):
        hid = self.config.hid
        hidden = hid // 2 if self.config.ve else hid
        self.message = MLP(hid, hidden, hid)
        if self.config.ve:
            self.message_ve = MLP(hid, hidden, hid)
        self.gru_input = Linear(hid, 3 * hid)
        self.gru_hidden = Linear(hid, 3 * hid)

    def __call__(self, features: jax.Array, graphs: jraph.GraphsTuple) -> jax.Array:
        weights = Weights(
            message=self.message.weights(),
            message_ve=self.message_ve.weights() if self.config.ve else None,
            gru_input=self.gru_input.weights(),
            gru_hidden=self.gru_hidden.weights(),
        )
        distances = jax.vmap(dense_distances)(graphs)
        return jax.vmap(propagate, in_axes=(None, 0, 0))(weights, features, distances)
