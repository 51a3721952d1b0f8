import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from at_once import at_once
from example_graphs import random_graph, reorder

from ghn_jax.ghn import config as hypernet_config
from ghn_jax.ghn.embedders.gated_gnn import GatedGNN, Weights, propagate, propagate_real
from ghn_jax.ghn.layers import Affine
from ghn_jax.graphs import padding

HID = 8
CUTOFF = 50


def random_weights(virtual_edges: bool, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)

    def affine(inputs, features):
        kernel, bias = rng.standard_normal((inputs, features)), rng.standard_normal(features)
        return Affine(jnp.asarray(0.4 * kernel, jnp.float32), jnp.asarray(0.4 * bias, jnp.float32))

    def mlp():
        return affine(HID, HID // 2), affine(HID // 2, HID)

    return Weights(mlp(), mlp() if virtual_edges else None, affine(HID, 3 * HID), affine(HID, 3 * HID))


def slow_propagate(weights: Weights, features: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Equations 3 and 4, one edge at a time in double precision."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)
    h = np.array(features, np.float64)
    nodes = len(h)

    def mlp(layers, x):
        for kernel, bias in layers:
            x = np.maximum(x @ kernel + bias, 0)
        return x

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for order, backward in ((range(nodes), False), (range(nodes - 1, -1, -1), True)):
        for i in order:
            m = np.zeros(HID)
            for j in range(nodes):
                distance = distances[i, j] if backward else distances[j, i]
                if distance == 1:
                    m = m + mlp(weights.message, h[j])
                if weights.message_ve is not None and 1 <= distance <= CUTOFF:
                    m = m + mlp(weights.message_ve, h[j]) / distance
            x_r, x_z, x_n = np.split(m @ weights.gru_input.kernel + weights.gru_input.bias, 3)
            h_r, h_z, h_n = np.split(h[i] @ weights.gru_hidden.kernel + weights.gru_hidden.bias, 3)
            r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
            h[i] = (1 - z) * np.tanh(x_n + r * h_n) + z * h[i]
    return h


def initial_features(nodes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((nodes, HID)).astype(np.float32)


def run(weights: Weights, graph, features: np.ndarray, nodes: int, max_distance: int = CUTOFF) -> np.ndarray:
    padded = padding.pad(graph, nodes, max_distance)
    filled = np.full((nodes, HID), 3.0, np.float32)
    filled[: len(features)] = features
    return np.asarray(at_once(propagate, weights, filled, padded.nodes["distances"]))[: len(features)]


@pytest.mark.parametrize("virtual_edges", [True, False])
def test_equals_the_equations(virtual_edges):
    graph, weights, features = random_graph(3, 45), random_weights(virtual_edges), initial_features(45)
    expected = slow_propagate(weights, features, graph.distances)
    np.testing.assert_allclose(run(weights, graph, features, 64), expected, atol=3e-6)


def test_blocks_do_not_change_the_result():
    graph, weights, features = random_graph(4, 40), random_weights(True), initial_features(40)
    one_by_one = run(weights, graph, features, 41)  # 41 is prime, so every block is one node
    np.testing.assert_allclose(run(weights, graph, features, 96), one_by_one, atol=2e-6)


def test_padding_changes_nothing():
    graph, weights, features = random_graph(5, 50), random_weights(True), initial_features(50)
    small = run(weights, graph, features, 64)
    np.testing.assert_allclose(run(weights, graph, features, 128), small, atol=2e-6)
    config = hypernet_config.HypernetConfig(hid=HID, ve=True)
    other = padding.pad(random_graph(6, 63), 64, CUTOFF)
    gnn = GatedGNN(config)
    batch = padding.stack([padding.pad(graph, 64, CUTOFF), other])
    x = np.stack([np.pad(features, ((0, 14), (0, 0))), initial_features(64, seed=1)])
    variables = at_once(gnn.init, jax.random.key(0), x, batch)
    both = at_once(gnn.apply, variables, x, batch)
    alone = at_once(gnn.apply, variables, x[:1], padding.stack([padding.pad(graph, 64, CUTOFF)]))
    np.testing.assert_allclose(both[0, :50], alone[0, :50], atol=2e-6)


@pytest.mark.parametrize(
    ("real", "nodes", "virtual_edges"),
    [(3, 64, True), (31, 64, True), (32, 64, True), (63, 64, True), (40, 64, False), (20, 37, True), (45, 256, True)],
)
def test_without_gradient_only_real_nodes_are_walked(real, nodes, virtual_edges):
    """What it gives for them is what is given with padding walked too, whatever is in the padding."""
    graph, weights, features = random_graph(real, real), random_weights(virtual_edges), initial_features(real)
    distances = padding.pad(graph, nodes, CUTOFF).nodes["distances"]
    filled = np.full((nodes, HID), np.nan, np.float32)
    filled[:real] = features
    filled[real : -(-real // 32) * 32] = 7.0  # of the last block
    found = np.asarray(at_once(propagate_real, weights, filled, distances, np.int32(real)))
    np.testing.assert_allclose(found[:real], run(weights, graph, features, nodes), atol=2e-6)
    if nodes % 32 == 0:
        assert np.isnan(found[-(-real // 32) * 32 :]).all()  # as they were


def test_without_gradient_every_graph_has_its_own_length():
    gnn = GatedGNN(hypernet_config.HypernetConfig(hid=HID, ve=True))
    batch = padding.stack([padding.pad(random_graph(seed, nodes), 64, CUTOFF) for seed, nodes in ((5, 20), (6, 63))])
    x = np.stack([initial_features(64, seed) for seed in (0, 1)])
    variables = at_once(gnn.init, jax.random.key(0), x, batch)
    walked = at_once(gnn.apply, variables, x, batch)
    real = at_once(functools.partial(gnn.apply, method="without_gradient"), variables, x, batch)
    for number, nodes in enumerate((20, 63)):
        np.testing.assert_allclose(real[number, :nodes], walked[number, :nodes], atol=2e-6)
    assert GatedGNN.padded_to[-1] == padding.NODE_BUCKETS[-1]  # no graph is too large for one and not for the other


def test_topological_order_changes_nothing():
    weights = random_weights(True)
    for seed in range(3):
        graph, features = random_graph(seed, 40), initial_features(40, seed)
        other, place = reorder(graph, seed)
        assert place.tolist() != list(range(40))
        shuffled = np.empty_like(features)
        shuffled[place] = features
        expected = run(weights, graph, features, 64)
        np.testing.assert_allclose(run(weights, other, shuffled, 64)[place], expected, atol=2e-6)


def test_only_virtual_edges_up_to_the_cutoff_count():
    graph, weights, features = random_graph(7, 40), random_weights(True), initial_features(40)
    assert graph.distances.max() > 2
    cut = np.where(graph.distances > 2, 0, graph.distances)
    result = run(weights, graph, features, 64, max_distance=2)
    np.testing.assert_allclose(result, slow_propagate(weights, features, cut), atol=3e-6)
    assert np.abs(result - run(weights, graph, features, 64)).max() > 1e-3


def test_without_virtual_edges_longer_paths_are_ignored():
    graph, weights, features = random_graph(8, 40), random_weights(False), initial_features(40)
    np.testing.assert_array_equal(run(weights, graph, features, 64), run(weights, graph, features, 64, max_distance=1))


def test_gradient_is_that_of_the_equations():
    graph, features = random_graph(9, 20), initial_features(20)
    weights = random_weights(True)
    distances = jnp.asarray(np.pad(graph.distances, (0, 12)))
    direction = random_weights(True, seed=1)
    target = np.random.default_rng(2).standard_normal((20, HID))

    def value(weights):
        x = jnp.pad(jnp.asarray(features), ((0, 12), (0, 0)))
        return jnp.sum(propagate(weights, x, distances)[:20] * target)

    gradient = at_once(jax.grad(value), weights)
    along = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))

    def slow_value(step):
        moved = jax.tree.map(lambda w, d: np.float64(w) + step * np.float64(d), weights, direction)
        return np.sum(slow_propagate(moved, features, graph.distances) * target)

    expected = (slow_value(1e-6) - slow_value(-1e-6)) / 2e-6
    np.testing.assert_allclose(along, expected, rtol=1e-3)
