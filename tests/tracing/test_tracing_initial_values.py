"""Biases and norm weights that begin beyond all that is predicted keep the model's own values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from random_ghns import SMALL, random_ghn

import ghn_jax
from ghn_jax import TraceError
from ghn_jax.prediction.predict import predict_params
from ghn_jax.prediction.report import Verdict
from ghn_jax.runtime import counted
from ghn_jax.tracing.initial_values import of_program, root_mean_square
from ghn_jax.tracing.staging import stage

GHN = random_ghn(SMALL)


def time_steps(key, shape, dtype=jnp.float32):
    """As of Mamba's `dt_bias`: softplus makes numbers between 0.001 and 0.1 of them."""
    steps = jnp.exp(jax.random.uniform(key, shape, dtype, np.log(0.001), np.log(0.1)))
    return steps + jnp.log(-jnp.expm1(-steps))


def prior(key, shape, dtype=jnp.float32):
    """As of the class layer of a RetinaNet."""
    return jnp.full(shape, -4.6, dtype)


def left(graph):
    return {row.name: row.reasons[0] for row in ghn_jax.report(graph).of(Verdict.INITIALISED)}


class Layer(nn.Module):
    bias_init: nn.initializers.Initializer
    features: int = 8

    @nn.compact
    def __call__(self, x):
        return jax.nn.softplus(nn.Dense(self.features, bias_init=self.bias_init)(x))


class Stacked(nn.Module):
    bias_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x):
        def body(layer, x, _):
            return layer(x), None

        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan(Layer(self.bias_init, x.shape[-1]), x, None)[0]


@pytest.mark.parametrize("model", [Layer, Stacked])
@pytest.mark.parametrize("begin", [time_steps, prior])
def test_biases_of_linen_modules(model, begin):
    x = jnp.ones((2, 8))
    graph = ghn_jax.trace(model(begin), x)
    ((name, reason),) = left(graph).items()
    assert name.endswith("bias") and reason.startswith("its own initial values (") and "of a bias (1)" in reason
    own = model(begin).init(jax.random.key(0), x)["params"]
    (bias,) = (leaf for path, leaf in jax.tree_util.tree_leaves_with_path(own) if "bias" in str(path[-1]))
    found = predict_params(graph, GHN)
    (kept,) = (leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found) if "bias" in str(path[-1]))
    assert kept.shape == bias.shape and kept.max() < -1.5 and kept.min() > -7.5
    if begin is prior:
        np.testing.assert_array_equal(kept, bias)
    with pytest.raises(TraceError, match="larger than any prediction of a bias"):
        ghn_jax.trace(model(begin), x, strict=True)


def test_biases_of_models_with_values():
    begin = time_steps(jax.random.key(0), (8,))

    class Module(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
            self.linear.bias = nnx.Param(begin)

        def __call__(self, x):
            return nnx.softplus(self.linear(x))

    graph = ghn_jax.trace(Module(), jnp.ones((2, 4)))
    assert list(left(graph)) == ["linear/bias"]
    np.testing.assert_array_equal(predict_params(graph, GHN).linear.bias[...], begin)

    def run(params, x):
        return jax.nn.softplus(x @ params["w"] + params["dt"])

    params = {"w": jnp.ones((4, 8)), "dt": begin}
    graph = ghn_jax.trace(run, params, jnp.ones((2, 4)))
    assert list(left(graph)) == ["dt"]
    np.testing.assert_array_equal(predict_params(graph, GHN)["dt"], begin)
    shapes = jax.eval_shape(lambda: params)
    assert left(ghn_jax.trace(run, shapes, jnp.ones((2, 4)), strict=True)) == {}


SMALL_STARTS = {
    "zeros": nn.initializers.zeros, "ones": nn.initializers.ones, "normal": nn.initializers.normal(0.5),
    "uniform": nn.initializers.uniform(1.0),
}  # fmt: skip


@pytest.mark.parametrize("start", SMALL_STARTS)
def test_biases_within_the_bounds_are_predicted(start):
    graph = ghn_jax.trace(Layer(SMALL_STARTS[start]), jnp.ones((2, 8)), strict=True)
    assert np.abs(predict_params(graph, GHN)["Dense_0"]["bias"]).max() < 1


@pytest.mark.parametrize(("start", "is_left"), [(2.5, True), (1.0, False), (0.0, False)])
def test_norm_weights(start, is_left):
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.LayerNorm(scale_init=nn.initializers.constant(start))(x))

    graph = ghn_jax.trace(Normed(), jnp.ones((2, 8)))
    assert list(left(graph)) == (["LayerNorm_0/scale"] if is_left else [])
    scale = predict_params(graph, GHN)["LayerNorm_0"]["scale"]
    assert (scale == start).all() == is_left


def test_only_what_is_random_is_computed():
    def initialise(seed):
        key = jax.random.key(seed)
        kernel = jnp.linalg.qr(jax.random.normal(key, (64, 64)))[0]
        return {
            "filled": jnp.full((4,), 3.0), "array": jnp.asarray(np.arange(3.0)), "kernel": kernel,
            "random": 10 + jax.random.normal(jax.random.fold_in(key, 1), (50,)),
        }  # fmt: skip

    magnitudes = of_program(stage("init", initialise, jax.ShapeDtypeStruct((), np.int32)).jaxpr, range(4))
    with counted() as compilations:
        assert magnitudes([1, 0]) == pytest.approx([3, np.sqrt(5 / 3)])
        assert compilations == []
        assert magnitudes([3, 1]) == pytest.approx([root_mean_square(initialise(0)["random"]), 3], rel=1e-5)
        assert compilations
