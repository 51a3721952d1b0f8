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

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
from flax import linen as nn
from jax import lax

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.layers import MLP, PRECISION, Affine, LinearLayer
from ghn_jax.graphs import padding

# Nodes in a block; the numbers of nodes in `padding.NODE_BUCKETS` are multiples of it.
_BLOCK = 32

_PADDED_TO = (256, 512, 1024, 2304)


class Weights(NamedTuple):
    """Weights of the network; `message_ve` is None without virtual edges."""

    message: tuple[Affine, Affine]
    message_ve: tuple[Affine, Affine] | None
    gru_input: Affine
    gru_hidden: Affine


def propagate(weights: Weights, features: jax.Array, distances: jax.Array) -> jax.Array:
    """Node features after the walk forward and backward.

    Args:
      weights: of the network.
      features: `[N, hid]`, nodes in topological order.
      distances: int32 `[N, N]`, from row to column.

    Returns:
      `[N, hid]`.
    """
    nodes = jnp.arange(len(features))

    def walk(features, inputs):
        return _walk(weights, features, *inputs)[::-1], None

    # A loop, so that both walks are compiled once.  Each leaves the nodes in the order of the other one.
    orders, rows = jnp.stack([nodes, nodes[::-1]]), jnp.stack([distances.T, distances[::-1]])
    return lax.scan(walk, features, (orders, _coefficients(weights, rows)))[0]


def propagate_real(weights: Weights, features: jax.Array, distances: jax.Array, real: jax.Array) -> jax.Array:
    """As `propagate`, but only blocks with real nodes are walked: what padding costs is little, whatever its size.

    JAX cannot differentiate it, since the number of blocks is only known when it runs.

    Args:
      weights, features, distances: as for `propagate`.
      real: int32, number of the first nodes that are no padding.
    """
    nodes, hid = features.shape
    size = math.gcd(nodes, _BLOCK)
    blocks = (real + size - 1) // size
    node_step = _node_step(weights)

    def walk(direction, features):
        backwards = direction == 1
        order = jnp.where(backwards, jnp.arange(size)[::-1], jnp.arange(size))  # of the nodes of a block
        all_hidden_gates = weights.gru_hidden(features)

        def block_step(number, carry):
            sent, updated = carry
            begin = jnp.where(backwards, blocks - 1 - number, number) * size
            into = lax.dynamic_slice_in_dim(distances, begin, size, axis=1).T
            out_of = lax.dynamic_slice_in_dim(distances, begin, size, axis=0)
            coefficients = _coefficients(weights, jnp.where(backwards, out_of, into))
            received = jnp.einsum("ink,nkh->ih", coefficients, sent, precision=PRECISION)
            within = lax.dynamic_slice_in_dim(coefficients, begin, size, axis=1)
            own, hidden_gates = (lax.dynamic_slice_in_dim(x, begin, size) for x in (features, all_hidden_gates))
            inputs = (order, *(x[order] for x in (received, within, own, hidden_gates)))
            start = jnp.zeros((size, *sent.shape[1:]), features.dtype)
            sent_within, new = lax.scan(node_step, start, inputs)
            sent = lax.dynamic_update_slice(sent, sent_within, (begin, 0, 0))
            return sent, lax.dynamic_update_slice(updated, new[order], (begin, 0))

        start = jnp.zeros((nodes, _kinds(weights), hid), features.dtype)
        return lax.fori_loop(0, blocks, block_step, (start, features))[1]

    return lax.fori_loop(0, 2, walk, features)


def _kinds(weights: Weights) -> int:
    """Kinds of messages: along edges, and along virtual edges."""
    return 1 if weights.message_ve is None else 2


def _coefficients(weights: Weights, distances: jax.Array) -> jax.Array:
    """What messages of every kind count, with a last axis of kinds."""
    found = [distances == 1]
    if weights.message_ve is not None:
        found.append(jnp.where(distances > 0, 1 / jnp.maximum(distances, 1), 0))
    return jnp.stack(found, axis=-1).astype(weights.gru_input.kernel.dtype)


def _walk(weights: Weights, features: jax.Array, order: jax.Array, coefficients: jax.Array) -> jax.Array:
    """One walk; features and rows of coefficients are in its order, whose i-th node has the number `order[i]`.

    `coefficients[i, j]` are those of node j, whose message arrives, at the i-th node.  Nodes are taken in blocks.  What
    earlier blocks send to all nodes of a block is one matrix product, so a single node only adds up what was sent
    within its block.
    """
    nodes, hid = features.shape
    size = math.gcd(nodes, _BLOCK)
    blocks = nodes // size
    kinds = _kinds(weights)
    coefficients = coefficients.reshape(blocks, size, nodes, kinds)
    node_step = _node_step(weights)

    def block_step(sent, inputs):
        numbers, coefficients, features, hidden_gates = inputs
        begin = numbers[0] // size * size  # of the block; its nodes have the next numbers, up or down
        received = jnp.einsum("ink,nkh->ih", coefficients, sent, precision=PRECISION)
        within = lax.dynamic_slice_in_dim(coefficients, begin, size, axis=1)
        inputs = (numbers - begin, received, within, features, hidden_gates)
        start = jnp.zeros((size, kinds, hid), features.dtype)
        sent_within, features = lax.scan(node_step, start, inputs)
        return lax.dynamic_update_slice(sent, sent_within, (begin, 0, 0)), features

    hidden_gates = weights.gru_hidden(features).reshape(blocks, size, 3 * hid)
    inputs = (order.reshape(blocks, size), coefficients, features.reshape(blocks, size, hid), hidden_gates)
    start = jnp.zeros((nodes, kinds, hid), features.dtype)
    return lax.scan(block_step, start, inputs)[1].reshape(nodes, hid)


def _node_step(weights: Weights) -> Callable[[jax.Array, tuple[jax.Array, ...]], tuple[jax.Array, jax.Array]]:
    """The update of a node within its block, for `lax.scan`.

    Carried are the outputs of the MLPs, `[nodes, kinds, hid]`.  A node that has not been reached has none, and sends
    nothing.  Differentiation keeps only `[hid]`-sized values of every node, since sending is linear.
    """
    first, second = _side_by_side(weights)

    def node_step(sent, inputs):
        node, received, coefficients, feature, hidden_gates = inputs
        # Not a matrix product: XLA on the CPU is several times faster at a batch of such small sums.
        message = received + jnp.sum(coefficients[:, :, None] * sent, axis=(0, 1))
        feature = gru_cell(weights.gru_input(message), hidden_gates, feature)
        sending = nn.relu(second(nn.relu(first(feature))))
        return lax.dynamic_update_slice(sent, sending.reshape(1, *sent.shape[1:]), (node, 0, 0)), feature

    return node_step


def _side_by_side(weights: Weights) -> tuple[Affine, Affine]:
    """The two layers of both MLPs as those of one, whose output is that of MLP and then that of MLP_ve."""
    if weights.message_ve is None:
        return weights.message
    (first, second), (first_ve, second_ve) = weights.message, weights.message_ve
    return (
        Affine(jnp.concatenate([first.kernel, first_ve.kernel], axis=1), jnp.concatenate([first.bias, first_ve.bias])),
        Affine(
            jax.scipy.linalg.block_diag(second.kernel, second_ve.kernel),
            jnp.concatenate([second.bias, second_ve.bias]),
        ),
    )


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
    padded_to = _PADDED_TO

    def setup(self):
        hid = self.config.hid
        hidden = hid // 2 if self.config.ve else hid
        self.message = MLP(hid, hidden, hid)
        if self.config.ve:
            self.message_ve = MLP(hid, hidden, hid)
        self.gru_input = LinearLayer(hid, 3 * hid)
        self.gru_hidden = LinearLayer(hid, 3 * hid)

    def __call__(self, features: jax.Array, graphs: jraph.GraphsTuple) -> jax.Array:
        distances = padding.node_features(graphs)["distances"]
        return jax.vmap(propagate, in_axes=(None, 0, 0))(self._weights(), features, distances)

    def without_gradient(self, features: jax.Array, graphs: jraph.GraphsTuple) -> jax.Array:
        """The same for real nodes, where nothing is to be differentiated."""
        weights, distances = self._weights(), padding.node_features(graphs)["distances"]
        # Not `vmap`, which would let every graph wait for the longest.
        found = [propagate_real(weights, *one) for one in zip(features, distances, graphs.n_node[:, 0], strict=True)]
        return jnp.stack(found)

    def _weights(self) -> Weights:
        return Weights(
            message=self.message.weights(),
            message_ve=self.message_ve.weights() if self.config.ve else None,
            gru_input=self.gru_input.weights(),
            gru_hidden=self.gru_hidden.weights(),
        )
