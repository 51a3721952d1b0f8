import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from example_graphs import random_graph

from ghn_jax.ghn.config import HYPERNETWORKS, HypernetConfig, ghn2
from ghn_jax.ghn.decoders.conv import ConvDecoder
from ghn_jax.ghn.decoders.conv3 import CenteredConvDecoder
from ghn_jax.ghn.decoders.vector import VectorDecoder
from ghn_jax.ghn.embedders.graphormer import Graphormer
from ghn_jax.ghn.hypernetwork import param_shapes
from ghn_jax.ghn.layers import embedding_init
from ghn_jax.graphs import padding
from ghn_jax.networks.architecture import CIFAR10, IMAGENET

CONFIG = HypernetConfig(
    max_shape=(8, 8, 3, 3), hypernet="graphormer", decoder="conv3", ve=True, layernorm=True, hid=8, heads=2, layers=2
)
NODES = 45
EMBEDDER = Graphormer(CONFIG)
apply = jax.jit(EMBEDDER.apply)


def batch(graph, nodes=64, **features):
    """The graph, padded, with some features of its nodes replaced."""
    padded = padding.pad(graph, nodes, CONFIG.max_distance)
    return padding.stack([padded._replace(nodes={**padded.nodes, **features})])


@pytest.fixture(scope="module")
def variables():
    """Parameters of which every term is seen."""
    graph = random_graph(0, 10)
    shapes = jax.eval_shape(EMBEDDER.init, jax.random.key(0), np.zeros((1, 64, 8), np.float32), batch(graph))
    return random_like(shapes)


def random_like(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), jnp.float32), shapes)


def features_of(nodes, seed=0):
    return np.random.default_rng(seed).standard_normal((nodes, 8)).astype(np.float32)


def embed(variables, graph, features, nodes=64, **replaced):
    """Embeddings; padding has features of its own, which must not be seen."""
    filled = np.full((1, nodes, 8), 3.0, np.float32)
    filled[0, : len(features)] = features
    return np.asarray(apply(variables, filled, batch(graph, nodes, **replaced)))[0, : len(features)]


def slow_graphormer(params, features, distances):
    """The published computation in double precision, with an MLP for every pair of nodes."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    nodes, hid = features.shape
    heads = CONFIG.heads

    def linear(x, p):
        return x @ p["kernel"] + p["bias"]

    def norm(x, p):
        centered = x - x.mean(-1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    x = np.array(features, np.float64)
    for node in range(nodes):
        x[node] += params["in_degree"][min((distances[:, node] == 1).sum(), 100)]
        x[node] += params["out_degree"][min((distances[node] == 1).sum(), 100)]
        x[node] += params["input_distance"][min(distances[0, node], 1000)]
    bias = np.zeros((nodes, nodes, heads))
    for i in range(nodes):
        for j in range(nodes):
            pair = [params["edge"][min(d, 254) + 2] for d in (distances[i, j], distances[j, i])]
            hidden = np.maximum(linear(np.concatenate(pair), params["edge_bias"]["first"]), 0)
            bias[i, j] = linear(hidden, params["edge_bias"]["second"])
    for number in range(CONFIG.layers):
        layer = params[f"layers_{number}"]
        q, k, v = np.split(norm(x, layer["attention_norm"]) @ layer["qkv"], 3, axis=1)
        mixed = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * hid // heads, (head + 1) * hid // heads)
            logits = q[:, part] @ k[:, part].T / np.sqrt(hid // heads) + bias[:, :, head]
            weights = np.exp(logits - logits.max(1, keepdims=True))
            mixed[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
        x = x + linear(mixed, layer["out"])
        hidden = linear(norm(x, layer["mlp_norm"]), layer["first"])
        x = x + linear(hidden * (1 + scipy.special.erf(hidden / np.sqrt(2))) / 2, layer["second"])
    return x


def test_equals_the_published_computation(variables):
    graph, features = random_graph(3, NODES), features_of(NODES)
    expected = slow_graphormer(variables["params"], features, graph.distances)
    np.testing.assert_allclose(embed(variables, graph, features), expected, atol=2e-5)


def test_padding_and_neighbours_in_the_batch_change_nothing(variables):
    graphs = [random_graph(seed, nodes) for seed, nodes in ((3, NODES), (4, 12), (5, 63))]
    features = [features_of(graph.num_nodes) for graph in graphs]
    alone = [embed(variables, graph, given) for graph, given in zip(graphs, features, strict=True)]
    together = np.full((3, 96, 8), -7.0, np.float32)
    for row, given in zip(together, features, strict=True):
        row[: len(given)] = given
    padded = padding.stack([padding.pad(graph, 96, CONFIG.max_distance) for graph in graphs])
    found = np.asarray(apply(variables, together, padded))
    assert np.isfinite(found).all()
    for row, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, atol=3e-6)


def test_the_gradient_ignores_padding(variables):
    graph = random_graph(4, 12)
    padded = batch(graph)

    def loss(features):
        return (EMBEDDER.apply(variables, features, padded)[0, :12] ** 2).sum()

    filled = np.zeros((1, 64, 8), np.float32)
    filled[0, :12] = features_of(12)
    gradient = np.asarray(jax.jit(jax.grad(loss))(filled))[0]
    assert np.abs(gradient[:12]).max() > 0.1 and not gradient[12:].any()


def test_distances_and_degrees_beyond_the_tables_count_as_the_largest(variables):
    """Graphs are cut at distance 50, so such distances are made here."""
    nodes = 120
    distances = np.zeros((nodes, nodes), np.int32)
    distances[0, 1:] = 1  # 119 out-edges of the input
    distances[1:-1, -1] = 1  # 119 in-edges of the output
    distances[2, 5], distances[3, 7], distances[4, 6] = 254, 255, 4000
    graph, features = random_graph(0, nodes), features_of(nodes)
    padded = np.zeros((128, 128), np.int32)
    padded[:nodes, :nodes] = distances
    found = embed(variables, graph, features, 128, distances=padded)
    np.testing.assert_allclose(found, slow_graphormer(variables["params"], features, distances), atol=5e-5)
    padded[3, 7], padded[4, 6] = 254, 254
    np.testing.assert_array_equal(embed(variables, graph, features, 128, distances=padded), found)
    padded[0, 1:nodes] = distances[0, 1:] * 1001
    farther = np.where(padded == 1001, 5000, padded)
    expected = embed(variables, graph, features, 128, distances=padded)
    np.testing.assert_array_equal(embed(variables, graph, features, 128, distances=farther), expected)


def test_bfloat16_rounds_the_factors_of_products_alone(variables):
    graph, features = random_graph(3, NODES), features_of(NODES)
    exact = embed(variables, graph, features)
    filled = np.zeros((1, 64, 8), np.float32)
    filled[0, :NODES] = features
    rounding = Graphormer(dataclasses.replace(CONFIG, embedder_dtype="bfloat16"))
    rounded = jax.jit(rounding.apply)(variables, filled, batch(graph))
    assert rounded.dtype == np.float32
    error = np.abs(np.asarray(rounded)[0, :NODES] - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 3e-2


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("ghn3t", IMAGENET, 6_906_632),
        ("ghn3s", IMAGENET, 35_810_368),
        ("ghn3l", IMAGENET, 214_668_960),
        ("ghn3xl", IMAGENET, 654_365_184),
        ("ghn3t", CIFAR10, 4_531_500),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(name, task, expected):
    assert sum(leaf.size for leaf in jax.tree.leaves(param_shapes(HYPERNETWORKS[name].make(task)))) == expected


def test_embeddings_start_with_a_deviation_that_depends_on_their_length():
    sizes = (4, 64)

    @jax.jit
    def start(key):
        return [[embedding_init(config)(key, (2000, size)) for size in sizes] for config in (CONFIG, ghn2())]

    small, usual = start(jax.random.key(0))
    for size, table, normal in zip(sizes, small, usual, strict=True):
        assert np.std(table) == pytest.approx(size**-0.5, rel=0.02) and np.abs(table).max() <= 2
        assert np.std(normal) == pytest.approx(1, rel=0.02) and np.abs(normal).max() > 3


def test_last_layers_of_decoders_start_small():
    """A fifth of PyTorch's default, without biases; the layer of class biases is as in GHN-2."""
    nodes, positions = np.zeros((1, 8), np.float32), np.zeros(1, np.int32)

    @jax.jit
    def start(key):
        conv = CenteredConvDecoder(CONFIG).init(key, nodes, positions, method="class_weight")
        return conv["params"], VectorDecoder(CONFIG).init(key, nodes, positions, method="class_bias")["params"]

    conv, vector = start(jax.random.key(0))
    for kernel, bias, fan_in in (
        (conv["kernel"], conv["bias"], 64),
        (conv["classes"]["kernel"], conv["classes"]["bias"], 8),
        (vector["mlp"]["second"]["kernel"], vector["mlp"]["second"]["bias"], 16),
    ):
        assert np.abs(kernel).max() == pytest.approx(fan_in**-0.5 / 5, rel=0.1) and not np.any(bias)
    assert np.abs(vector["classes"]["kernel"]).max() == pytest.approx(8**-0.5, rel=0.1)
    assert np.all(vector["classes"]["bias"])


def test_class_weights_come_from_the_middle_of_the_largest_kernel():
    decoder, corner = CenteredConvDecoder(CONFIG), ConvDecoder(CONFIG)
    nodes = features_of(2)
    start = functools.partial(decoder.init, method="class_weight")
    variables = random_like(jax.eval_shape(start, jax.random.key(0), nodes, np.zeros(2, np.int32)))
    found = decoder.apply(variables, nodes, np.zeros(2, np.int32), method="class_weight")
    expected = corner.apply(variables, nodes, np.full(2, 1 * 3 + 1, np.int32), method="class_weight")
    assert found.shape == (2, 8, 10)
    np.testing.assert_array_equal(found, expected)
