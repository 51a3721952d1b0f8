"""A second prediction for the same graph compiles nothing, whatever has to be computed beside the hypernetwork."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.extend.core import Primitive
from jax.interpreters import mlir
from random_ghns import SMALL, random_ghn

import ghn_jax
from ghn_jax.prediction.predict import predict_params
from ghn_jax.runtime import counted

GHN = random_ghn(SMALL)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(7)(x)))


class Left(nn.Module):
    """Its temperature and its slopes keep their initial values, one of them random."""

    @nn.compact
    def __call__(self, x):
        x = nn.PReLU()(nn.Dense(7)(x))
        return nn.Dense(10)(x) * jnp.exp(self.param("temperature", nn.initializers.normal(), ()))


class Changed(nn.Module):
    """Its scale is solved for, its kernel goes through a normalisation, its table is tied."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(use_scale=False, use_bias=False)(nn.WeightNorm(nn.Dense(7, name="inner"))(x))
        x = x * jax.nn.softplus(self.param("g", nn.initializers.zeros, (7,)))
        return nn.SpectralNorm(nn.Dense(10, name="outer"))(x, update_stats=False)


class Tied(nn.Module):
    @nn.compact
    def __call__(self, x):
        table = nn.Embed(11, 7)
        return table.attend(nn.Dense(7)(table(jnp.int32(x * 10))))


class Stacked(nnx.Module):
    def __init__(self):
        @nnx.vmap(in_axes=0, out_axes=0)
        def layers(key):
            return nnx.Linear(8, 8, rngs=nnx.Rngs(key))

        self.layers = layers(jax.random.split(jax.random.key(0), 3))

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def step(x, layer):
            return nnx.relu(layer(x))

        return step(x, self.layers)


MODELS = {"plain": Plain, "left": Left, "changed": Changed, "tied": Tied, "stacked": Stacked}


def test_layers_that_are_spelled_the_same_are_solved_by_one_program():
    """In one graph and in all: two layers compile what one did, another graph of them nothing."""

    def run(p, x):
        for layer in p["layers"]:
            x = jnp.tanh(x @ layer["w"]) * jnp.exp(0.3 * layer["g"]) + layer["b"] / 4
        return x @ p["o"]

    def predict(num_layers):
        layers = [{"w": jnp.ones((8, 8)), "g": jnp.zeros(8), "b": jnp.zeros(8)} for _ in range(num_layers)]
        graph = ghn_jax.trace(run, {"layers": layers, "o": jnp.ones((8, 10))}, jnp.ones((2, 8)), strict=True)
        scales = [jnp.exp(0.3 * layer["g"]) for layer in predict_params(graph, GHN)["layers"]]
        assert all(0.2 < scale.min() < scale.max() < 1.8 for scale in scales)

    predict(1)
    with counted() as compilations:
        predict(2)
        predict(2)
    assert compilations == []


class Table:
    """A parameter of an operation that is printed like others."""

    def __init__(self, middle):
        self.values = np.zeros(5000, np.float32)
        self.values[2500] = middle

    def __repr__(self):
        return repr(self.values)  # as NumPy and JAX do it, without the middle


def test_layers_whose_operations_differ_in_what_is_not_printed_are_solved_apart():
    shift = Primitive("sin")  # the name of one that works element by element
    shift.def_abstract_eval(lambda values, **_: values)
    lowering = mlir.lower_fun(lambda values, table: values + jnp.asarray(table.values), multiple_results=False)
    mlir.register_lowering(shift, lowering)
    params = {"w": jnp.ones((8, 5000)), "g": jnp.zeros(5000)}
    used = []
    for middle in (0.25, 0.5):
        table = Table(middle)

        def run(p, x, table=table):
            return jnp.tanh(x @ p["w"]) * shift.bind(1 + p["g"], table=table)

        graph = ghn_jax.trace(run, params, jnp.ones((2, 8)), strict=True)
        used.append(1 + np.asarray(predict_params(graph, GHN)["g"])[2500] + middle)
    np.testing.assert_allclose(used[0], used[1], rtol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_second_prediction_compiles_nothing(kind):
    graph = ghn_jax.trace(MODELS[kind](), jnp.ones((2, 8)))
    first = predict_params(graph, GHN, seed=3)
    with counted() as compilations:
        again, other = predict_params(graph, GHN, seed=3), predict_params(graph, GHN, seed=4)
        assert compilations == []
        jax.jit(lambda x: x * 3 + len(kind))(jnp.ones(23))
        assert compilations  # the listener does hear compilations
    jax.tree.map(np.testing.assert_array_equal, first, again)
    same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)]
    assert same.count(False) == (1 if kind == "left" else 0)
