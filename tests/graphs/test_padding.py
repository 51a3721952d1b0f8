import dataclasses

import jax
import jraph
import numpy as np
import pytest
from example_graphs import random_graph

from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import Graph, GraphError, Role, Tensor


def test_padded_graph_holds_the_graph_and_nothing_else():
    graph = random_graph(seed=0, nodes=20)
    padded = padding.pad(graph, 64, max_distance=3)
    nodes = np.asarray(jraph.get_node_padding_mask(padded))
    edges = np.asarray(jraph.get_edge_padding_mask(padded))
    assert nodes.tolist() == [True] * 20 + [False] * 44
    np.testing.assert_array_equal(padded.nodes["type"][nodes], graph.node_types)
    np.testing.assert_array_equal(padded.nodes["shape"][nodes], graph.node_shapes)
    found = set(zip(padded.senders[edges].tolist(), padded.receivers[edges].tolist(), strict=True))
    assert found == {tuple(edge) for edge in np.argwhere(graph.distances == 1).tolist()}
    assert edges.sum() == len(found)
    within = np.where(graph.distances <= 3, graph.distances, 0)
    np.testing.assert_array_equal(padded.nodes["distances"][:20, :20], within)
    assert padded.nodes["distances"].shape == (64, 64) and padded.nodes["distances"].sum() == within.sum() > edges.sum()
    assert len(padded.senders) == padding.edge_bucket(64) == 63 * 62 // 2
    assert not padded.nodes["type"][~nodes].any()
    assert (padded.senders[~edges] >= 20).all() and (padded.receivers[~edges] >= 20).all()


def test_padding_is_that_of_jraph():
    graphs = [random_graph(seed, 10 + seed) for seed in range(3)]
    stacked = padding.pad_checked(graphs, 64, max_distance=50)
    for number, graph in enumerate(graphs):
        senders, receivers = np.nonzero(graph.distances == 1)
        distances = np.pad(graph.distances, ((0, 0), (0, 64 - graph.num_nodes)))
        real = jraph.GraphsTuple(
            nodes={"type": graph.node_types, "shape": graph.node_shapes, "distances": distances},
            edges=None,
            senders=senders.astype(np.int32),
            receivers=receivers.astype(np.int32),
            globals=None,
            n_node=np.array([graph.num_nodes], np.int32),
            n_edge=np.array([len(senders)], np.int32),
        )
        expected = jraph.pad_with_graphs(real, n_node=64, n_edge=padding.edge_bucket(64), n_graph=2)
        for found in (padding.pad(graph, 64, 50), jax.tree.map(lambda leaf, number=number: leaf[number], stacked)):
            jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_max_distance_one_keeps_only_real_edges():
    graph = random_graph(seed=1, nodes=30)
    padded = padding.pad(graph, 64, max_distance=1)
    real = (graph.distances == 1).sum()
    assert padded.n_edge.tolist() == [real, padding.edge_bucket(64) - real]
    assert padded.nodes["distances"].sum() == real


def test_the_fullest_graph_fits_its_bucket():
    nodes = padding.NODE_BUCKETS[0] - 1
    distances = np.triu(np.ones((nodes, nodes), np.int32), 1)
    graph = Graph(np.zeros(nodes, np.int32), np.zeros((nodes, 4), np.int32), distances, ())
    padded = padding.pad(graph, padding.bucket(nodes), max_distance=50)
    assert padded.n_edge.tolist() == [padding.edge_bucket(nodes + 1), 0]


@pytest.mark.parametrize(("nodes", "size"), [(1, 64), (63, 64), (64, 128), (2303, 2304)])
def test_bucket_leaves_a_node_of_padding(nodes, size):
    assert padding.bucket(nodes) == size


def test_too_large_a_graph_is_refused():
    with pytest.raises(GraphError, match="2304 nodes is too large: expected at most 2303"):
        padding.bucket(2304)
    with pytest.raises(GraphError, match="20 nodes does not fit into 20"):
        padding.pad(random_graph(0, 20), 20, 50)
    with pytest.raises(GraphError, match="max_distance=0"):
        padding.pad(random_graph(0, 20), 64, 0)


def test_meta_batch_stacks_graphs_of_one_size():
    graphs = [padding.pad(random_graph(seed, 10 + seed), 64, 50) for seed in range(3)]
    batch = padding.stack(graphs)
    assert batch.n_node.tolist() == [[10, 54], [11, 53], [12, 52]]
    for index, graph in enumerate(graphs):
        np.testing.assert_array_equal(batch.nodes["shape"][index], graph.nodes["shape"])
        np.testing.assert_array_equal(batch.senders[index], graph.senders)
    with pytest.raises(GraphError, match=r"one size, got sizes \[64, 128\]"):
        padding.stack([graphs[0], padding.pad(random_graph(0, 10), 128, 50)])
    with pytest.raises(GraphError, match=r"got sizes \[\]"):
        padding.stack([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node_types": np.array([0, 15, 1], np.int32)}, "node_types lie in 0..15: expected 0..14"),
        ({"node_types": np.zeros(0, np.int32)}, "without nodes"),
        ({"node_shapes": np.zeros((3, 3), np.int32)}, r"node_shapes of 3 nodes has shape \(3, 3\): expected \(3, 4\)"),
        ({"node_shapes": np.full((3, 4), -1, np.int32)}, "must not be negative"),
        ({"distances": np.zeros((2, 3), np.int32)}, r"distances of 3 nodes has shape \(2, 3\): expected \(3, 3\)"),
        ({"distances": np.eye(3, k=-1, dtype=np.int32)}, "from node 1 back to node 0"),
        ({"tensors": (Tensor("w", 3, Role.BIAS, (4,)),)}, "'w' belongs to node 3: expected 0..2"),
    ],
)
def test_a_broken_graph_is_refused(changes, message):
    graph = Graph(np.zeros(3, np.int32), np.zeros((3, 4), np.int32), np.zeros((3, 3), np.int32), ())
    padding.check_graph(graph)
    with pytest.raises(GraphError, match=message):
        padding.check_graph(dataclasses.replace(graph, **changes))


def test_something_else_than_a_graph_is_refused():
    with pytest.raises(GraphError, match="expected a ghn_jax Graph, got dict"):
        padding.check_graph({})
