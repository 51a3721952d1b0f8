"""A random model written in Linen and in NNX: the same graph, and the same predictions for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_ghns import SMALL, random_ghn
from traced import assert_same_graph

import ghn_jax
from ghn_jax.prediction.predict import predict_params

CHANNELS = 8
GHN = random_ghn(SMALL)


def rngs():
    return nnx.Rngs(0)


def both(function):
    """A step without parameters."""
    return lambda: function, lambda: function


def attention():
    return nnx.MultiHeadAttention(2, CHANNELS, CHANNELS, CHANNELS, decode=False, rngs=rngs())


TWINS = {
    "conv": (
        lambda: nn.Conv(CHANNELS, (3, 3)), lambda: nnx.Conv(CHANNELS, CHANNELS, (3, 3), rngs=rngs()),
    ),
    "depthwise": (
        lambda: nn.Conv(CHANNELS, (3, 3), feature_group_count=CHANNELS, use_bias=False),
        lambda: nnx.Conv(CHANNELS, CHANNELS, (3, 3), feature_group_count=CHANNELS, use_bias=False, rngs=rngs()),
    ),
    "transposed": (
        lambda: nn.ConvTranspose(CHANNELS, (3, 3)), lambda: nnx.ConvTranspose(CHANNELS, CHANNELS, (3, 3), rngs=rngs()),
    ),
    "dense": (lambda: nn.Dense(CHANNELS), lambda: nnx.Linear(CHANNELS, CHANNELS, rngs=rngs())),
    "einsum": (
        lambda: nn.Einsum((CHANNELS, 2, 4), "bhwc,cnd->bhwnd", use_bias=False),
        lambda: nnx.Einsum("bhwc,cnd->bhwnd", (CHANNELS, 2, 4), rngs=rngs()),
    ),
    "batch norm": (
        lambda: nn.BatchNorm(use_running_average=False),
        lambda: nnx.BatchNorm(CHANNELS, use_running_average=False, rngs=rngs()),
    ),
    "running norm": (
        lambda: nn.BatchNorm(use_running_average=True),
        lambda: nnx.BatchNorm(CHANNELS, use_running_average=True, rngs=rngs()),
    ),
    "layer norm": (nn.LayerNorm, lambda: nnx.LayerNorm(CHANNELS, rngs=rngs())),
    "group norm": (lambda: nn.GroupNorm(2), lambda: nnx.GroupNorm(CHANNELS, 2, rngs=rngs())),
    "rms norm": (nn.RMSNorm, lambda: nnx.RMSNorm(CHANNELS, rngs=rngs())),
    "instance norm": (nn.InstanceNorm, lambda: nnx.InstanceNorm(CHANNELS, rngs=rngs())),
    "attention": (lambda: nn.MultiHeadDotProductAttention(2), attention),
    "dropout": (lambda: nn.Dropout(0.5, deterministic=True), lambda: nnx.Dropout(0.5, deterministic=True)),
    "max pool": both(lambda x: nn.max_pool(x, (3, 3), padding="SAME")),
    "average pool": both(lambda x: nn.avg_pool(x, (3, 3), padding="SAME")),
    "gelu": both(jax.nn.gelu),
}  # fmt: skip
"""How to make a layer of either kind."""


def run(x, steps, stem, layers, head):
    """What both do; layers are called by what makes them in turn."""
    x = stem(x)
    for (kind, wiring), layer in zip(steps, layers, strict=True):
        shape = x.shape
        values = x.reshape(shape[0], -1, CHANNELS) if kind == "attention" else x
        y = layer(values).reshape(shape)
        if wiring == "residual":
            y = x + y
        elif wiring == "twice":
            y = layer(y.reshape(values.shape)).reshape(shape)
        elif wiring == "gate":
            y = x * jax.nn.sigmoid(y)
        x = y
    return head(x.mean(axis=(1, 2)))


class Linen(nn.Module):
    steps: tuple

    @nn.compact
    def __call__(self, x):
        layers = [TWINS[kind][0]() for kind, _ in self.steps]
        return run(x, self.steps, nn.Conv(CHANNELS, (3, 3), use_bias=False), layers, nn.Dense(10))


class Nnx(nnx.Module):
    def __init__(self, steps):
        self.steps = steps
        self.stem = nnx.Conv(3, CHANNELS, (3, 3), use_bias=False, rngs=rngs())
        self.layers = nnx.List([TWINS[kind][1]() for kind, _ in steps])
        self.head = nnx.Linear(CHANNELS, 10, rngs=rngs())

    def __call__(self, x):
        return run(x, self.steps, self.stem, self.layers, self.head)


WIRINGS = ["plain", "residual", "twice", "gate"]

steps = st.lists(st.tuples(st.sampled_from(sorted(TWINS)), st.sampled_from(WIRINGS)), min_size=1, max_size=5)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps)
def test_twins_have_the_same_graph(steps):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    linen, twin = (ghn_jax.trace(model, images, strict=True) for model in (Linen(tuple(steps)), Nnx(tuple(steps))))
    places = assert_same_graph(linen, twin)
    assert len(linen.tensors) == len(twin.tensors)
    predicted = [predict_params(graph, GHN) for graph in (linen, twin)]
    values = [tensors_of(graph, tree) for graph, tree in zip((linen, twin), predicted, strict=True)]
    compared = 0
    for node, there in enumerate(places):
        for (role, mine), (other, its) in zip(values[0].get(there, ()), values[1].get(node, ()), strict=True):
            assert role is other
            np.testing.assert_allclose(mine, its, rtol=2e-4, atol=1e-6)
            compared += 1
    assert compared == len(linen.tensors)


def tensors_of(graph, tree):
    """Roles and values of every node's tensors."""
    leaves = [np.asarray(leaf) for leaf in graph.tree.arrays(tree)]
    found = {}
    for tensor in graph.tensors:
        values = tensor.placed.view(leaves[tensor.placed.leaf]).reshape(tensor.shape)
        found.setdefault(tensor.node, []).append((tensor.role, values))
    return {node: sorted(values, key=lambda item: item[0].value) for node, values in found.items()}


def test_every_twin_alone():
    """Whatever examples are drawn, every kind of layer is compared once, all in one model."""
    every = tuple((kind, "residual") for kind in sorted(TWINS))
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    linen, twin = ghn_jax.trace(Linen(every), images, strict=True), ghn_jax.trace(Nnx(every), images, strict=True)
    assert_same_graph(linen, twin)
    shapes = [sorted((tensor.role.value, tensor.shape) for tensor in graph.tensors) for graph in (linen, twin)]
    assert shapes[0] == shapes[1]
