import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_graphs import random_graph, reorder
from flax import linen as nn
from random_ghns import CONFIGS, SMALL, random_ghn

from ghn_jax.ghn.config import ConfigError, ghn2
from ghn_jax.ghn.fit import fit
from ghn_jax.ghn.hypernetwork import Hypernetwork
from ghn_jax.ghn.model import GHN
from ghn_jax.ghn.rows import request
from ghn_jax.graphs import padding
from ghn_jax.graphs.graph import GraphError, Role
from ghn_jax.prediction import predict
from ghn_jax.prediction.predict import embed_nodes, predict_params
from ghn_jax.runtime import counted
from ghn_jax.tracing.frontends import trace
from ghn_jax.weights import conversion


@pytest.fixture(scope="module")
def ghn():
    return random_ghn(SMALL)


@pytest.mark.parametrize("config", CONFIGS, ids=["ghn2", "mlp decoder", "mlp", "ghn1", "ghn3"])
def test_equals_the_training_path(config):
    """A meta-batch decoded and fitted with jax.numpy gives the same as one network after the other with NumPy."""
    ghn = random_ghn(config)
    graphs = [random_graph(seed, 12 + 20 * seed) for seed in range(3)]
    requests, placements = request(graphs, 64, config)
    requests = {table: rows.padded(len(rows.nodes) + 5) for table, rows in requests.items()}
    batch = padding.stack([padding.pad(graph, 64, config.max_distance) for graph in graphs])
    decoded = jax.jit(Hypernetwork(config).apply)({"params": ghn.params}, batch, requests)
    for graph, places in zip(graphs, placements, strict=True):
        predicted = predict_params(graph, ghn)
        assert list(predicted) == [tensor.name for tensor in graph.tensors]
        for tensor, place in zip(graph.tensors, places, strict=True):
            rows = decoded[place.table][place.start : place.start + place.rows]
            expected = fit(rows, tensor, config, jnp)
            value = predicted[tensor.name]
            assert isinstance(value, jax.Array) and value.dtype == jnp.float32
            assert value.shape == expected.shape == tensor.shape
            np.testing.assert_allclose(value, expected, atol=5e-6, err_msg=str(tensor))


def test_order_of_the_nodes_changes_nothing(ghn):
    graph = random_graph(seed=5, nodes=40)
    other, place = reorder(graph, seed=1)
    np.testing.assert_allclose(embed_nodes(other, ghn)[place], embed_nodes(graph, ghn), atol=5e-6)
    first, second = predict_params(graph, ghn), predict_params(other, ghn)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, atol=5e-6)


def test_large_tensors_are_written_by_several_threads(ghn):
    graph = random_graph(seed=1, nodes=30)
    tensors = tuple(
        dataclasses.replace(tensor, shape=(3, 3, 500, 700)) if tensor.role is Role.WEIGHT else tensor
        for tensor in graph.tensors
    )
    graph = dataclasses.replace(graph, tensors=tensors)
    assert graph.num_params > 4_000_000
    predicted = predict_params(graph, ghn)
    for tensor in tensors:
        value = np.asarray(predicted[tensor.name])
        assert np.isfinite(value).all()
        if tensor.role is Role.WEIGHT:
            np.testing.assert_array_equal(value, np.tile(value[:, :, :8, :8], (1, 1, 63, 88))[:, :, :500, :700])


def test_new_architectures_compile_nothing(ghn):
    for nodes in (50, 100):
        predict_params(random_graph(seed=0, nodes=nodes), ghn)
    with counted() as compilations:
        for seed in range(1, 25):
            predict_params(random_graph(seed, nodes=5 + 5 * seed), ghn)
        assert compilations == []
        jax.jit(lambda x: x * 3 + len(compilations))(jnp.ones(7))
        assert len(compilations) >= 1  # the listener does hear compilations


def test_initial_weights_are_distributed_as_in_the_original():
    config = ghn2()
    params = GHN.init(config, seed=0).params
    expected = sum(np.prod(entry.shape) for entry in conversion.state_entries(config).values())
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    decoder = params["decoder"]
    for name, fan_in in (("position_kernel", 32), ("position_bias", 32), ("kernel", 256), ("bias", 256)):
        values = np.asarray(decoder[name])
        bound = fan_in**-0.5
        assert np.abs(values).max() <= bound
        np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.05)
    np.testing.assert_allclose(np.asarray(params["shape_encoder"]["channels"]).std(), 1, rtol=0.1)
    same, other = (GHN.init(config, seed).params["decoder"] for seed in (0, 1))
    np.testing.assert_array_equal(same["kernel"], decoder["kernel"])
    assert np.mean(np.asarray(other["kernel"]) == np.asarray(decoder["kernel"])) < 0.01


@pytest.mark.parametrize("role", [Role.CLASS_WEIGHT, Role.CLASS_BIAS])
def test_another_number_of_classes_is_refused(ghn, role):
    graph = random_graph(seed=0, nodes=20, num_classes=100)
    graph = dataclasses.replace(graph, tensors=tuple(t for t in graph.tensors if t.role is role))
    with pytest.raises(GraphError, match=f"{graph.tensors[0].name!r} has 100 classes, .* predicts for 10"):
        predict_params(graph, ghn)


def test_bad_arguments_are_refused(ghn):
    graph = random_graph(seed=0, nodes=20)
    with pytest.raises(GraphError, match="expected a ghn_jax Graph, got str"):
        predict_params("resnet50", ghn)
    with pytest.raises(TypeError, match="expected a GHN, such as .*, got a dict"):
        predict_params(graph, ghn.params)
    twice = dataclasses.replace(graph, tensors=graph.tensors + graph.tensors[:1])
    with pytest.raises(GraphError, match=f"two tensors are called {graph.tensors[0].name!r}"):
        predict_params(twice, ghn)


def test_a_graph_without_tensors_has_no_parameters(ghn):
    assert predict_params(dataclasses.replace(random_graph(0, 20), tensors=()), ghn) == {}


def test_weights_that_are_not_finite_are_refused(ghn):
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, ghn.params)
    with pytest.raises(ConfigError, match="array .* of the hypernetwork has values that are not finite"):
        predict_params(random_graph(seed=0, nodes=20), dataclasses.replace(ghn, params=params))


def test_a_list_of_graphs_is_predicted_like_each(ghn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.relu(nn.Conv(24, (3, 3))(x)).mean((1, 2)))

    graphs = [random_graph(seed, 12 + 30 * seed) for seed in range(4)]
    graphs.append(trace(Model(), jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")))
    together = predict_params(graphs * 4, ghn)  # more than are decoded at once
    assert len(together) == 20
    for number, found in enumerate(together):
        expected = predict_params(graphs[number % 5], ghn)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for value, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(value, other, atol=5e-6)
    assert predict_params([], ghn) == []
    with pytest.raises(GraphError, match="expected a ghn_jax Graph, got str"):
        predict_params([graphs[0], "resnet50"], ghn)


def test_arrays_are_those_of_device_put(ghn):
    """The short way into JAX makes what the public one does, and copies nothing either."""
    graph = random_graph(seed=2, nodes=30)
    device = jax.devices("cpu")[-1]
    with jax.default_device(device):
        for value in predict_params(graph, ghn).values():
            expected = jax.device_put(np.asarray(value), may_alias=True)
            assert (value.aval, value.sharding, value.committed) == (expected.aval, expected.sharding, False)
    memory = predict._allocate([(3, 5), (7,)])
    pointers = [array.ctypes.data for array in memory]
    arrays = predict._as_jax(memory)
    assert [array.unsafe_buffer_pointer() for array in arrays] == pointers
    memory[0][:] = 2
    del memory
    np.testing.assert_array_equal(arrays[0], np.full((3, 5), 2))
