"""The best start: what is tried, what decides, and that losses and accuracies are those of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import ghn_jax
from ghn_jax import images
from ghn_jax.evaluation import best_start as module
from ghn_jax.evaluation.best_start import StartError, best_start
from ghn_jax.evaluation.fine_tuning import FineTuner, Protocol
from ghn_jax.execution.recipes import Loss
from ghn_jax.networks.architecture import CIFAR10, Architecture, Genotype
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.lowering import lower

CELL = Genotype(
    normal=(("conv_1x1", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)
NETWORK = Architecture(CELL, n_cells=1, C=8, fc_dim=16)


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


@pytest.fixture(scope="module")
def batches(digits):
    return [images.train_batch(digits, 16, 0, step) for step in range(8)]


def test_architecture(digits, batches):
    start = best_start(NETWORK, batches, seed=3)
    assert set(start.losses) == {"predicted", "random", "body"}
    assert start.accuracies.keys() == start.losses.keys()
    assert start.accuracies[start.name] == max(start.accuracies.values())
    assert str(start).startswith(f"{start.name}: top-1 {start.accuracies[start.name]:.1%}, loss ")
    program = lower(NETWORK, CIFAR10)
    random = he_init(program, 3)
    losses = []
    tuner = FineTuner(Protocol(1 << 30, 16, weight_decay=0.0))
    tuner(program, random, digits, [8], num_test_images=16, made_step=losses.append)
    assert start.losses["random"] == pytest.approx(np.mean(losses[-2:]), rel=1e-3)
    predicted = ghn_jax.predict_params(ghn_jax.build_graph(NETWORK))
    for name, values in start.params.items():
        mine = (
            random if start.name == "random" or (start.name == "body" and name in list(predicted)[-2:]) else predicted
        )
        np.testing.assert_array_equal(values, mine[name])


def test_accuracy_decides_and_then_the_loss(batches, monkeypatch):
    """Each start answers the last two of eight batches, of 16 images, as it is told."""
    told = {"predicted": [(0.5, 8), (0.5, 8)], "random": [(90.0, 9), (70.0, 9)], "body": [(9.0, 18), (80.0, 0)]}
    names = iter(["predicted", "random", "body"])

    class Trainer:
        def __init__(self, protocol):
            pass

        def begin(self, program, params):
            return InTraining(told[next(names)])

    class InTraining:
        def __init__(self, last):
            self.answers = iter([(1.0, 0)] * 6 + last)

        def step(self, batch, key):
            return Loss(*next(self.answers))

    monkeypatch.setattr(module, "Trainer", Trainer)
    start = best_start(NETWORK, batches)
    assert start.losses == {"predicted": 0.5, "random": 80.0, "body": 44.5}
    assert start.accuracies == {"predicted": 0.5, "random": 18 / 32, "body": 18 / 32}
    assert start.name == "body" and start.params is not None
    assert str(start) == (
        "body: top-1 56.2%, loss 44.500 on the last batches, against 50.0%, 0.500 (predicted), 56.2%, 80.000 (random)"
    )


def test_a_start_that_diverges_is_not_taken(batches, monkeypatch):
    def broken(graph, ghn):
        return {name: np.full_like(values, np.nan) for name, values in predict(graph, ghn).items()}

    predict = module.predict_params
    monkeypatch.setattr(module, "predict_params", broken)
    start = best_start(NETWORK, batches[:2], starts=["predicted", "random"])
    assert start.name == "random" and start.losses["predicted"] == float("inf") and len(start.losses) == 2
    graph, ghn = ghn_jax.build_graph(NETWORK), ghn_jax.load("ghn2_fashion_mnist")
    monkeypatch.setattr(module, "he_init", lambda program, seed: broken(graph, ghn))
    with pytest.raises(StartError, match="no start has a finite loss after 2 steps"):
        best_start(NETWORK, batches[:2])


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(80, (3, 3), strides=2)(x)).mean((1, 2))
        return nn.Dense(10)(nn.relu(nn.Dense(96)(x)))


def test_model(batches):
    sample = jnp.ones((16, 32, 32, 3))
    params = Model().init(jax.random.key(0), sample)["params"]
    graph = ghn_jax.trace(Model(), sample)

    def loss(params, batch):
        logits = Model().apply({"params": params}, batch.images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    start = best_start(graph, batches, loss=loss)
    assert start.accuracies == {} and str(start).startswith(f"{start.name}: loss {start.losses[start.name]:.3f} on")
    assert {"predicted", "random", "body", "orthogonal"} <= set(start.losses)
    assert start.losses[start.name] == min(start.losses.values())
    assert jax.tree.structure(start.params) == jax.tree.structure(params)
    second = best_start(graph, batches[:2], loss=loss)
    value = loss(ghn_jax.predict_params(graph), batches[0])
    gradient = jax.grad(loss)(ghn_jax.predict_params(graph), batches[0])
    scale = min(1.0, 5.0 / float(optax.tree.norm(gradient)))
    after = jax.tree.map(lambda p, g: p - 0.025 * scale * g, ghn_jax.predict_params(graph), gradient)
    assert second.losses["predicted"] == pytest.approx(float(loss(after, batches[1])), rel=1e-3)
    assert np.isfinite(float(value))


def test_bad_input(batches):
    graph = ghn_jax.build_graph(NETWORK)
    for model, given, options, message in (
        (NETWORK, [], {}, "0 batches: expected at least 2"),
        (NETWORK, batches, {"loss": lambda params, batch: 0.0}, "either an architecture, or a graph"),
        (graph, batches, {}, "either an architecture, or a graph"),
        (graph, batches, {"loss": lambda params, batch: 0.0}, "expected the architecture itself"),
        (NETWORK, [batches[0], (batches[0].images[:3], batches[0].labels[:3])], {}, "expected one size"),
        (NETWORK, [(np.zeros((4, 8)), np.zeros(4, int))] * 2, {}, r"images of shape \(4, 8\)"),
        (NETWORK, batches, {"learning_rate": -1.0}, "learning_rate=-1.0: expected"),
        (NETWORK, batches, {"starts": ["he"]}, r"starts=\['he'\]: expected .*'predicted' or 'random'"),
        (NETWORK, batches, {"seed": "a"}, "seed='a': expected"),
    ):
        with pytest.raises(StartError, match=message):
            best_start(model, given, **options)
