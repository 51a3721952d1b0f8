"""Random Linen models: every layer becomes its node, and the predicted tree is the model's own."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_ghns import SMALL, random_ghn
from traced import assert_tree, counts, edges

import ghn_jax
from ghn_jax.prediction.predict import predict_params

CHANNELS = 8
GHN = random_ghn(SMALL)


class SqueezeExcite(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Dense(4)(x.mean(axis=(1, 2))))
        return x * nn.sigmoid(nn.Dense(CHANNELS)(y))[:, None, None]


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = x.reshape(x.shape[0], -1, CHANNELS)
        return nn.MultiHeadDotProductAttention(2)(y).reshape(x.shape)


class Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("positions", nn.initializers.normal(), x.shape[1:])


class LayerScale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(x) * self.param("gamma", nn.initializers.ones, (CHANNELS,))


class OneMore(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm(use_scale=False, use_bias=False)(x) * (
            1 + self.param("g", nn.initializers.zeros, (CHANNELS,))
        )


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.SpectralNorm(nn.Dense(CHANNELS, name="inner"))(x, update_stats=False)


class Weighted(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.WeightNorm(nn.Dense(CHANNELS, name="inner"))(x)


class Frozen(nn.Module):
    """A table under stop_gradient, and a fixed matrix beside the parameters."""

    @nn.compact
    def __call__(self, x):
        table = self.param("table", nn.initializers.normal(), x.shape[1:])
        matrix = self.variable("constants", "matrix", lambda: jnp.eye(CHANNELS)).value
        return x @ matrix + jax.lax.stop_gradient(table)


class Tied(nn.Module):
    """One kernel in two layers, transposed in the second."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (CHANNELS, CHANNELS))
        return nn.relu(x @ kernel) @ kernel.T


class Either(nn.Module):
    """A layer that the input decides about."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (CHANNELS, CHANNELS))
        return jax.lax.cond(x.mean() > 0, lambda x: x @ kernel, jnp.tanh, x)


class Average(nn.Module):
    """A running mean of its input, beside the parameters, that shifts what comes in."""

    @nn.compact
    def __call__(self, x):
        mean = self.variable("averages", "mean", jnp.zeros, (CHANNELS,))
        shifted = x - mean.value
        mean.value = 0.9 * mean.value + 0.1 * x.mean((0, 1, 2))
        return nn.Dense(CHANNELS, use_bias=False)(shifted)


class ScanBody(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.LayerNorm()(nn.Dense(CHANNELS)(x))), None


class Scan(nn.Module):
    layers: int = 3

    @nn.compact
    def __call__(self, x):
        body = nn.scan(nn.remat(ScanBody), variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
        return body()(x, None)[0]


def conv(**options):
    return lambda name: nn.Conv(CHANNELS, name=name, **options)


LAYERS = {
    "conv3": (conv(kernel_size=(3, 3)), {"conv": 1, "bias": 1}),
    "conv1x5": (conv(kernel_size=(1, 5), use_bias=False), {"conv": 1}),
    "grouped": (conv(kernel_size=(3, 3), feature_group_count=2, use_bias=False), {"conv": 1}),
    "depthwise": (conv(kernel_size=(3, 3), feature_group_count=CHANNELS), {"sep_conv": 1, "bias": 1}),
    "dilated": (
        conv(kernel_size=(3, 3), feature_group_count=CHANNELS, kernel_dilation=2, use_bias=False), {"dil_conv": 1},
    ),
    "transposed": (lambda name: nn.ConvTranspose(CHANNELS, (3, 3), name=name), {"conv": 1, "bias": 1}),
    "dense": (lambda name: nn.Dense(CHANNELS, name=name), {"conv": 1, "bias": 1}),
    "batch norm": (lambda name: nn.BatchNorm(use_running_average=False, name=name), {"bn": 1}),
    "running norm": (lambda name: nn.BatchNorm(use_running_average=True, name=name), {"bn": 1}),
    "layer norm": (lambda name: nn.LayerNorm(name=name), {"ln": 1}),
    "group norm": (lambda name: nn.GroupNorm(2, name=name), {"ln": 1}),
    "rms norm": (lambda name: nn.RMSNorm(name=name), {"ln": 1}),
    "excite": (lambda name: SqueezeExcite(name=name), {"conv": 2, "bias": 2, "cse": 1}),
    "attention": (lambda name: Attention(name=name), {"conv": 4, "bias": 4, "msa": 1}),
    "positions": (lambda name: Positions(name=name), {"pos_enc": 1, "sum": 1}),
    "layer scale": (lambda name: LayerScale(name=name), {"bn": 1}),
    "scan": (lambda name: Scan(name=name), {"conv": 3, "bias": 3, "ln": 3}),
    "one more": (lambda name: OneMore(name=name), {"ln": 1}),
    "spectral": (lambda name: Spectral(name=name), {"conv": 1, "bias": 1}),
    "weight norm": (lambda name: Weighted(name=name), {"conv": 1, "bias": 1}),
    "frozen": (lambda name: Frozen(name=name), {}),
    "tied": (lambda name: Tied(name=name), {"conv": 2}),
    "either": (lambda name: Either(name=name), {"conv": 1, "sum": 1}),
    "average": (lambda name: Average(name=name), {"conv": 1}),
    "max pool": (lambda name: lambda x: nn.max_pool(x, (3, 3), padding="SAME"), {"max_pool": 1}),
    "average pool": (lambda name: lambda x: nn.avg_pool(x, (3, 3), padding="SAME"), {"avg_pool": 1}),
    "gelu": (lambda name: nn.gelu, {}),
    "half precision": (lambda name: lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), {}),
    "transpose": (lambda name: lambda x: jnp.swapaxes(x, 1, 2), {}),
}  # fmt: skip
"""How to make a layer of a name, and the nodes that it is."""

NORMS = ("batch norm", "running norm", "layer norm", "group norm", "rms norm")

steps = st.lists(
    st.tuples(
        st.sampled_from(sorted(LAYERS)),
        st.sampled_from(["plain", "residual", "shared", "concat", "branches", "remat", "jit"]),
    ),
    min_size=1,
    max_size=6,
)


class RandomModel(nn.Module):
    """Layers one after the other.

    A step may add its input, call its layer twice, concatenate input and output, add two layers of its kind, or be
    compiled or computed anew on the way back.
    """

    steps: tuple

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(CHANNELS, (3, 3), use_bias=False, name="stem")(x)
        for index, (kind, wiring) in enumerate(self.steps):
            layer = LAYERS[kind][0](f"layer{index}")
            lifted = {"remat": nn.remat, "jit": nn.jit}.get(wiring)
            if lifted is not None and isinstance(layer, nn.Module):
                y = lifted(lambda module, x: module(x))(layer, x)
            else:
                y = layer(x)
            if wiring == "shared":
                y = layer(y)
            elif wiring == "residual":
                y = x + y
            elif wiring == "branches":
                y = y + LAYERS[kind][0](f"other{index}")(x)
            elif wiring == "concat":
                y = nn.Dense(CHANNELS, use_bias=False, name=f"mix{index}")(jnp.concatenate([x, y], axis=-1))
            x = y
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


def expected_counts(steps):
    """Nodes of `RandomModel(steps)`."""
    expected = Counter(input=1, conv=2, bias=1, glob_avg=1)
    for kind, wiring in steps:
        nodes = LAYERS[kind][1]
        expected.update(nodes)
        if wiring == "shared":
            expected.update(nodes)
        elif wiring == "residual" and nodes:
            expected["sum"] += 1
        elif wiring == "branches" and nodes:
            expected.update(nodes)
            expected["sum"] += 1
        elif wiring == "concat":
            expected["conv"] += 1
            if nodes:  # a concatenation of values of one node is no node
                expected["concat"] += 1
    return expected


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps)
def test_every_layer_is_its_node(steps):
    model = RandomModel(tuple(steps))
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    graph = ghn_jax.trace(model, images, strict=True)
    assert +counts(graph) == +expected_counts(steps)
    assert all(start < end for start, end in edges(graph))
    reached = graph.distances[0] > 0
    without_input = {"input", "pos_enc"}
    assert all(reached[node] or kind in without_input for node, kind in enumerate(map(str, node_names(graph))))
    params = predict_params(graph, GHN)
    expected = jax.eval_shape(model.init, jax.random.key(0), images)
    assert_tree(params, expected["params"])
    other = {correction.leaf for correction in graph.tree.corrections} - {
        tensor.placed.leaf for tensor in graph.tensors
    }
    left = sum(graph.tree.leaves[index].size for index in {*other, *graph.tree.states})
    assert sum(tensor.size for tensor in graph.tensors) + left == sum(leaf.size for leaf in jax.tree.leaves(params))


class Idle(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.param("idle", nn.initializers.ones, (3,))
        return x


class Temperature(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * jnp.exp(self.param("temperature", nn.initializers.ones, ()))


class Unknown(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jax.pure_callback(np.asarray, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


UNREADABLE = {"idle": Idle, "slope": nn.PReLU, "temperature": Temperature, "unknown": Unknown}


class Spoilt(nn.Module):
    steps: tuple
    place: int
    kind: str

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(CHANNELS, (1, 1), name="stem")(x)
        for index, (kind, _) in enumerate(self.steps):
            if index == self.place % len(self.steps):
                x = UNREADABLE[self.kind](name="spoilt")(x)
            x = LAYERS[kind][0](f"layer{index}")(x)
        return x


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps, st.integers(0, 5), st.sampled_from(sorted(UNREADABLE)))
def test_what_cannot_be_read_is_never_silent(steps, place, kind):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    model = Spoilt(tuple(steps), place, kind)
    graph = ghn_jax.trace(model, images)
    assert any("spoilt" in reason for reason in graph.tree.shortcomings)
    assert len(graph.tree.shortcomings) == 1
    with pytest.raises(ghn_jax.TraceError, match="spoilt"):
        ghn_jax.trace(model, images, strict=True)
    with pytest.raises(ghn_jax.GraphError, match="spoilt"):
        predict_params(graph, GHN, strict=True)


def node_names(graph):
    return [ghn_jax.graphs.graph.NODE_TYPES[node_type] for node_type in graph.node_types]


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps)
def test_predicted_parameters_run(steps):
    model = RandomModel(tuple(steps))
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)
    params = predict_params(ghn_jax.trace(model, images), GHN)
    every = jax.eval_shape(model.init, jax.random.key(0), images)
    shapes = every.get("batch_stats", {})
    stats = {"mean": jnp.zeros, "var": jnp.ones}
    stats = jax.tree_util.tree_map_with_path(lambda path, leaf: stats.get(path[-1].key, jnp.ones)(leaf.shape), shapes)
    states = {
        name: jax.tree.map(lambda leaf: jnp.ones(leaf.shape), every.get(name, {})) for name in ("constants", "averages")
    }
    states["batch_stats"] = stats
    logits, _ = jax.jit(lambda p, x: model.apply({"params": p, **states}, x, mutable=list(states)))(params, images)
    assert logits.shape == (2, 10) and np.isfinite(logits).all()
