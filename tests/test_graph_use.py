"""How much a hypernetwork uses the graph."""

import numpy as np
import pytest
import scripts

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params

SMALL = {"max_shape": (16, 16, 5, 5), "weight_norm": True, "layernorm": True, "hid": 8}


@pytest.fixture(scope="module")
def script():
    return scripts.load("experiments/graph_use.py")


@pytest.fixture(scope="module")
def graph():
    return make_network(0, sample_architecture("test", 0), CIFAR10).graph


def test_tensors_move_to_nodes_alike(script, graph):
    moved = script.exchanged(graph, seed=3)
    alone = {nodes[0] for nodes in script.alike(graph) if len(nodes) == 1}
    assert len(alone) < len(script.alike(graph))
    for before, after in zip(graph.tensors, moved.tensors, strict=True):
        assert (before.name, before.role, before.shape) == (after.name, after.role, after.shape)
        assert graph.node_types[before.node] == graph.node_types[after.node]
        np.testing.assert_array_equal(graph.node_shapes[before.node], graph.node_shapes[after.node])
        assert (before.node == after.node) == (before.node in alone)
    assert not script.without_edges(graph).distances.any()


def test_a_hypernetwork_without_messages_ignores_the_graph(script, graph):
    ghn = GHN.init(HypernetConfig(**SMALL, hypernet="mlp"), seed=0)
    params = predict_params(graph, ghn)
    assert script.variation(graph, params) == pytest.approx(0, abs=1e-10)
    for other in (script.exchanged(graph, 0), script.without_edges(graph)):
        for name, values in predict_params(other, ghn).items():
            np.testing.assert_allclose(values, params[name], atol=1e-6)


def test_a_gnn_does_not(script, graph):
    ghn = GHN.init(HypernetConfig(**SMALL, ve=True), seed=0)
    params = predict_params(graph, ghn)
    assert 1e-6 < script.variation(graph, params) < 1
    for other in (script.exchanged(graph, 0), script.without_edges(graph)):
        predicted = predict_params(other, ghn)
        assert max(float(np.abs(predicted[name] - params[name]).max()) for name in params) > 1e-4


def test_variation_by_hand(script, graph):
    nodes = next(nodes for nodes in script.alike(graph) if len(nodes) == 2)
    params = {tensor.name: np.zeros(tensor.shape) for tensor in graph.tensors}
    first, second = (next(t.name for t in graph.tensors if t.node == node) for node in nodes)
    params[first] += 3.0
    params[second] += 1.0
    # mean 2, so 1 + 1 differs, of 9 + 1.
    assert script.variation(graph, params) == pytest.approx(0.2)
