"""Prediction as on an accelerator, on the CPU: the same values as with NumPy, in the same places."""

import concurrent.futures
import contextlib
import dataclasses
import sys
import types

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from example_graphs import random_graph
from flax import linen as nn
from random_ghns import CONFIGS, SMALL, random_ghn

import ghn_jax
from ghn_jax.ghn.rows import Table
from ghn_jax.graphs.graph import GraphError
from ghn_jax.networks.platforms import accelerator
from ghn_jax.prediction import on_cpu, predict
from ghn_jax.prediction.on_device import programs_of
from ghn_jax.prediction.predict import predict_params, warm_up
from ghn_jax.runtime import counted

sys.path.insert(0, str(scripts.ROOT))
from examples.models import gpt, mobilenet, vit  # noqa: E402

GHN = random_ghn(SMALL)


@contextlib.contextmanager
def device_as_accelerator():
    """Within, the CPU passes for an accelerator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "accelerator", lambda: jax.devices()[0])
        yield


def assert_same(graph, ghn=GHN, **options):
    """Checks that both ways predict the same, up to rounding, a millionth of an array's largest value; returns it."""
    expected = predict_params(graph, ghn, **options)
    with device_as_accelerator():
        found = predict_params(graph, ghn, **options)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, value), like in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path)
        assert isinstance(value, jax.Array) and (value.dtype, value.shape) == (like.dtype, like.shape), name
        assert not value.committed, name  # JAX may spread it over other devices
        precision = max(1e-6, float(jnp.finfo(value.dtype).eps)) if jnp.issubdtype(value.dtype, jnp.floating) else 0
        value, like = np.asarray(value, np.float64), np.asarray(like, np.float64)
        np.testing.assert_allclose(value, like, rtol=0, atol=precision * np.abs(like).max(initial=0), err_msg=name)
    return found


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def function(**shapes):
    """Parameters of these shapes."""
    return {name: shape(*sizes) for name, sizes in shapes.items()}


@pytest.mark.parametrize("config", CONFIGS, ids=["ghn2", "mlp decoder", "mlp", "ghn1", "ghn3"])
def test_tensors_of_programs(config):
    ghn = random_ghn(config)
    for seed in range(2):
        graph = random_graph(seed, 20 + 60 * seed)
        assert list(assert_same(graph, ghn)) == [tensor.name for tensor in graph.tensors]


@pytest.mark.parametrize(
    "model, sample",
    [
        (mobilenet.mobilenet_v2(), shape(1, 32, 32, 3)),
        (vit.vit_s16(), shape(1, 32, 32, 3)),
        (gpt.gpt_small(), shape(1, 64, dtype=jnp.int32)),
    ],
    ids=["mobilenet", "vit", "gpt"],
)
def test_models(model, sample):
    assert_same(ghn_jax.trace(model, sample))


def _parts(params, x):
    return x @ params["w"][:, :3], jax.nn.relu(x @ params["w"][:, 3:])


def _positions(params, x):
    return x @ params["w"] + params["positions"]


def _transposed(params, x):
    return jnp.einsum("oi,bi->bo", params["w"], x)


def _ensemble(params, x):
    def member(p):
        y = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y + p["b"]).mean((1, 2)) @ p["w"]

    return jax.vmap(member)(params).mean(0)


def _empty(params, x):
    return x @ params["w"] + params["none"].sum()


FUNCTIONS = {
    "parts": (_parts, function(w=(4, 8)), shape(2, 4)),
    "cut": (_positions, function(w=(4, 8), positions=(1, 10, 8)), shape(2, 10, 4)),
    "transposed": (_transposed, function(w=(6, 4)), shape(2, 4)),
    "split": (_ensemble, function(k=(5, 3, 3, 3, 8), b=(5, 8), w=(5, 8, 2)), shape(2, 8, 8, 3)),
    "empty": (_empty, function(w=(4, 8), none=(0, 3)), shape(2, 4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_that_are_not_leaves_as_they_stand(name):
    run, params, sample = FUNCTIONS[name]
    graph = ghn_jax.trace(run, params, sample)
    place = {
        "parts": lambda p: p.parts[1] in ((0, 3), (3, 8)),
        "cut": lambda p: p.cut == 10,
        "transposed": lambda p: p.order == (1, 0),
        "split": lambda p: p.order != tuple(range(len(p.order))),
        "empty": lambda p: p.leaf == 1,
    }[name]
    assert any(place(tensor.place) for tensor in graph.tensors)
    assert_same(graph)


def test_types_are_kept():
    params = {"w": shape(4, 8, dtype=jnp.bfloat16), "b": shape(8, dtype=jnp.float16)}
    found = assert_same(ghn_jax.trace(lambda p, x: x @ p["w"] + p["b"], params, shape(2, 4)))
    assert found["w"].dtype == jnp.bfloat16 and found["b"].dtype == jnp.float16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_not_predicted_keeps_its_values(dtype):
    def run(params, x):
        return x @ params["w"][:, :3] + params["b"]

    params = {
        "w": np.full((4, 8), 7, dtype),
        "b": jnp.ones(3, dtype),
        "idle": jnp.full(2, 5, dtype),
        "steps": jnp.arange(3),
    }
    found = assert_same(ghn_jax.trace(run, params, shape(2, 4)))
    assert np.all(np.asarray(found["w"][:, 3:]) == 7) and not np.any(np.asarray(found["w"][:, :3]) == 7)
    assert np.all(np.asarray(found["idle"]) == 5) and np.array_equal(found["steps"], params["steps"])


def test_own_initialisers_are_seeded():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x) ** self.param("power", nn.initializers.uniform(), (4,))

    graph = ghn_jax.trace(Net(), jnp.ones((2, 4)))
    assert not np.array_equal(assert_same(graph, seed=1)["power"], assert_same(graph, seed=2)["power"])


def test_the_class_layer_of_another_number_of_classes_is_an_ordinary_one():
    for classes in (10, 7):
        assert_same(
            ghn_jax.trace(lambda p, x: x @ p["w"] + p["b"], function(w=(8, classes), b=(classes,)), shape(2, 8))
        )


def test_a_graph_without_tensors_has_no_parameters():
    assert assert_same(dataclasses.replace(random_graph(0, 20), tensors=())) == {}


def test_errors_are_those_of_the_cpu():
    graph = random_graph(seed=0, nodes=20, num_classes=100)
    with device_as_accelerator(), pytest.raises(GraphError, match="has 100 classes, .* predicts for 10"):
        predict_params(graph, GHN)


@pytest.mark.parametrize("form", [flax.core.freeze, lambda params: jax.tree.map(np.asarray, params)])
def test_parameters_of_the_hypernetwork_in_other_forms(form):
    assert_same(random_graph(seed=0, nodes=20), dataclasses.replace(GHN, params=form(GHN.params)))


def test_other_weights_of_one_hypernetwork_compile_nothing():
    graph = random_graph(seed=3, nodes=20)
    assert_same(graph)
    other = random_ghn(SMALL, seed=1)
    with device_as_accelerator(), counted() as compilations:
        predict_params(graph, other)
    assert compilations == []


def test_shapes_that_were_met_compile_nothing():
    graph = random_graph(seed=2, nodes=50)
    larger = random_graph(seed=2, nodes=60)
    kinds = {(tensor.role, tensor.shape): tensor for tensor in graph.tensors}
    tensors = tuple(tensor for tensor in larger.tensors if (tensor.role, tensor.shape) in kinds)
    larger = dataclasses.replace(larger, tensors=tensors)
    with device_as_accelerator():
        predict_params(graph, GHN)
        with counted() as compilations:
            assert predict_params(larger, GHN).keys() == {tensor.name for tensor in tensors}
    assert len(tensors) > 10 and compilations == []


def test_warm_up_compiles_all_but_shapes_of_parameters():
    ghn = random_ghn(dataclasses.replace(SMALL, hypernet="mlp", hid=12))
    graphs = [
        random_graph(seed=0, nodes=20),
        ghn_jax.trace(lambda p, x: x @ p["w"][:, :3], {"w": np.ones((4, 8), np.float32)}, shape(2, 4)),
        ghn_jax.trace(lambda p, x: x @ p["w"] + p["b"], function(w=(8, 7), b=(7,)), shape(2, 8)),
    ]
    predict_params(graphs[1], ghn)  # the initial values are fetched by a program of their own
    with device_as_accelerator():
        warm_up(ghn, max_nodes=130, graphs=graphs)
        ready = programs_of(jax.devices()[0]).started
        for graph in [*graphs, random_graph(seed=0, nodes=100), random_graph(seed=0, nodes=130)]:
            graph = graph if graph.tree else dataclasses.replace(graph, tensors=graphs[0].tensors)
            with counted() as compilations:
                predict_params(graph, ghn)
            assert compilations == []
        assert programs_of(jax.devices()[0]).started == ready
        predict_params(random_graph(seed=0, nodes=200), ghn)
        assert programs_of(jax.devices()[0]).started > ready


def test_warm_up_on_a_cpu_compiles_everything():
    ghn = random_ghn(dataclasses.replace(SMALL, hypernet="mlp", hid=16))
    warm_up(ghn, max_nodes=100, graphs=[random_graph(seed=0, nodes=20)])
    with counted() as compilations:
        for nodes in (20, 70, 100):
            predict_params(random_graph(seed=0, nodes=nodes), ghn)
    assert compilations == []


def test_threads_share_what_is_compiled():
    """Threads that predict at the same moment, before anything is compiled, compile each program once."""
    ghn, graph = random_ghn(dataclasses.replace(SMALL, hypernet="mlp", hid=24)), random_graph(seed=0, nodes=20)
    programs = on_cpu.programs_on(jax.devices()[0])
    before = programs.started
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: predict_params(graph, ghn), range(4)))
    assert 0 < programs.started - before <= 1 + len(Table) + 1  # for a graph, every table, the corner of one
    for params in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, params, found[0])


def test_warm_up_refuses_what_cannot_be_predicted():
    with pytest.raises(GraphError, match="3000 nodes is too large"):
        warm_up(GHN, max_nodes=3000)
    with pytest.raises(GraphError, match="expected a ghn_jax Graph, got str"):
        warm_up(GHN, graphs=["resnet50"])
    with pytest.raises(TypeError, match="warm_up expected a GHN, such as .*, got a dict"):
        warm_up(GHN.params)


def test_accelerators_are_told_by_the_default_device(monkeypatch):
    cpu, gpu = jax.devices()[0], types.SimpleNamespace(platform="cuda")
    assert accelerator() is None
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: [cpu if backend == "cpu" else gpu])
    assert accelerator() is gpu
    with jax.default_device(cpu):
        assert accelerator() is None
    with jax.default_device("cpu"):
        assert accelerator() is None
