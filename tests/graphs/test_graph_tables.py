"""Tables and networkx graphs: what they hold, and the way back."""

import dataclasses
import json

import networkx as nx
import numpy as np
import pytest

from ghn_jax.deepnets.lookup import find_architecture
from ghn_jax.deepnets.sampler import sample_architecture, sample_program
from ghn_jax.deepnets.statistics import network_statistics, table, type_shares
from ghn_jax.graphs.drawing import visualize
from ghn_jax.graphs.graph import NODE_ID, NODE_TYPES, Graph, GraphError, Role, Tensor, shortest_paths
from ghn_jax.graphs.tables import edge_table, from_networkx, node_table, to_networkx
from ghn_jax.networks.architecture import VIT, Architecture, ArchitectureError, ResNet, named, to_json
from ghn_jax.networks.program_graph import build_graph, graph_of
from ghn_jax.prediction.predict import predict_params
from ghn_jax.prediction.report import report


@pytest.fixture(scope="module")
def graph():
    return build_graph(Architecture(VIT, n_cells=1, C=8, preproc=False, C_mult=1))


def test_node_table(graph):
    nodes = node_table(graph)
    assert nodes["type"].tolist()[:5] == ["input", "conv", "pos_enc", "sum", "ln"]
    first = nodes[1]
    assert (first["out"], first["in"], first["height"], first["width"]) == (8, 3, 3, 3)
    assert first["params"] == 8 * 3 * 3 * 3 and first["parameter"] == "stem0.weight"
    assert (first["in_degree"], first["out_degree"]) == (1, 1)
    layer_norm = nodes[nodes["type"] == "ln"][0]
    assert layer_norm["params"] == 16 and layer_norm["parameter"].endswith("ln1.weight")
    assert nodes["params"].sum() == graph.num_params
    assert nodes["in_degree"].sum() == nodes["out_degree"].sum() == len(edge_table(graph))


def test_edge_table(graph):
    edges = edge_table(graph)
    assert set(edges["distance"]) == {1}
    assert edges[:3].tolist() == [(0, 1, 1), (1, 3, 1), (2, 3, 1)]
    virtual = edge_table(graph, max_distance=50)
    distances = np.zeros_like(graph.distances)
    distances[virtual["start"], virtual["end"]] = virtual["distance"]
    np.testing.assert_array_equal(distances, graph.distances)


def test_data_frames(graph):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(node_table(graph))
    assert frame.groupby("type")["params"].sum().sum() == graph.num_params


def assert_equal(graph, expected):
    for field in ("node_types", "node_shapes", "distances"):
        np.testing.assert_array_equal(getattr(graph, field), getattr(expected, field))
        assert getattr(graph, field).dtype == getattr(expected, field).dtype
    assert graph.tensors == expected.tensors


@pytest.mark.parametrize("max_distance", [1, 50])
def test_networkx_and_back(max_distance):
    for architecture in (named("resnet50"), sample_architecture("train", 0), sample_architecture("train", 8)):
        expected = build_graph(architecture)
        exported = to_networkx(expected, max_distance)
        assert nx.is_directed_acyclic_graph(exported)
        assert exported.number_of_edges() == ((expected.distances >= 1) & (expected.distances <= max_distance)).sum()
        assert_equal(from_networkx(exported), expected)


def test_an_edited_graph(graph):
    """A skip connection around the whole network, through a new node with a name of its own."""
    edited = to_networkx(graph)
    last = graph.num_nodes - 1
    edited.add_node("pool", type="max_pool", shape=(1, 1, 3, 3))
    edited.add_edge(1, "pool")
    edited.add_edge("pool", last - 1)
    changed = from_networkx(edited)
    assert changed.num_nodes == graph.num_nodes + 1
    (pool,) = np.flatnonzero(changed.node_types == NODE_ID["max_pool"])
    assert changed.distances[1, pool] == 1 and changed.distances[pool, last] == 1
    assert changed.distances[0, last + 1] == 4 < graph.distances[0, last]
    assert [t.name for t in changed.tensors] == [t.name for t in graph.tensors]
    params = predict_params(changed)
    assert params.keys() == {t.name for t in graph.tensors}


def test_graphs_that_cannot_be(graph):
    cyclic = to_networkx(graph)
    cyclic.add_edge(5, 4)
    with pytest.raises(GraphError, match="no cycles, nodes 4 -> 5"):
        from_networkx(cyclic)
    untyped = to_networkx(graph)
    untyped.add_node("mine", type="lstm")
    with pytest.raises(GraphError, match="node 'mine' has type 'lstm': expected one of max_pool"):
        from_networkx(untyped)
    with pytest.raises(GraphError, match="without nodes"):
        from_networkx(nx.DiGraph())


def test_shortest_paths_are_those_of_networkx():
    """Over hundreds of random graphs, and over networks with both cutoffs in use."""
    rng = np.random.RandomState(0)
    for _ in range(300):
        count = rng.randint(1, 30)
        chosen = np.argwhere(np.triu(rng.rand(count, count) < rng.choice([0.05, 0.15, 0.5]), 1)).tolist()
        cutoff = int(rng.choice([1, 2, 5, 50]))
        assert_paths(chosen, count, cutoff)
    for index in (1, 4):
        graph = graph_of(sample_program("train", index)[1])
        edges = np.argwhere(graph.distances == 1).tolist()
        for cutoff in (50, 250):
            assert_paths(edges, graph.num_nodes, cutoff)


def assert_paths(edges, count, cutoff):
    exported = nx.DiGraph(edges)
    exported.add_nodes_from(range(count))
    expected = np.zeros((count, count), int)
    for start, lengths in nx.all_pairs_shortest_path_length(exported, cutoff=cutoff):
        for end, length in lengths.items():
            expected[start, end] = length
    np.testing.assert_array_equal(shortest_paths(edges, count, cutoff), expected)


def test_statistics_are_those_of_the_original():
    """Its degrees and paths come from networkx, on the undirected graph."""
    for index in (2, 5):
        architecture, program = sample_program("train", index)
        graph = graph_of(program)
        found = network_statistics(architecture, graph, program.num_params_with_unused)
        undirected = to_networkx(graph).to_undirected()
        assert found.degree == pytest.approx(sum(d for _, d in undirected.degree()) / graph.num_nodes)
        assert found.path == pytest.approx(nx.average_shortest_path_length(undirected))
        assert found.nodes == graph.num_nodes == sum(found.types)
        assert found.params == program.num_params_with_unused / 1e6
        assert found.types[NODE_ID["conv"]] == (graph.node_types == NODE_ID["conv"]).sum()
        assert (found.cells, found.channels, found.norm) == (architecture.n_cells, 32, architecture.norm is not None)


def test_the_table_of_statistics():
    pairs = [sample_program("train", index) for index in range(8)]
    statistics = [network_statistics(a, graph_of(p), p.num_params_with_unused) for a, p in pairs]
    text = table(statistics)
    nodes = [s.nodes for s in statistics]
    (line,) = [line for line in text.splitlines() if line.startswith("nodes ")]
    assert line.split()[1:] == [str(min(nodes)), str(max(nodes)), f"{np.mean(nodes):.2f}", f"{np.std(nodes):.2f}"]
    shares = type_shares(statistics)
    assert shares.shape == (8, len(NODE_TYPES))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    conv = sum(s.types[NODE_ID["conv"]] for s in statistics)
    assert f"{conv:,}" in text and f"{conv / sum(nodes):.2%}" in text


def test_architectures_of_the_command_line(tmp_path):
    assert find_architecture("7", "test") == ("test/7", 7, sample_architecture("test", 7))
    assert find_architecture("resnet50") == ("resnet50", 0, ResNet())
    assert find_architecture("3", "wide", large_images=True).architecture.C == 64
    mine = sample_architecture("train", 4)
    for number, architecture in enumerate((mine, ResNet((1, 1, 1, 1)))):
        path = tmp_path / f"mine{number}.json"
        path.write_text(json.dumps(to_json(architecture)))
        assert find_architecture(str(path)) == (f"mine{number}", 0, architecture)


@pytest.mark.parametrize(
    ("text", "contents", "message"),
    [
        ("500", None, "index 500: split 'val' has architectures 0 to 499"),
        ("alexnet", None, "no architecture 'alexnet': expected an index of the split, a JSON file, or darts"),
        ("missing.json", None, "missing.json cannot be read: No such file"),
        ("bad.json", "{", "bad.json is no JSON"),
        ("list.json", "[]", "list.json holds a list, expected the fields of an architecture"),
        ("field.json", '{"n_cells": 3, "colour": 1}', "field.json: Architecture has no field 'colour'"),
    ],
)
def test_what_is_no_architecture(tmp_path, monkeypatch, text, contents, message):
    monkeypatch.chdir(tmp_path)
    if contents is not None:
        (tmp_path / text).write_text(contents)
    with pytest.raises(ArchitectureError, match=message):
        find_architecture(text)
    assert find_architecture("1", "predefined").architecture == named("vit")
    with pytest.raises(ArchitectureError, match="no split is called 'valid'"):
        find_architecture("3", "valid")


@pytest.mark.parametrize("look", [node_table, edge_table, to_networkx, visualize, report])
@pytest.mark.parametrize(
    "change",
    [
        {"node_types": np.array([99, 4], np.int32)},
        {"distances": [[0, 1], [0, 0]]},
        {"tensors": (None,)},
        {"tensors": (Tensor("a", 999, Role.BIAS, (3,)),)},
        {"tree": "x"},
    ],
)
def test_graphs_by_hand_are_checked_before_they_are_looked_at(look, change):
    good = Graph(np.array([9, 4], np.int32), np.zeros((2, 4), np.int32), np.array([[0, 1], [0, 0]], np.int32), ())
    with pytest.raises(GraphError):
        look(dataclasses.replace(good, **change))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", ["conv"]), ("type", 4), ("shape", (1, 2, 3)), ("shape", "abcd"), ("shape", (1.5, 2, 3, 3)),
        ("shape", (float("nan"), 2, 3, 3)), ("shape", (2**33, 1, 1, 1)), ("shape", (-1, 1, 1, 1)), ("shape", None),
        ("shape", (True, 1, 1, 1)), ("tensors", 5), ("tensors", ("a",)), ("tensors", None),
    ],
)  # fmt: skip
def test_attributes_that_no_node_has(name, value):
    edited = to_networkx(build_graph(ResNet(depths=(1,), width=4)))
    edited.nodes[3][name] = value
    with pytest.raises(GraphError, match=f"node 3.*{'type' if name == 'type' else ''}"):
        from_networkx(edited)


def test_distances_that_no_edge_has():
    """Such an edge was left out without a word."""
    for distance in ("1", float("nan"), 1.0, True, 0, -1, 10**30):
        edited = to_networkx(build_graph(ResNet(depths=(1,), width=4)))
        edited.edges[0, 1]["distance"] = distance
        with pytest.raises(GraphError, match="distance of the edge 0 -> 1="):
            from_networkx(edited)
    with pytest.raises(GraphError, match="expected a graph of networkx, got NoneType"):
        from_networkx(None)
