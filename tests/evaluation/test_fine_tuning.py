"""Training networks from their parameters: against a step by hand, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from at_once import compiled

from ghn_jax import images
from ghn_jax.evaluation import fine_tuning
from ghn_jax.evaluation.accuracy import accuracy, as_a_whole
from ghn_jax.evaluation.fine_tuning import TRAIN_BATCH_SIZE, FineTuner, Protocol, Trainer
from ghn_jax.execution import whole
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, Architecture, Genotype
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import make_network
from ghn_jax.studies import fine_tune

CELL = Genotype(
    normal=(("conv_3x3", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)
PROGRAMS = [lower(Architecture(CELL, n_cells=n, C=8, fc_dim=16), CIFAR10) for n in (1, 2)]
STEPS = 80
SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)


@pytest.fixture(scope="module")
def tuner():
    return FineTuner(STEPS)


def test_steps_by_hand(tuner):
    """The first steps with the whole network as one program, and the optimiser's rule written out."""
    program, dataset = PROGRAMS[1], images.load("digits")
    params = he_init(program, seed=0)
    losses = []
    tuner(program, params, dataset, [3], num_test_images=64, made_step=losses.append)
    mine, velocity, known = dict(params), {name: 0.0 for name in params}, []
    batches = [images.train_batch(dataset, TRAIN_BATCH_SIZE, 0, step) for step in range(3)]

    def loss(params, batch):
        return cross_entropy(whole.run(program, params, batch.images), batch.labels)

    gradient_of = compiled(jax.value_and_grad(loss), mine, batches[0])
    for step, batch in enumerate(batches):
        value, gradient = gradient_of(mine, batch)
        known.append(float(value))
        scale = jnp.minimum(1.0, fine_tuning.CLIP_NORM / optax.tree.norm(gradient))
        rate = fine_tuning.LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        for name, g in gradient.items():
            velocity[name] = 0.9 * velocity[name] + scale * g + fine_tuning.WEIGHT_DECAY * mine[name]
            mine[name] = mine[name] - rate * velocity[name]
    np.testing.assert_allclose(losses, known, rtol=1e-4)


@pytest.mark.parametrize(("optimizer", "clip_norm"), [("sgd", 0.5), ("adamw", 1e3)])
def test_updates_are_those_of_all_tensors_together(optimizer, clip_norm):
    """Against optax's clipping and optimizers on the whole tree, with and without clipping; starts are not touched."""
    program, dataset = PROGRAMS[0], images.load("digits")
    protocol = Protocol(4, 8, optimizer, learning_rate=0.01, weight_decay=0.1, clip_norm=clip_norm)
    rate = optax.cosine_decay_schedule(0.01, 4)
    rule = {
        "sgd": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate, momentum=0.9)),
        "adamw": optax.adamw(rate, weight_decay=0.1),
    }[optimizer]
    whole_tree = optax.chain(optax.clip_by_global_norm(clip_norm), rule)
    start = {name: jnp.asarray(values) for name, values in he_init(program, seed=0).items()}
    before = {name: np.array(values) for name, values in start.items()}
    network, mine, state = Trainer(protocol).begin(program, start), start, whole_tree.init(start)
    batches = [images.train_batch(dataset, 8, 0, step) for step in range(3)]
    gradient_of = compiled(
        jax.grad(lambda p, batch: cross_entropy(whole.run(program, p, batch.images), batch.labels)), mine, batches[0]
    )
    for step, batch in enumerate(batches):
        network.step(batch, jax.random.key(step))
        gradient = gradient_of(mine, batch)
        assert clip_norm == 1e3 or optax.tree.norm(gradient) > clip_norm
        updates, state = whole_tree.update(gradient, state, mine)
        mine = optax.apply_updates(mine, updates)
        for name, values in network.params.items():
            np.testing.assert_allclose(values, mine[name], rtol=1e-3, atol=2e-5, err_msg=name)
    for name, values in before.items():
        np.testing.assert_array_equal(start[name], values)


def test_it_learns_and_measures():
    tuner = FineTuner(Protocol(STEPS, batch_size=24))
    program, dataset, losses = PROGRAMS[1], images.load("digits"), []
    params = he_init(program, seed=0)
    measured = tuner(program, params, dataset, [0, STEPS], num_test_images=128, made_step=losses.append)
    assert list(measured) == [0, STEPS]
    assert measured[0] == accuracy(as_a_whole(program, params), dataset.test, dataset, 128)
    assert len(losses) == STEPS
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    assert measured[STEPS] > measured[0] + 0.1


def test_starts_side_by_side_go_on_where_they_were(tmp_path, monkeypatch):
    """Only what a file does not have is trained: by data set, schedule, network, start and hypernetwork."""
    trained = []

    class Tuner:
        def __init__(self, steps):
            self.steps = steps

        def __call__(self, program, params, dataset, measure_at, num_test_images, made_step):
            trained.append(max(measure_at))
            return {step: step / 1000 for step in measure_at}

    monkeypatch.setattr(fine_tune, "FineTuner", Tuner)
    dataset = fine_tune.with_train_images(images.load("digits"), 128)
    assert len(dataset.train.labels) == 128 and fine_tune.epoch_steps(dataset) == 2
    network = make_network(0, Architecture(CELL, n_cells=1, C=8, fc_dim=16), dataset.task)
    ghn, path = GHN.init(SMALL, 0), tmp_path / "fine_tuning.jsonl"

    def measure(epochs, checkpoint, starts=fine_tune.FINE_TUNE_STARTS, ghn=ghn):
        trained.clear()
        rows = fine_tune.measure(ghn, {"a": network}, dataset, path, epochs, starts=starts, checkpoint=checkpoint)
        return [row["start"] for row in rows], len(trained)

    assert measure([0, 1], "one", ["he"]) == (["he"], 1)
    assert measure([0, 1], "one") == (["predicted", "he"], 1)
    assert measure([0, 1], "one") == (["predicted", "he"], 0)
    assert measure([0, 1], "two") == (["predicted", "he"], 1)
    assert measure([0, 3], "two") == (["predicted", "he"], 2)
    assert measure([0, 3], "two", ghn=GHN.init(SMALL, 1)) == (["predicted", "he"], 1)
    assert measure([0, 3], "two") == (["predicted", "he"], 0)
    text = fine_tune.table(fine_tune.measure(ghn, {"a": network}, dataset, path, [0, 3], checkpoint="two"), [0, 3])
    assert text.splitlines()[1].split() == ["a", "predicted", "0.0%", "0.6%"]
