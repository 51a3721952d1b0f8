"""GHN-orth against its rules written out with NumPy, on graphs of architectures and of traced models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import ghn_jax
from ghn_jax.evaluation.orthogonalise import orthogonalise
from ghn_jax.graphs.graph import Graph, GraphError, Role, Tensor


def graph_of(*tensors):
    nodes = max(tensor.node for tensor in tensors) + 1
    return Graph(np.zeros(nodes, np.int32), np.zeros((nodes, 4), np.int32), np.zeros((nodes, nodes), np.int32), tensors)


GRAPH = graph_of(
    Tensor("a.weight", 0, Role.WEIGHT, (3, 3, 6, 4)),
    Tensor("norm.weight", 1, Role.NORM_WEIGHT, (4,)),
    Tensor("norm.bias", 1, Role.BIAS, (4,)),
    Tensor("b.weight", 2, Role.WEIGHT, (4, 9)),
    Tensor("b.bias", 2, Role.BIAS, (9,)),
    Tensor("c.weight", 3, Role.CLASS_WEIGHT, (9, 9)),
)


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {tensor.name: jnp.asarray(rng.standard_normal(tensor.shape), jnp.float32) for tensor in GRAPH.tensors}


def test_late_layers_become_orthogonal(params):
    done = orthogonalise(GRAPH, params, beta=0.0, layer=2, max_channels=2)
    for name in ("a.weight", "norm.weight", "norm.bias", "b.bias", "c.weight"):
        np.testing.assert_array_equal(done[name], params[name])
    weight = np.asarray(params["b.weight"]).T  # [out, in]
    factor, triangle = np.linalg.qr(weight)
    np.testing.assert_allclose(done["b.weight"], (factor * np.sign(np.diag(triangle))).T, rtol=1e-5, atol=1e-6)
    first = orthogonalise(GRAPH, params, beta=0.0, layer=1, max_channels=4)["a.weight"]
    rows = np.asarray(first).transpose(3, 2, 0, 1).reshape(4, -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-5)
    untouched = orthogonalise(GRAPH, params, beta=0.0, layer=1, max_channels=6)["a.weight"]
    np.testing.assert_array_equal(untouched, params["a.weight"])


def test_noise_has_the_scale_of_the_correlations_and_leaves_what_is_decoded(params):
    differences = []
    for seed in range(300):
        done = orthogonalise(GRAPH, params, beta=0.1, orthogonal=False, max_channels=2, seed=seed)
        differences.append({name: np.asarray(done[name]) - np.asarray(params[name]) for name in done})
    weight = np.asarray(params["a.weight"]).transpose(3, 2, 0, 1).reshape(4, -1)
    scale = 0.1 * np.std(np.corrcoef(weight.T), ddof=1)
    noise = np.stack([one["a.weight"] for one in differences])
    assert not noise[..., :2, :].any() and not noise[..., :2].any()
    assert noise[..., 2:, 2:].std() == pytest.approx(scale, rel=0.05)
    for name in ("norm.weight", "norm.bias"):
        noise = np.stack([one[name] for one in differences])
        assert not noise[:, :2].any() and noise[:, 2:].std() == pytest.approx(scale, rel=0.1)
    assert not any(one["b.bias"].any() or one["c.weight"].any() for one in differences)
    again = orthogonalise(GRAPH, params, beta=0.1, orthogonal=False, max_channels=2, seed=7)
    np.testing.assert_array_equal(again["a.weight"] - params["a.weight"], differences[7]["a.weight"])


def test_a_model_keeps_its_tree():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(96, (3, 3), name="first")(x)).mean((1, 2))
            return nn.Dense(10, name="last")(nn.Dense(80, name="middle")(x))

    graph = ghn_jax.trace(Model(), jnp.ones((2, 32, 32, 3)))
    params = ghn_jax.predict_params(graph)
    done = orthogonalise(graph, params, layer=2)
    assert jax.tree.structure(done) == jax.tree.structure(params)
    middle = np.asarray(done["middle"]["kernel"])
    np.testing.assert_allclose(middle.T @ middle, np.eye(80), atol=1e-4)
    for layer, name in (("first", "bias"), ("last", "kernel")):
        np.testing.assert_array_equal(done[layer][name], params[layer][name])


def test_bad_input(params):
    for options, message in (
        ({"beta": -1.0}, "beta=-1.0: expected"),
        ({"orthogonal": "yes"}, "orthogonal='yes': expected True or False"),
        ({"layer": -1}, "layer=-1"),
        ({"seed": 0.5}, "seed=0.5"),
    ):
        with pytest.raises(GraphError, match=message):
            orthogonalise(GRAPH, params, **options)
