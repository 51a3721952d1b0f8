"""Graphs of small models, node by node, and where predicted values end up in their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_ghns import SMALL, random_ghn
from traced import assert_same_graph, counts, edges, node_types

import ghn_jax
from ghn_jax.graphs.graph import Role
from ghn_jax.prediction.predict import predict_params

GHN = random_ghn(SMALL)


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def trace(model, *inputs, **kwargs):
    return ghn_jax.trace(model, *inputs, strict=True, **kwargs)


def function(**shapes):
    """Parameters of these shapes."""
    return {name: shape(*sizes) for name, sizes in shapes.items()}


def tensors(graph):
    return {tensor.name: (tensor.shape, tensor.role.value) for tensor in graph.tensors}


def test_a_small_network_node_by_node():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3))(x)
            y = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            y = nn.Conv(8, (5, 5), feature_group_count=8, use_bias=False)(y)
            x = x + y
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            return nn.Dense(10)(jnp.mean(x, axis=(1, 2)))

    graph = trace(Net(), shape(2, 8, 8, 3))
    assert node_types(graph) == [
        "input", "conv", "bias", "bn", "sep_conv", "sum", "max_pool", "glob_avg", "conv", "bias",
    ]  # fmt: skip
    assert edges(graph) == [(0, 1), (1, 2), (2, 3), (2, 5), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9)]
    assert graph.node_shapes.tolist() == [
        [0, 0, 0, 0], [8, 3, 3, 3], [8, 1, 1, 1], [8, 1, 1, 1], [8, 1, 5, 5], [0, 0, 0, 0], [1, 1, 2, 2],
        [0, 0, 0, 0], [10, 8, 1, 1], [10, 1, 1, 1],
    ]  # fmt: skip
    assert tensors(graph) == {
        "Conv_0/kernel": ((3, 3, 3, 8), "weight"),
        "Conv_0/bias": ((8,), "bias"),
        "BatchNorm_0/scale": ((8,), "norm_weight"),
        "BatchNorm_0/bias": ((8,), "bias"),
        "Conv_1/kernel": ((5, 5, 1, 8), "depthwise_weight"),
        "Dense_0/kernel": ((8, 10), "class_weight"),
        "Dense_0/bias": ((10,), "class_bias"),
    }


def test_convolutions_of_other_ranks():
    def run(params, line, volume):
        line = jax.lax.conv_general_dilated(line, params["line"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        volume = jax.lax.conv_general_dilated(
            volume, params["volume"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
        return line, volume

    graph = trace(run, function(line=(5, 3, 8), volume=(3, 2, 7, 3, 4)), shape(2, 9, 3), shape(2, 6, 6, 6, 3))
    assert tensors(graph) == {"line": ((5, 1, 3, 8), "weight"), "volume": ((6, 7, 3, 4), "weight")}
    assert counts(graph) == {"input": 2, "conv": 2}
    values = predict_params(graph, GHN)
    assert values["line"].shape == (5, 3, 8) and values["volume"].shape == (3, 2, 7, 3, 4)


def test_layouts_of_kernels_do_not_matter():
    """The same network with kernels in three layouts gets the same weights, and computes the same."""

    def flax_like(params, x):
        x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + params["bias"]).reshape(x.shape[0], -1, 8)
        x = jnp.einsum("ntc,chd->nthd", x, params["heads"])
        return jnp.einsum("nthd,hdo->nto", jax.nn.relu(x), params["out"]).mean(1)

    def torch_like(params, x):
        x = jnp.moveaxis(x, -1, 1)
        x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        x = jax.nn.relu(x + params["bias"]).reshape(*x.shape[:2], -1)
        x = jnp.moveaxis(x, 1, 2) @ params["heads"].T
        return (jax.nn.relu(x) @ params["out"].T).mean(1)

    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3), np.float32)
    shapes = function(conv=(3, 3, 3, 8), bias=(8,), heads=(8, 2, 4), out=(2, 4, 10))
    transposed = function(conv=(8, 3, 3, 3), bias=(8, 1, 1), heads=(8, 8), out=(10, 8))
    first, second = trace(flax_like, shapes, x), trace(torch_like, transposed, x)
    assert_same_graph(first, second, names=True)
    first, second = predict_params(first, GHN), predict_params(second, GHN)
    np.testing.assert_allclose(first["conv"], np.transpose(second["conv"], (2, 3, 1, 0)), atol=1e-6)
    np.testing.assert_allclose(first["heads"].reshape(8, 8), second["heads"].T, atol=1e-6)
    np.testing.assert_allclose(flax_like(first, x), torch_like(second, x), rtol=1e-4, atol=1e-5)


def test_stacked_layers_are_predicted_one_by_one():
    """A scan over layers gets the weights that the same layers have in a Python loop."""

    def layer(x, w, b, scale):
        y = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * scale
        return x + jax.nn.gelu(y @ w + b)

    def scanned(params, x):
        return jax.lax.scan(lambda x, p: (layer(x, p["w"], p["b"], p["scale"]), None), x, params)[0]

    def counted(params, x):
        return jax.lax.fori_loop(0, 4, lambda i, x: layer(x, params["w"][i], params["b"][i], params["scale"][i]), x)

    def unrolled(params, x):
        for i in range(4):
            x = layer(x, params[f"w{i}"], params[f"b{i}"], params[f"scale{i}"])
        return x

    x = shape(2, 5, 8)
    stacked = function(w=(4, 8, 8), b=(4, 8), scale=(4, 8))
    single = {f"{name}{i}": shape(*leaf.shape[1:]) for i in range(4) for name, leaf in stacked.items()}
    expected = trace(unrolled, single, x)
    assert counts(expected) == {"input": 1, "ln": 4, "conv": 4, "bias": 4, "sum": 4}
    values = predict_params(expected, GHN)
    assert not np.allclose(values["w0"], values["w3"])
    for run in (scanned, counted):
        graph = trace(run, stacked, x)
        assert_same_graph(graph, expected)
        predicted = predict_params(graph, GHN)
        for name, leaf in predicted.items():
            together = np.stack([values[f"{name}{i}"] for i in range(4)])
            np.testing.assert_allclose(leaf, together, atol=1e-6, err_msg=name)


def test_a_loop_backwards_reads_its_layers_backwards():
    def run(params, x):
        return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, params["w"], reverse=True)[0]

    graph = trace(run, function(w=(3, 8, 8)), shape(2, 8))
    assert [tensor.name for tensor in graph.tensors] == ["w[2]", "w[1]", "w[0]"]


def test_recurrent_layers_are_entered_once():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.RNN(nn.GRUCell(8))(x)[:, -1])

    graph = trace(Net(), shape(2, 50, 4))
    assert counts(graph)["conv"] == 7  # three gates for the input, three for the carry, and the head
    reached = set(range(graph.num_nodes)) - set(np.flatnonzero(graph.distances[0]).tolist())
    assert reached == {0}


def test_conditionals_and_while_loops():
    def run(params, x):
        x = jax.lax.cond(x.sum() > 0, lambda: x @ params["a"], lambda: jnp.tanh(x @ params["b"]))
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: jnp.tanh(x @ params["c"]), x)

    graph = trace(run, function(a=(4, 4), b=(4, 4), c=(4, 4)), shape(2, 4))
    assert counts(graph) == {"input": 1, "conv": 3, "sum": 1}


def test_attention_in_all_spellings():
    class Explicit(nn.Module):
        @nn.compact
        def __call__(self, x):
            q, k, v = (nn.DenseGeneral((2, 4), name=name)(x) for name in "qkv")
            scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / 2
            y = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)
            return nn.DenseGeneral(8, axis=(-2, -1), name="out")(y)

    class Library(nn.Module):
        @nn.compact
        def __call__(self, x):
            q, k, v = (nn.DenseGeneral((2, 4), name=name)(x) for name in "qkv")
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            return nn.DenseGeneral(8, axis=(-2, -1), name="out")(y)

    first, second = (trace(model, shape(2, 6, 8)) for model in (Explicit(), Library()))
    assert_same_graph(first, second, names=True)
    assert counts(first) == {"input": 1, "conv": 4, "bias": 4, "msa": 1}
    msa = node_types(first).index("msa")
    assert sorted(node_types(first)[start] for start, end in edges(first) if end == msa) == ["bias"] * 3
    third = trace(nn.MultiHeadDotProductAttention(2), shape(2, 6, 8))
    assert_same_graph(third, first)


def test_squeeze_and_excitation_keeps_its_mean_to_itself():
    class Net(nn.Module):
        pool_again: bool

        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3), use_bias=False)(x)
            s = nn.relu(nn.Conv(4, (1, 1))(x.mean(axis=(1, 2), keepdims=True)))
            y = x * nn.sigmoid(nn.Conv(8, (1, 1))(s))
            return jnp.concatenate([y.mean(axis=(1, 2)), x.mean(axis=(1, 2))], -1) if self.pool_again else y

    graph = trace(Net(False), shape(2, 8, 8, 3))
    assert node_types(graph) == ["input", "conv", "conv", "bias", "conv", "bias", "cse"]
    assert edges(graph) == [(0, 1), (1, 2), (1, 6), (2, 3), (3, 4), (4, 5), (5, 6)]
    # The mean of x counts where it is used by itself.
    assert counts(trace(Net(True), shape(2, 8, 8, 3)))["glob_avg"] == 2


NORMS = {
    "shifted": lambda x, p: (
        (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["s"] + p["b"]
    ),
    "scale first": lambda x, p: (
        p["s"] * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * (x - x.mean(-1, keepdims=True)) + p["b"]
    ),
    "folded": lambda x, p: (
        (inv := p["s"] / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)) * x + (p["b"] - x.mean(-1, keepdims=True) * inv)
    ),
    "power": lambda x, p: (x - x.mean(-1, keepdims=True)) * (x.var(-1, keepdims=True) + 1e-5) ** -0.5 * p["s"] + p["b"],
    "standardize": lambda x, p: jax.nn.standardize(x) * p["s"] + p["b"],
    "one plus": lambda x, p: jax.nn.standardize(x) * (1 + p["s"]) + p["b"],
    "half precision": lambda x, p: (jax.nn.standardize(x).astype(jnp.bfloat16) * p["s"] + p["b"]).astype(jnp.float32),
}


@pytest.mark.parametrize("spelling", NORMS)
def test_layer_norm_in_all_spellings(spelling):
    def run(params, x):
        return NORMS[spelling](x @ params["w"], params)

    graph = trace(run, function(w=(4, 8), s=(8,), b=(8,)), shape(2, 6, 4))
    assert node_types(graph) == ["input", "conv", "ln"]
    assert tensors(graph)["s"] == ((8,), "norm_weight") and tensors(graph)["b"] == ((8,), "bias")
    assert graph.node_shapes[2].tolist() == [8, 1, 1, 1]


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_in_training_and_inference(train):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))

    graph = trace(Net(), shape(1, 4), train=train)
    assert node_types(graph) == ["input", "conv", "bias", "bn"]


def test_a_norm_after_global_pooling():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.LayerNorm()(nn.Conv(8, (3, 3))(x).mean(axis=(1, 2))))

    graph = trace(Net(), shape(1, 4, 4, 3))
    assert node_types(graph) == ["input", "conv", "bias", "glob_avg", "ln", "conv", "bias"]


def test_softmax_and_products_are_not_normalisations():
    def run(params, x):
        x = jax.nn.softmax(x @ params["a"])
        gate, value = jnp.split(x @ params["b"], 2, axis=-1)
        return gate * jax.nn.silu(value) * jax.nn.sigmoid(x @ params["c"])

    graph = trace(run, function(a=(4, 8), b=(8, 8), c=(8, 4)), shape(2, 4))
    assert counts(graph) == {"input": 1, "conv": 3, "cse": 1}


def test_bias_positions_tokens_and_scales():
    def run(params, x):
        x = x @ params["w"]
        x = x + params["bias"]
        token = jnp.broadcast_to(params["token"], (x.shape[0], 1, 8))
        x = jnp.concatenate([token, x], axis=1) + params["positions"]
        return x * params["gamma"]

    graph = trace(run, function(w=(4, 8), bias=(8,), token=(1, 1, 8), positions=(1, 10, 8), gamma=(8,)), shape(2, 9, 4))
    assert node_types(graph) == ["input", "conv", "bias", "pos_enc", "concat", "pos_enc", "sum", "bn"]
    assert tensors(graph) == {
        "w": ((4, 8), "weight"),
        "bias": ((8,), "bias"),
        "token": ((1, 1, 1, 8), "position"),
        "positions": ((1, 3, 4, 8), "position"),  # ten positions on a grid for twelve
        "gamma": ((8,), "norm_weight"),
    }
    assert graph.num_params == 4 * 8 + 8 + 8 + 10 * 8 + 8
    image = trace(lambda p, x: x + p["grid"], function(grid=(1, 3, 4, 8)), shape(2, 3, 4, 8))
    nodes, grid = predict_params(graph, GHN)["positions"], predict_params(image, GHN)["grid"]
    assert nodes.shape == (1, 10, 8) and grid.shape == (1, 3, 4, 8)


def test_tied_and_shared_parameters_count_once():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(20, 8)
            layer = nn.Dense(8)
            return embed.attend(layer(nn.relu(layer(embed(tokens)))))

    graph = trace(Net(), shape(2, 5, dtype=jnp.int32))
    assert node_types(graph) == ["input", "conv", "conv", "bias", "conv", "bias", "conv"]
    assert graph.node_shapes[[1, 6], :2].tolist() == [[8, 20], [20, 8]]
    assert graph.num_params == 20 * 8 + 8 * 8 + 8
    assert tensors(graph)["Embed_0/embedding"] == ((20, 8), "embedding")


def test_embeddings_are_not_scaled_by_the_size_of_the_vocabulary():
    sizes = []
    for vocabulary in (64, 4096):
        params = function(table=(vocabulary, 16), w=(16, 3))
        graph = trace(lambda p, t: p["table"][t] @ p["w"], params, shape(2, 5, dtype=jnp.int32))
        sizes.append(float(np.std(predict_params(graph, GHN)["table"])))
    assert 0.5 < sizes[0] / sizes[1] < 2


def test_fused_kernels_and_parts_of_kernels():
    def run(params, x):
        fused = x @ jnp.concatenate([params["q"], params["k"]], axis=1)
        return fused, x @ params["w"][:, :3], jax.nn.relu(x @ params["w"][:, 3:])

    graph = trace(run, function(q=(4, 6), k=(4, 2), w=(4, 8)), shape(2, 4))
    assert counts(graph) == {"input": 1, "conv": 3}
    assert tensors(graph) == {
        "q": ((4, 6), "weight"), "k": ((4, 2), "weight"), "w[0:3]": ((4, 3), "weight"), "w[3:8]": ((4, 5), "weight"),
    }  # fmt: skip
    assert graph.node_shapes[1].tolist() == [8, 4, 1, 1]
    values = predict_params(graph, GHN)
    assert jax.tree.map(jnp.shape, values) == {"q": (4, 6), "k": (4, 2), "w": (4, 8)}


def test_parameters_that_change_others():
    def run(params, x):
        v = params["v"] / jnp.linalg.norm(params["v"], axis=0) * params["g"]
        centred = params["w"] - params["w"].mean(0)
        return jax.nn.relu(x @ v) @ (centred + params["lora_a"] @ params["lora_b"])

    given = {"v": (4, 8), "g": (8,), "w": (8, 5), "lora_a": (8, 2), "lora_b": (2, 5)}
    given = {name: jnp.full(sizes, 7.0) for name, sizes in given.items()}
    graph = ghn_jax.trace(run, given, shape(2, 4))
    assert counts(graph) == {"input": 1, "conv": 2}
    values = predict_params(graph, GHN)
    kept = {name for name, leaf in values.items() if np.array_equal(leaf, given[name])}
    assert kept == {"lora_a", "lora_b"}
    assert {row.name for row in ghn_jax.report(graph).of(ghn_jax.Verdict.INITIALISED)} == kept
    # The scale is the one with which the weight that is used is the predicted one.
    effective = values["v"] / jnp.linalg.norm(values["v"], axis=0) * values["g"]
    np.testing.assert_allclose(effective, values["v"], rtol=1e-5)


def test_learned_queries():
    def run(params, x):
        q = jnp.broadcast_to(params["latents"], (x.shape[0], 6, 8)) @ params["q"]["kernel"]
        k, v = x @ params["k"]["kernel"], x @ params["v"]["kernel"]
        return jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2)) @ v

    sizes = {"q": 8, "k": 3, "v": 3}
    params = {"latents": shape(6, 8), **{name: {"kernel": shape(size, 8)} for name, size in sizes.items()}}
    graph = trace(run, params, shape(2, 5, 3))
    assert counts(graph) == {"input": 1, "pos_enc": 1, "conv": 3, "msa": 1}


def test_types_of_parameters_are_kept():
    params = {"w": shape(4, 8, dtype=jnp.bfloat16), "b": shape(8, dtype=jnp.float16)}
    values = predict_params(trace(lambda p, x: x @ p["w"] + p["b"], params, shape(2, 4)), GHN)
    assert values["w"].dtype == jnp.bfloat16 and values["b"].dtype == jnp.float16


def test_the_class_layer_of_another_number_of_classes_is_an_ordinary_one():
    for classes in (10, 7):
        params = function(w=(8, classes), b=(classes,))
        graph = trace(lambda p, x: x @ p["w"] + p["b"], params, shape(2, 8))
        assert [tensor.role for tensor in graph.tensors] == [Role.CLASS_WEIGHT, Role.CLASS_BIAS]
        values = predict_params(graph, GHN)
        assert values["w"].shape == (8, classes) and np.isfinite(values["w"]).all()
        reasons = [reason for row in ghn_jax.report(graph, GHN).rows for reason in row.reasons]
        assert any("7 classes instead of 10" in reason for reason in reasons) == (classes == 7)


def test_kernels_that_activations_scale():
    """Modulated convolution, as in StyleGAN: the kernel reads the style and is a layer, not a scale."""

    def run(params, x, style):
        kernel = params["kernel"] * (style @ params["style"])[0][:, None]
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    graph = trace(run, function(kernel=(3, 3, 3, 8), style=(5, 3)), shape(1, 8, 8, 3), shape(1, 5))
    assert tensors(graph)["kernel"] == ((3, 3, 3, 8), "weight")
    assert counts(graph) == {"input": 2, "conv": 2, "msa": 1}


def test_products_that_are_summed_are_linear_layers():
    """The scores of a graph attention network, and a layer written out."""

    def written_out(p, x):
        return jax.nn.relu((x[:, :, None] * p["w"]).sum(1)) @ p["o"]

    def vectors(p, x):
        return jax.nn.relu(jnp.stack([jnp.sum(p["w"][:, i] * x, axis=-1) for i in range(8)], -1)) @ p["o"]

    def attention(p, x):
        h = x.reshape(2, 2, 2) @ ones_of(p["v"])
        scores = jax.nn.leaky_relu((h * p["a"]).sum(-1) + (h * p["b"]).sum(-1))
        return jnp.einsum("nh,nhf->nf", jax.nn.softmax(scores, 0), h) @ p["o"]

    def ones_of(v):
        return jnp.ones((2, 8)) * v

    graph = trace(written_out, function(w=(4, 8), o=(8, 10)), shape(2, 4))
    assert tensors(graph) == {"w": ((4, 8), "weight"), "o": ((8, 10), "class_weight")}
    assert counts(trace(vectors, function(w=(4, 8), o=(8, 10)), shape(2, 4)))["conv"] == 9
    graph = ghn_jax.trace(attention, function(v=(), a=(2, 8), b=(2, 8), o=(8, 10)), shape(2, 4))
    assert tensors(graph)["a"] == tensors(graph)["b"] == ((8, 2), "weight")


@pytest.mark.parametrize("sizes", [(3, 8), (3, 1, 8), (8, 3)])
def test_depthwise_convolutions_that_are_written_out(sizes):
    """As in state space models; the kernel is not a norm weight for every shift."""

    def rows(p):
        return p["k"].T if sizes == (8, 3) else p["k"]

    def shifted(p, x):
        h = jnp.pad(x @ p["w"], ((0, 0), (2, 0), (0, 0)))
        return jax.nn.silu(sum(h[:, i : i + 6] * rows(p)[i] for i in range(3)) + p["b"]).mean(1) @ p["o"]

    def convolved(p, x):
        h = jax.lax.conv_general_dilated(
            x @ p["w"], p["k"], (1,), [(2, 0)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=8
        )
        return jax.nn.silu(h + p["b"]).mean(1) @ p["o"]

    rest = {"w": (4, 8), "b": (8,), "o": (8, 10)}
    graph = trace(shifted, function(k=sizes, **rest), shape(2, 6, 4))
    expected = trace(convolved, function(k=(3, 1, 8), **rest), shape(2, 6, 4))
    assert_same_graph(graph, expected)
    kernels = [predict_params(of, GHN) for of in (graph, expected)]
    np.testing.assert_allclose(rows(kernels[0]).reshape(3, 1, 8), kernels[1]["k"], rtol=1e-5)


def test_experts_and_ensembles():
    def experts(params, x):
        return jax.lax.ragged_dot(x, params["w"], jnp.array([2, 3], jnp.int32))

    def ensemble(params, x):
        def member(p):
            y = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jax.nn.relu(y + p["b"]).mean((1, 2)) @ p["w"]

        return jax.vmap(member)(params).mean(0)

    assert tensors(trace(experts, function(w=(2, 4, 6)), shape(5, 4)))["w"][0] == (4, 12)
    graph = trace(ensemble, function(k=(5, 3, 3, 3, 8), b=(5, 8), w=(5, 8, 2)), shape(2, 8, 8, 3))
    assert counts(graph) == {"input": 1, "conv": 2, "bias": 1, "glob_avg": 2}
    found = tensors(graph)
    assert (found["k"][0], found["b"][0], found["w"][0]) == ((3, 3, 3, 40), (40,), (8, 10))
    assert jax.tree.map(jnp.shape, predict_params(graph, GHN)) == {"k": (5, 3, 3, 3, 8), "b": (5, 8), "w": (5, 8, 2)}


def test_layers_stacked_by_the_model():
    def run(params, x):
        x = jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, jnp.stack(params["layers"]))[0]
        first, second = jnp.unstack(params["pair"])
        return x @ first @ second

    params = {"layers": [shape(4, 4)] * 3, **function(pair=(2, 4, 4))}
    graph = trace(run, params, shape(2, 4))
    assert [tensor.name for tensor in graph.tensors] == ["layers/0", "layers/1", "layers/2", "pair[0]", "pair[1]"]
    assert counts(graph) == {"input": 1, "conv": 5}


def test_coordinates_go_through_layers():
    """Positions computed from constants by a small network, as in Swin V2."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            coordinates = jnp.linspace(0, 1, 12).reshape(6, 2)
            return nn.Dense(4)(x + nn.Dense(8)(nn.relu(nn.Dense(16)(coordinates))))

    graph = trace(Net(), shape(2, 6, 8))
    assert counts(graph) == {"input": 2, "conv": 3, "bias": 3, "sum": 1}


def test_relative_positions_and_temperature():
    def run(params, x):
        qkv = (x @ params["qkv"]).reshape(2, 16, 3, 2, 4)
        index = (np.arange(16)[:, None] - np.arange(16)) % 49
        bias = params["table"][index.reshape(-1)].reshape(16, 16, 2).transpose(2, 0, 1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", qkv[:, :, 0], qkv[:, :, 1]) * jnp.exp(params["temperature"]) + bias
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), qkv[:, :, 2])

    graph = ghn_jax.trace(run, function(qkv=(8, 24), table=(49, 2), temperature=(2, 1, 1)), shape(2, 16, 8))
    assert graph.tree.shortcomings == ["'temperature': it changes scores, as a temperature does"]
    assert counts(graph) == {"input": 1, "conv": 1, "pos_enc": 1, "msa": 1}
    assert tensors(graph)["table"] == ((1, 7, 7, 2), "position")


def test_loops_over_time_are_not_unrolled():
    """A table of positions that a loop over time reads step by step, by its counter or beside its inputs."""

    def counted(params, x):
        def step(i, h):
            return jnp.tanh(h @ params["w"] + params["table"][i] + x[i])

        return jax.lax.fori_loop(0, 200, step, jnp.zeros(8))

    def beside(params, x):
        return jax.lax.scan(
            lambda h, xs: (jnp.tanh(h @ params["w"] + xs[0] + xs[1]), None), jnp.zeros(8), (params["table"], x)
        )[0]

    for run in (counted, beside):
        graph = trace(run, function(w=(8, 8), table=(200, 8)), shape(200, 8))
        assert counts(graph) == {"input": 1, "conv": 1, "pos_enc": 1, "sum": 2}
        assert graph.num_params == 64 + 1600


def test_streams_of_random_numbers_and_sown_values():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8)(x) + jax.random.normal(self.make_rng("noise"), (8,))
            self.sow("intermediates", "hidden", x)
            return nn.Dense(3)(x * jax.random.bernoulli(self.make_rng("dropout"), 0.5, x.shape))

    assert counts(trace(Net(), shape(2, 4))) == {"input": 1, "conv": 2, "bias": 2}


def test_a_table_of_parameters_indexed_by_a_state():
    """The state is a float that the model casts: it is given, so the indices are constants."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            table = self.param("table", nn.initializers.normal(), (6, 4))
            position = self.variable("buffers", "position", lambda: jnp.arange(3.0))
            return nn.Dense(4)(x) + table[position.value.astype(jnp.int32)].sum(0)

    graph = ghn_jax.trace(Net(), shape(2, 8))
    assert set(tensors(graph)) == {"table", "Dense_0/kernel", "Dense_0/bias"}
    assert ghn_jax.predict_params(graph)["table"].shape == (6, 4)


def test_a_constant_table_sliced_where_the_input_says():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            row = jax.lax.dynamic_slice(jnp.arange(40.0).reshape(10, 4), (jnp.argmax(x[0]), 0), (1, 4))
            return nn.Dense(4)(x) + row

    graph = ghn_jax.trace(Net(), shape(2, 8))
    assert set(tensors(graph)) == {"Dense_0/kernel", "Dense_0/bias"}


def over_first(x):
    return (x - x.mean(0, keepdims=True)) * jax.lax.rsqrt(x.var(0, keepdims=True) + 1e-5)


FIRST_AXIS = {
    # shape of a sample, shape of weight and bias, what it is
    "channels of an image": ((8, 5, 6), (8, 1, 1), "ln"),
    "channels of tokens": ((8, 5), (8, 1), "ln"),
    "a batch of vectors": ((5, 8), (8,), "bn"),
    "a batch of sequences, every position": ((5, 6, 8), (8,), "bn"),
    "a batch of sequences, weights of positions": ((5, 6, 8), (6, 8), "bn"),
}


@pytest.mark.parametrize("kind", FIRST_AXIS)
@pytest.mark.parametrize("spelling", ["mul, add", "one step", "weight alone"])
def test_norms_over_the_first_axis_alone(kind, spelling):
    """The first axis is a batch, or the channels of a model that is given one image."""
    sample, shape, expected = FIRST_AXIS[kind]

    def run(params, x):
        x = jnp.tanh(x * 2)
        if spelling == "mul, add":
            return over_first(x) * params["scale"] + params["shift"]
        if spelling == "one step":
            x, scale = jnp.broadcast_arrays(over_first(x), params["scale"])
            return params["shift"] + scale * x
        return params["scale"] * over_first(x)

    params = {"scale": jnp.zeros(shape), "shift": jnp.ones(shape)}
    if spelling == "weight alone":
        del params["shift"]
    graph = ghn_jax.trace(run, params, jnp.ones(sample), strict=True)
    assert counts(graph) == {"input": 1, expected: 1}
    predicted = predict_params(graph, GHN)
    assert predicted["scale"].shape == shape and 0 < predicted["scale"].min() <= predicted["scale"].max() < 2


def test_norms_without_weights_over_the_first_axis_alone():
    for sample, expected in {(8, 5, 6): "ln", (5, 8): "bn"}.items():
        graph = ghn_jax.trace(lambda w, x: over_first(x) @ w, jnp.ones((sample[-1], 3)), jnp.ones(sample), strict=True)
        assert counts(graph) == {"input": 1, expected: 1, "conv": 1}
