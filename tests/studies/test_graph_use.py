"""How much a hypernetwork uses the graph."""

import numpy as np
import pytest

from ghn_jax import images
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, Architecture, Genotype
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.studies import graph_use

CELL = Genotype(
    normal=(("conv_1x1", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)
SMALL = {"max_shape": (16, 16, 5, 5), "weight_norm": True, "layernorm": True, "hid": 8}


@pytest.fixture(scope="module")
def graph():
    return make_network(0, sample_architecture("test", 0), CIFAR10).graph


def test_tensors_move_to_nodes_alike(graph):
    moved = graph_use.exchanged(graph, seed=3)
    alone = {nodes[0] for nodes in graph_use.alike(graph) if len(nodes) == 1}
    assert len(alone) < len(graph_use.alike(graph))
    for before, after in zip(graph.tensors, moved.tensors, strict=True):
        assert (before.name, before.role, before.shape) == (after.name, after.role, after.shape)
        assert graph.node_types[before.node] == graph.node_types[after.node]
        np.testing.assert_array_equal(graph.node_shapes[before.node], graph.node_shapes[after.node])
        assert (before.node == after.node) == (before.node in alone)
    assert not graph_use.without_edges(graph).distances.any()


def test_a_hypernetwork_without_messages_ignores_the_graph(graph):
    ghn = GHN.init(HypernetConfig(**SMALL, hypernet="mlp"), seed=0)
    params = predict_params(graph, ghn)
    assert graph_use.variation(graph, params) == pytest.approx(0, abs=1e-10)
    for other in (graph_use.exchanged(graph, 0), graph_use.without_edges(graph)):
        for name, values in predict_params(other, ghn).items():
            np.testing.assert_allclose(values, params[name], atol=1e-6)


def test_a_gnn_does_not(graph):
    ghn = GHN.init(HypernetConfig(**SMALL, ve=True), seed=0)
    params = predict_params(graph, ghn)
    assert 1e-6 < graph_use.variation(graph, params) < 1
    for other in (graph_use.exchanged(graph, 0), graph_use.without_edges(graph)):
        predicted = predict_params(other, ghn)
        assert max(float(np.abs(predicted[name] - params[name]).max()) for name in params) > 1e-4


def test_variation_by_hand(graph):
    nodes = next(nodes for nodes in graph_use.alike(graph) if len(nodes) == 2)
    params = {tensor.name: np.zeros(tensor.shape) for tensor in graph.tensors}
    first, second = (next(t.name for t in graph.tensors if t.node == node) for node in nodes)
    params[first] += 3.0
    params[second] += 1.0
    # mean 2, so 1 + 1 differs, of 9 + 1.
    assert graph_use.variation(graph, params) == pytest.approx(0.2)


def test_a_table_of_means():
    columns = {"graph": [0.5, 0.7], "exchanged": [0.5, 0.5], "no edges": [0.1, 0.1], "variation": [0.25, 0.75]}
    assert graph_use.table({"GHN-2": columns}).splitlines() == [
        "| | graph | exchanged | no edges | variation |",
        "|---|---|---|---|---|",
        "| GHN-2 | 60.0 +- 10.0 | 50.0 +- 0.0 | 10.0 +- 0.0 | 50.0 +- 25.0 |",
    ]


def test_every_network_in_every_mode():
    dataset = images.load("digits")
    networks = [make_network(n, Architecture(CELL, n_cells=1 + n, C=8, fc_dim=16), dataset.task) for n in (0, 1)]
    ghns = {"mine": GHN.init(HypernetConfig(**SMALL, hypernet="mlp"), seed=0)}
    found = graph_use.measure(ghns, networks, dataset, num_images=64)["mine"]
    assert {column: len(values) for column, values in found.items()} == dict.fromkeys(graph_use.COLUMNS, 2)
    assert found["graph"] == found["exchanged"] == found["no edges"]  # an MLP does not see the graph
