"""Networks as vectors: means over nodes that padding does not change, and the command that prints them."""

import dataclasses

import numpy as np
import pytest
from example_graphs import random_graph

import ghn_jax
from ghn_jax.cli import embed as command
from ghn_jax.cli.common import CommandError
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.hypernetwork import Hypernetwork
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import NODE_ID, Graph, GraphError, shortest_paths
from ghn_jax.prediction.embed import embed

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), num_classes=10, weight_norm=True, ve=True, layernorm=True, hid=8)
SUMS = dataclasses.replace(SMALL, hypernet="mlp", layernorm=False)


@pytest.fixture(scope="module")
def ghn():
    return GHN.init(SMALL, seed=0)


@pytest.mark.parametrize("nodes", [64, 160])
def test_mean_over_the_nodes_whatever_the_padding(ghn, nodes):
    graph = random_graph(3, 40)
    padded = padding.stack([padding.pad(graph, nodes, SMALL.max_distance)])
    all_nodes = Hypernetwork(SMALL).apply({"params": ghn.params}, padded, method="embed")
    assert all_nodes.shape == (1, nodes, 8)
    np.testing.assert_allclose(embed(graph, ghn), np.mean(all_nodes[0, :40], 0), rtol=1e-4, atol=1e-6)


def test_without_edges_it_is_the_mean_of_what_types_give():
    """An embedder that ignores edges gives every type of node a vector; the mean weighs them by their number."""
    ghn = GHN.init(SUMS, seed=1)

    def of(*types):
        count = len(types)
        distances = shortest_paths([(i, i + 1) for i in range(count - 1)], count, cutoff=50)
        return embed(
            Graph(np.array([NODE_ID[one] for one in types]), np.zeros((count, 4), np.int32), distances, ()), ghn
        )

    both = of("input", "sum", "sum", "sum")
    np.testing.assert_allclose(both, (of("input") + 3 * of("sum")) / 4, rtol=1e-5, atol=1e-6)
    assert np.abs(of("input") - of("sum")).max() > 1e-3


def test_networks_differ_and_the_default_is_the_one_in_the_package():
    graphs = [ghn_jax.build_graph(ghn_jax.named(name)) for name in ("resnet50", "vit")]
    first, second = (ghn_jax.embed(graph) for graph in graphs)
    assert first.dtype == np.float32 and first.shape == (32,)
    assert np.linalg.norm(first - second) > 0.1 * np.linalg.norm(first)
    np.testing.assert_array_equal(first, ghn_jax.embed(graphs[0], ghn_jax.load("ghn2_fashion_mnist")))


def test_command(tmp_path, capsys):
    out = tmp_path / "embedding.npy"
    command.main(["--arch=test/7", f"--out={out}"])
    graph = ghn_jax.build_graph(ghn_jax.find_architecture("test/7").architecture)
    np.testing.assert_array_equal(np.load(out), ghn_jax.embed(graph))
    capsys.readouterr()
    command.main(["--arch=test/7"])
    printed = [float(word) for word in capsys.readouterr().out.split()]
    np.testing.assert_allclose(printed, np.load(out), rtol=1e-4)
    with pytest.raises(CommandError, match="exists; --overwrite replaces it"):
        command.main(["--arch=test/7", f"--out={out}"])
    with pytest.raises(SystemExit):
        command.main(["--arch=test/7", "--out=embedding.txt"])
    assert "expected a name ending in .npy" in capsys.readouterr().err


def test_bad_input(ghn):
    with pytest.raises(GraphError, match="expected a ghn_jax Graph, got str"):
        embed("resnet50", ghn)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="embed expected a GHN"):
        embed(random_graph(0, 10), "ghn2")  # type: ignore[arg-type]
