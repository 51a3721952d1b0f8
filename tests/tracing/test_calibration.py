"""Running statistics of predicted networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_ghns import SMALL, random_ghn

import ghn_jax
from ghn_jax import CalibrationError
from ghn_jax.prediction.predict import predict_params

GHN = random_ghn(SMALL)
IMAGES = np.random.default_rng(0).standard_normal((12, 8, 8, 3)).astype(np.float32) + 2


class Net(nn.Module):
    """Two batch norms with dropout between them."""

    momentum: float = 0.99

    @nn.compact
    def __call__(self, x, train: bool):
        norm = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)
        x = nn.relu(norm(nn.Conv(8, (3, 3))(x)))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.BatchNorm(momentum=0.5)(nn.Conv(8, (3, 3))(x), use_running_average=not train)
        return nn.Dense(10)(x.mean(axis=(1, 2)))


@pytest.fixture(scope="module")
def predicted():
    return predict_params(ghn_jax.trace(Net(), IMAGES, train=True), GHN)


def by_batch(model, params, images):
    """Outputs normalised by the batch, without dropout."""

    def use_batch(next_call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            return args[0]
        return next_call(*args, **kwargs)

    stats = model.init(jax.random.key(0), images, train=False)["batch_stats"]
    with nn.intercept_methods(use_batch):
        variables = {"params": params, "batch_stats": stats}
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]


def test_one_batch_normalises_as_in_training(predicted):
    stats = ghn_jax.calibrate(Net(), predicted, [IMAGES], train=False)
    logits = Net().apply({"params": predicted, "batch_stats": stats}, IMAGES, train=False)
    np.testing.assert_allclose(logits, by_batch(Net(), predicted, IMAGES), rtol=1e-4, atol=1e-5)
    one = Net().apply({"params": predicted, "batch_stats": stats}, IMAGES[:1], train=False)
    np.testing.assert_allclose(one, logits[:1], rtol=1e-4, atol=1e-5)


def test_statistics_have_the_models_structure_and_no_momentum(predicted):
    expected = Net().init(jax.random.key(0), IMAGES, train=False)["batch_stats"]
    stats = ghn_jax.calibrate(Net(), predicted, [IMAGES], train=False)
    assert jax.tree.structure(stats) == jax.tree.structure(expected)
    other = ghn_jax.calibrate(Net(momentum=0.1), predicted, [IMAGES], train=False)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, stats, other))


def test_batches_are_pooled_by_their_sizes(predicted):
    together = ghn_jax.calibrate(Net(), predicted, [IMAGES], train=False)["BatchNorm_0"]
    parts = ghn_jax.calibrate(Net(), predicted, iter([IMAGES[:8], IMAGES[8:]]), train=False)["BatchNorm_0"]
    # Before the first norm nothing depends on how the images are batched.
    kernel, bias = (predicted["Conv_0"][name] for name in ("kernel", "bias"))
    x = nn.Conv(8, (3, 3)).apply({"params": {"kernel": kernel, "bias": bias}}, IMAGES)
    for stats in (together, parts):
        np.testing.assert_allclose(stats["mean"], x.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["var"], x.var(axis=(0, 1, 2)), rtol=1e-3, atol=1e-5)


def test_several_arguments(predicted):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, y):
            return nn.BatchNorm(use_running_average=True)(x * y)

    params = {"BatchNorm_0": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    stats = ghn_jax.calibrate(Two(), params, [(x, 2 * x)])
    np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], (2 * x * x).mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["BatchNorm_0"]["var"], (2 * x * x).var(0), rtol=1e-5)


class NoNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (NoNorm(), [np.ones((2, 4), np.float32)], "NoNorm has no batch_stats"),
        (lambda x: x, [np.ones((2, 4))], "expected a Linen or NNX module, got function"),
        (NoNorm(), [], "at least one batch"),
    ],
)
def test_bad_input(model, batches, message):
    params = {"Dense_0": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(CalibrationError, match=message):
        ghn_jax.calibrate(model, params, batches)
