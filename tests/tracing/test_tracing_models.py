"""Linen models, functions and pytrees: structure of the predicted tree, reports, and what cannot be traced."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from flax import linen as nn
from random_ghns import SMALL, random_ghn
from traced import assert_tree, counts

import ghn_jax
from ghn_jax import TraceError, Verdict
from ghn_jax.graphs.graph import GraphError
from ghn_jax.prediction.predict import predict_params
from ghn_jax.runtime import counted

sys.path.insert(0, str(scripts.ROOT))
from examples.models import convnext, densenet, gpt, mobilenet, resnet, unet, vgg, vit  # noqa: E402

GHN = random_ghn(SMALL)
LARGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
CIFAR = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((1, 64), jnp.int32)

LINEN = {
    # Parameters as published (or as counted by torchvision), and what the models are made of.
    "resnet18": (resnet.resnet18(), LARGE, 11_689_512, {"conv": 21, "bn": 20, "sum": 8, "max_pool": 1}),
    "resnet50": (resnet.resnet50(), LARGE, 25_557_032, {"conv": 54, "bn": 53, "sum": 16, "max_pool": 1}),
    "wide_resnet": (resnet.wide_resnet28_10(), CIFAR, 36_479_194, {"conv": 29, "bn": 25, "sum": 12}),
    "vgg16": (vgg.vgg16(), LARGE, 138_365_992, {"conv": 16, "bias": 16, "bn": 13, "max_pool": 5}),
    "densenet121": (densenet.densenet121(), LARGE, 7_978_856, {"conv": 121, "bn": 121, "concat": 58, "avg_pool": 3}),
    "mobilenet_v2": (mobilenet.mobilenet_v2(), LARGE, 3_504_872, {"conv": 36, "sep_conv": 17, "bn": 52, "sum": 10}),
    "mobilenet_v3": (mobilenet.mobilenet_v3(), LARGE, 5_483_032, {"conv": 49, "sep_conv": 15, "cse": 8, "sum": 10}),
    "efficientnet_b0": (mobilenet.efficientnet_b0(), LARGE, 5_288_548, {"sep_conv": 16, "cse": 16, "bn": 49, "sum": 9}),
    "convnext": (convnext.convnext_tiny(), LARGE, 28_589_128, {"sep_conv": 18, "ln": 23, "bn": 18, "sum": 18}),
    "vit_s16": (vit.vit_s16(), LARGE, 22_050_664, {"msa": 12, "ln": 25, "pos_enc": 2, "concat": 1, "sum": 25}),
    "mixer": (vit.mixer_s16(), LARGE, 18_528_264, {"conv": 34, "ln": 17, "sum": 16, "glob_avg": 1}),
    "unet": (unet.unet_encoder(), CIFAR, 18_847_168, {"conv": 10, "ln": 10, "max_pool": 4}),
    "gpt": (gpt.gpt_small(), TOKENS, 13_891_584, {"conv": 38, "msa": 6, "ln": 13, "pos_enc": 1, "sum": 13}),
    "gpt in half precision": (gpt.gpt_small(dtype=jnp.bfloat16), TOKENS, 13_891_584, {"conv": 38, "msa": 6, "ln": 13}),
}  # fmt: skip


@pytest.mark.parametrize("name", LINEN)
def test_linen_models(name):
    model, sample, num_params, nodes = LINEN[name]
    graph = ghn_jax.trace(model, sample, strict=True)
    found = counts(graph)
    assert {node_type: found[node_type] for node_type in nodes} == nodes
    assert graph.num_params == graph.tree.num_params == num_params
    report = ghn_jax.report(graph)
    assert report.share_predicted == 1 and not report.of(Verdict.INITIALISED)
    if num_params < 30_000_000:
        expected = jax.eval_shape(model.init, {"params": jax.random.key(0), "dropout": jax.random.key(0)}, sample)
        assert_tree(predict_params(graph, GHN), expected["params"])


class Small(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(nn.Dropout(0.5, deterministic=not train)(x))


def test_bound_modules_and_arguments():
    x = jnp.ones((2, 4))
    variables = Small().init(jax.random.key(0), x)
    graphs = [
        ghn_jax.trace(Small(), x),
        ghn_jax.trace(Small().bind(variables), x),
        ghn_jax.trace(Small(), jax.ShapeDtypeStruct(x.shape, x.dtype), train=True),
        ghn_jax.trace(Small(), np.ones((2, 4), np.float32), True, rngs={"dropout": jax.random.key(3)}),
    ]
    for graph in graphs:
        assert counts(graph) == {"input": 1, "conv": 2, "bias": 2}
        assert_tree(predict_params(graph, GHN), variables["params"])


def test_boxed_parameters_stay_boxed():
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
            return nn.Dense(8, kernel_init=init)(x)

    graph = ghn_jax.trace(Boxed(), jnp.ones((2, 4)), strict=True)
    params = predict_params(graph, GHN)
    assert isinstance(params["Dense_0"]["kernel"], nn.Partitioned)
    assert Boxed().apply({"params": params}, jnp.ones((2, 4))).shape == (2, 8)


def test_setup_modules_and_methods():
    class AutoEncoder(nn.Module):
        def setup(self):
            self.encoder, self.decoder = nn.Dense(3), nn.Dense(8)

        def __call__(self, x):
            return self.decoder(nn.relu(self.encoder(x)))

        def encode(self, x):
            return self.encoder(x)

    graph = ghn_jax.trace(AutoEncoder(), jnp.ones((2, 8)), strict=True)
    assert counts(graph) == {"input": 1, "conv": 2, "bias": 2}
    graph = ghn_jax.trace(AutoEncoder(), jnp.ones((2, 8)), method=AutoEncoder.encode)
    assert counts(graph) == {"input": 1, "conv": 1, "bias": 1}


def test_a_callable_pytree_as_of_equinox():
    @jax.tree_util.register_pytree_with_keys_class
    class Layer:
        def __init__(self, weight, activation):
            self.weight, self.activation = weight, activation

        def tree_flatten_with_keys(self):
            key = jax.tree_util.GetAttrKey
            return [(key("weight"), self.weight), (key("activation"), self.activation)], None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

        def __call__(self, x):
            return self.activation(self.weight @ x)

    model = Layer(jnp.ones((8, 4)), jax.nn.relu)
    graph = ghn_jax.trace(model, jnp.ones(4), strict=True)
    predicted = predict_params(graph, GHN)
    assert isinstance(predicted, Layer) and predicted.activation is jax.nn.relu
    assert [tensor.name for tensor in graph.tensors] == ["weight"] and predicted.weight.shape == (8, 4)


@pytest.mark.skipif(importlib.util.find_spec("haiku") is None, reason="Haiku is not installed")
def test_haiku():
    import haiku as hk

    net = hk.transform_with_state(lambda x: hk.nets.ResNet18(10)(x, is_training=True))
    params, state = jax.eval_shape(net.init, jax.random.key(0), CIFAR)
    graph = ghn_jax.trace(lambda p, s, x: net.apply(p, s, None, x)[0], params, state, CIFAR, strict=True)
    assert {t: counts(graph)[t] for t in ("conv", "bn", "sum")} == {"conv": 21, "bn": 20, "sum": 8}
    assert_tree(predict_params(graph, GHN), params)


@pytest.mark.skipif(importlib.util.find_spec("equinox") is None, reason="Equinox is not installed")
def test_equinox():
    import equinox as eqx

    model = eqx.nn.MLP(4, 10, 16, 2, key=jax.random.key(0))
    graph = ghn_jax.trace(model, jnp.ones(4), strict=True)
    assert counts(graph) == {"input": 1, "conv": 3, "bias": 3}
    assert predict_params(graph, GHN)(jnp.ones(4)).shape == (10,)


@pytest.mark.skipif(importlib.util.find_spec("flaxmodels") is None, reason="flaxmodels is not installed")
def test_flaxmodels():
    import flaxmodels

    graph = ghn_jax.trace(flaxmodels.ResNet50(output="logits", pretrained=None), LARGE, strict=True)
    assert {t: counts(graph)[t] for t in ("conv", "bn", "sum", "max_pool")} == LINEN["resnet50"][3]


class Odd(nn.Module):
    """Has parameters that cannot be predicted: nothing reads one, one is an integer, one is used in an odd way."""

    @nn.compact
    def __call__(self, x):
        self.param("idle", nn.initializers.constant(5.0), (3,))
        steps = self.param("steps", lambda key: jnp.full((), 3, jnp.int32))
        power = self.param("power", nn.initializers.constant(2.0), ())
        return jnp.abs(nn.Dense(8)(x)) ** power + steps


def test_what_cannot_be_predicted_is_initialised_and_listed():
    graph = ghn_jax.trace(Odd(), jnp.ones((2, 4)))
    report = ghn_jax.report(graph)
    reasons = {row.name: row.reasons[0] for row in report.of(Verdict.INITIALISED)}
    assert reasons == {
        "idle": "the output does not depend on it",
        "power": "it is used by 'pow', which no layer of the hypernetwork's networks does",
    }
    (steps,) = report.of(Verdict.STATE)
    assert steps.name == "steps" and steps.reasons == ("its type is int32, only floating point numbers are predicted",)
    assert report.share_predicted == pytest.approx(40 / 44)
    assert "power" in str(report) and "initialised 2 tensors" in report.summary
    params = predict_params(graph, GHN)
    assert params["idle"].tolist() == [5.0] * 3 and params["power"] == 2 and params["steps"] == 3
    assert_tree(params, Odd().init(jax.random.key(0), jnp.ones((2, 4)))["params"])
    with pytest.raises(TraceError, match="'idle': the output does not depend on it; 'power'"):
        ghn_jax.trace(Odd(), jnp.ones((2, 4)), strict=True)
    with pytest.raises(GraphError, match="'idle': the output"):
        predict_params(graph, GHN, strict=True)


def test_own_initialisers_are_seeded():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x) ** self.param("power", nn.initializers.uniform(), (4,))

    graph = ghn_jax.trace(Net(), jnp.ones((2, 4)))
    powers = [predict_params(graph, GHN, seed=seed)["power"] for seed in (0, 0, 1)]
    assert np.array_equal(powers[0], powers[1]) and not np.array_equal(powers[0], powers[2])
    again = predict_params(ghn_jax.trace(Net(), jnp.ones((2, 4))), GHN, seed=1)["power"]
    np.testing.assert_array_equal(powers[2], again)


def test_nothing_is_computed():
    model = nn.Sequential(
        [
            nn.Conv(17, (3, 3)),
            nn.BatchNorm(use_running_average=False),
            nn.Dropout(0.5, deterministic=False),
            nn.Dense(3),
        ]
    )
    with counted() as compilations:
        ghn_jax.trace(model, jax.ShapeDtypeStruct((2, 9, 9, 3), jnp.float32))
        assert compilations == []
        jax.jit(lambda x: x * 3 + 17)(jnp.ones(19))
        assert compilations  # the listener does hear compilations


def test_shapes_alone_have_no_initial_values():
    params = {"w": jax.ShapeDtypeStruct((4, 8), jnp.float32), "idle": jax.ShapeDtypeStruct((3,), jnp.float32)}
    graph = ghn_jax.trace(lambda p, x: x @ p["w"], params, jnp.ones((2, 4)))
    with pytest.raises(GraphError, match="'idle': not predicted, and only a shape was given"):
        predict_params(graph, GHN)


def test_unknown_operations_are_named_with_their_place():
    class Whitening(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            return nn.Dense(3)(jnp.linalg.cholesky(x.T @ x + jnp.eye(4)))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Whitening(name="whitening")(x)

    graph = ghn_jax.trace(Net(), jnp.ones((2, 4)))
    assert graph.tree.unsupported == ("'cholesky' in Net/whitening",)
    assert "unknown operation: 'cholesky' in Net/whitening" in str(ghn_jax.report(graph))
    assert ghn_jax.report(graph).share_predicted == 1
    with pytest.raises(TraceError, match="unknown operation 'cholesky' in Net/whitening"):
        ghn_jax.trace(Net(), jnp.ones((2, 4)), strict=True)


def test_all_outputs_are_followed():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8)(x))
            return {"logits": nn.Dense(10, name="a")(x), "box": (nn.Dense(4, name="b")(x), x)}

    graph = ghn_jax.trace(Net(), jnp.ones((2, 4)), strict=True)
    assert counts(graph) == {"input": 1, "conv": 3, "bias": 3}


def test_inputs_that_are_no_images_are_reported():
    graph = ghn_jax.trace(Small(), jnp.ones((2, 4)))
    assert ghn_jax.report(graph).remarks == ("extrapolating: input float32[2,4] is no batch of RGB images",)
    graph = ghn_jax.trace(resnet.resnet18(), CIFAR)
    assert ghn_jax.report(graph).remarks == ()


def test_report_of_a_deepnets_graph():
    report = ghn_jax.report(ghn_jax.build_graph(ghn_jax.named("resnet50")))
    assert report.share_predicted == 1 and len(report.of(Verdict.SEEN)) == 161
    assert report.summary.startswith("161 parameter tensors, 23,520,842 elements, 126 nodes: seen 161 tensors")


def test_report_says_what_was_not_seen():
    params = {"w": jax.ShapeDtypeStruct((4, 4, 3, 20), jnp.float32), "e": jax.ShapeDtypeStruct((50, 20), jnp.float32)}

    def run(params, x, tokens):
        x = jax.lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x, params["e"][tokens]

    graph = ghn_jax.trace(run, params, jnp.ones((1, 8, 8, 3)), jnp.ones(5, int))
    rows = {row.name: row for row in ghn_jax.report(graph).rows}
    assert rows["w"].verdict is rows["e"].verdict is Verdict.EXTRAPOLATING
    assert rows["w"].reasons == ("20 outputs count as 16", "a kernel 4 high counts as 3", "a kernel 4 wide counts as 3")
    assert rows["e"].reasons[0] == "a table of embeddings" and rows["e"].node_type == "conv"


class NoParameters(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ghn_jax.trace(NoParameters(), jnp.ones(3)), "NoParameters has no parameters"),
        (lambda: ghn_jax.trace(lambda p, x: x, {}, jnp.ones(3)), "<lambda> has no parameters"),
        (lambda: ghn_jax.trace(lambda p, x: x, {"w": jnp.ones(3)}, jnp.ones(3)), "depend on none of its parameters"),
        (lambda: ghn_jax.trace(lambda p: p), "the parameters are missing"),
        (lambda: ghn_jax.trace("resnet50", jnp.ones(3)), "expected a Linen or NNX module or a function, got str"),
        (
            lambda: ghn_jax.trace(nn.MultiHeadDotProductAttention(3), jnp.ones((2, 5, 8))),
            r"MultiHeadDotProductAttention.init\(float32\[2,5,8\]\) fails: .*divisible",
        ),
        (
            lambda: ghn_jax.trace(Small(), jnp.ones((2, 4)), flag=True),
            r"Small.init\(float32\[2,4\]\) fails: TypeError: .*'flag'",
        ),
        (
            lambda: ghn_jax.trace(
                lambda p, x: jax.lax.scan(lambda x, w: (x * w, None), x, p)[0], jnp.ones(2000), jnp.ones(3)
            ),
            "a loop over 2000 stacked parameters; at most 1024 are unrolled",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(TraceError, match=message):
        call()


def test_the_models_own_error_is_the_cause():
    with pytest.raises(TraceError, match=r"<lambda>\(float32\[2,5\]\) fails: TypeError: dot_general") as caught:
        ghn_jax.trace(lambda w, x: x @ w, jnp.ones((4, 3)), jnp.ones((2, 5)))
    assert isinstance(caught.value.__cause__, TypeError)


def test_too_many_nodes_are_refused():
    def run(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)[0]

    with pytest.raises(GraphError, match="too large"):
        for layers in (1000, 1024):
            graph = ghn_jax.trace(
                lambda p, x: run(p["a"], run(p["b"], run(p["c"], x))),
                {name: jax.ShapeDtypeStruct((layers, 4, 4), jnp.float32) for name in "abc"},
                jnp.ones((2, 4)),
            )
            predict_params(graph, GHN)


def test_a_model_too_large_for_this_machine_is_traced():
    model = gpt.GPT(vocabulary=32_000, context=2048, dim=4096, depth=32, heads=32)
    graph = ghn_jax.trace(model, jax.ShapeDtypeStruct((1, 2048), jnp.int32), strict=True)
    assert graph.num_params == graph.tree.num_params == 6_583_623_680
    assert counts(graph)["msa"] == 32


def test_nested_scans():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(x.shape[-1])(nn.LayerNorm()(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.remat_scan(Block, lengths=(3, 2))()(x))

    graph = ghn_jax.trace(Net(), jnp.ones((2, 4)), strict=True)
    assert counts(graph) == {"input": 1, "ln": 6, "conv": 7, "bias": 7, "sum": 6}
    assert "Remat_scanBlock_0/Dense_0/kernel[2, 1]" in [tensor.name for tensor in graph.tensors]
    params = predict_params(graph, GHN)
    assert_tree(params, Net().init(jax.random.key(0), jnp.ones((2, 4)))["params"])
    kernels = np.asarray(params["Remat_scanBlock_0"]["Dense_0"]["kernel"]).reshape(6, 4, 4)
    assert len({kernel.tobytes() for kernel in kernels}) == 6
