"""NNX models: structure of the predicted state, and predictions straight into modules."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from at_once import at_once
from flax import linen as nn
from random_ghns import SMALL, random_ghn
from traced import assert_same_graph, assert_tree, counts

import ghn_jax
from ghn_jax import CalibrationError, TraceError
from ghn_jax.prediction.predict import predict_params

try:
    from flax import nnx
except Exception as error:  # some versions of flax.nnx cannot be imported with some of jax
    pytest.skip(f"flax.nnx: {error}", allow_module_level=True)

sys.path.insert(0, str(scripts.ROOT))
from examples.models import nnx_models  # noqa: E402

GHN = random_ghn(SMALL)
CIFAR = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
IMAGES = np.random.default_rng(0).standard_normal((12, 8, 8, 3)).astype(np.float32) + 2

NNX = {
    "mlp": (nnx_models.mlp, jax.ShapeDtypeStruct((4, 16), jnp.float32), {"conv": 2, "bias": 2, "bn": 1}),
    "resnet18": (nnx_models.resnet18, CIFAR, {"conv": 21, "bn": 20, "sum": 8}),
    "vit": (nnx_models.vit, CIFAR, {"msa": 6, "ln": 13, "pos_enc": 2, "sum": 13}),
}


def of_ones(make):
    """The module that `make` makes, with ones instead of random parameters, which take long to compile."""
    static, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(static, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), state))


@pytest.mark.parametrize("name", NNX)
def test_nnx_models(name):
    make, sample, nodes = NNX[name]
    model = make() if name == "mlp" else of_ones(make)
    graph = ghn_jax.trace(model, sample, strict=True)
    found = counts(graph)
    assert {node_type: found[node_type] for node_type in nodes} == nodes
    before = nnx.state(model, nnx.Param)
    params = predict_params(graph, GHN)
    assert_tree(params, before)
    nnx.update(model, params)
    static, state = nnx.split(model)
    assert np.isfinite(at_once(lambda state, x: nnx.merge(static, state)(x), state, np.ones(sample.shape, "f"))).all()
    assert jax.tree.all(jax.tree.map(np.array_equal, nnx.state(model, nnx.Param), params))
    # Only shapes are needed.
    abstract = ghn_jax.trace(nnx.eval_shape(make), sample, strict=True)
    assert [t.name for t in abstract.tensors] == [t.name for t in graph.tensors]


def test_fill_puts_the_prediction_into_a_module():
    first, second = nnx_models.mlp(), nnx_models.mlp()
    sample = jnp.ones((4, 16))
    graph = ghn_jax.fill(first, sample, ghn=GHN)
    nnx.update(second, predict_params(ghn_jax.trace(second, sample), GHN))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, nnx.state(first), nnx.state(second)))
    assert counts(graph)["conv"] == 2
    with pytest.raises(TypeError, match="expected an NNX module, got Dense"):
        ghn_jax.fill(nn.Dense(3), sample)


def test_nnx_layers_in_a_scan_and_tied_layers():
    class Model(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def make(rngs):
                return nnx.Linear(8, 8, rngs=rngs)

            self.layers = make(rngs)
            self.tied = nnx.Linear(8, 8, rngs=rngs)
            self.again = self.tied

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def forward(x, layer):
                return nnx.relu(layer(x))

            return self.again(nnx.relu(self.tied(forward(x, self.layers))))

    model = Model(nnx.Rngs(0))
    graph = ghn_jax.trace(model, jnp.ones((2, 8)), strict=True)
    assert counts(graph) == {"input": 1, "conv": 5, "bias": 5}
    assert graph.num_params == 3 * 72 + 72
    nnx.update(model, predict_params(graph, GHN))
    assert model.tied is model.again
    kernels = model.layers.kernel[...]
    assert not np.allclose(kernels[0], kernels[2])


def test_an_input_that_the_module_rejects():
    with pytest.raises(TraceError, match=r"MLP\(float32\[2,5\]\) fails: TypeError: dot_general"):
        ghn_jax.trace(nnx_models.mlp(), jnp.ones((2, 5)))


def test_calibration():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norms = nnx.List([nnx.BatchNorm(8, momentum=0.9, rngs=rngs) for _ in range(2)])
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(8, 10, rngs=rngs)

        def __call__(self, x):
            x = self.norms[1](nnx.relu(self.norms[0](self.conv(x))))
            return self.head(self.dropout(x).mean(axis=(1, 2)))

    model = Model(nnx.Rngs(0))
    before = nnx.state(model, nnx.BatchStat)
    params = predict_params(ghn_jax.trace(model, IMAGES), GHN)
    stats = ghn_jax.calibrate(model, params, [IMAGES])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, nnx.state(model, nnx.BatchStat), before)), "the module changed"
    nnx.update(model, params, stats)
    model.eval()
    logits = model(IMAGES)
    for norm in model.norms:
        norm.use_running_average = False
    np.testing.assert_allclose(model(IMAGES), logits, rtol=1e-4, atol=1e-5)
    model.eval()
    np.testing.assert_allclose(model(IMAGES[:1]), logits[:1], rtol=1e-4, atol=1e-5)


def test_nothing_to_calibrate():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    with pytest.raises(CalibrationError, match="Linear calls no BatchNorm"):
        ghn_jax.calibrate(model, nnx.state(model, nnx.Param), [np.ones((2, 4), np.float32)])


def test_the_same_model_in_linen_has_the_same_graph():
    from examples.models import resnet

    linen = resnet.resnet18(num_classes=10, num_filters=64, small_images=True)
    assert_same_graph(ghn_jax.trace(nnx.eval_shape(nnx_models.resnet18), CIFAR), ghn_jax.trace(linen, CIFAR))
