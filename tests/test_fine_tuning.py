"""Training networks from their parameters: against a step by hand, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ghn_jax import images
from ghn_jax.evaluation import fine_tuning
from ghn_jax.evaluation.accuracy import accuracy, as_a_whole
from ghn_jax.evaluation.fine_tuning import BATCH_SIZE, FineTuner
from ghn_jax.execution import whole
from ghn_jax.networks.architecture import CIFAR10, Architecture, Genotype
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.lowering import lower

CELL = Genotype(
    normal=(("conv_3x3", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)
PROGRAMS = [lower(Architecture(CELL, n_cells=n, C=8, fc_dim=16), CIFAR10) for n in (1, 2)]
STEPS = 80


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
    for step in range(3):
        batch = images.train_batch(dataset, BATCH_SIZE, 0, step)

        def loss(params, batch=batch):
            return cross_entropy(whole.run(program, params, batch.images), batch.labels)

        value, gradient = jax.value_and_grad(loss)(mine)
        known.append(float(value))
        scale = jnp.minimum(1.0, fine_tuning.CLIP_NORM / optax.tree.norm(gradient))
        rate = fine_tuning.LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        for name, g in gradient.items():
            velocity[name] = 0.9 * velocity[name] + scale * g + fine_tuning.WEIGHT_DECAY * mine[name]
            mine[name] = mine[name] - rate * velocity[name]
    np.testing.assert_allclose(losses, known, rtol=1e-4)


def test_it_learns_and_measures(tuner):
    program, dataset, losses = PROGRAMS[1], images.load("digits"), []
    params = he_init(program, seed=0)
    measured = tuner(program, params, dataset, [0, STEPS], num_test_images=128, made_step=losses.append)
    assert list(measured) == [0, STEPS]
    assert measured[0] == accuracy(as_a_whole(program, params), dataset.test, dataset, 128)
    assert len(losses) == STEPS
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    assert measured[STEPS] > measured[0] + 0.1
