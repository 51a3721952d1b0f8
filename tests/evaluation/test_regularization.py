"""Training as DARTS does it: holes in images, dropped paths, an auxiliary head; by values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from at_once import compiled
from example_networks import NETWORKS

from ghn_jax import images
from ghn_jax.evaluation.fine_tuning import FineTuner, Protocol, Regularization, Trainer
from ghn_jax.execution import whole
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import ExecutionError, Given, Plan, value_and_grad
from ghn_jax.images import Augmentation
from ghn_jax.images.augment import cut_out
from ghn_jax.networks.architecture import CIFAR10, Architecture, ArchitectureError, Genotype, Task
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.lowering import lower, lower_regularized
from ghn_jax.networks.regularization import DropPath

CELL = Genotype(
    normal=(("conv_1x1", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)
TINY = Architecture(CELL, n_cells=3, C=8)
TASK = Task(image_size=16)
REGULARIZED = lower_regularized(TINY, TASK)
IMAGES = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype(np.float32)
LABELS = np.arange(8, dtype=np.int32)
KEY = jax.random.key(3)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "resnet"])
def test_the_network_in_it_is_the_same(name):
    plain, regularized = lower(NETWORKS[name], CIFAR10), lower_regularized(NETWORKS[name], CIFAR10)
    own = [tensor for tensor in regularized.tensors if not tensor.name.startswith("auxiliary_head")]
    assert own == list(plain.tensors)
    assert regularized.instructions[-1].shape == (20,)
    paths = [one for one in regularized.instructions if isinstance(one.primitive, DropPath)]
    assert paths and all(one.inputs[0] is not None for one in paths)


def test_paths_of_identities_are_not_dropped():
    """Cells 1 and 2 reduce: two operations each, of which the skip connection is a convolution there."""
    assert sum(isinstance(one.primitive, DropPath) for one in REGULARIZED.instructions) == 1 + 2 + 2


def test_without_dropped_paths_the_logits_are_the_same():
    params, plain = he_init(REGULARIZED, 0), lower(TINY, TASK)
    both = whole.run(REGULARIZED, params, IMAGES, jit_primitives=True)
    own = {tensor.name: params[tensor.name] for tensor in plain.tensors}
    np.testing.assert_allclose(both[:, :10], whole.run(plain, own, IMAGES, jit_primitives=True), atol=1e-5)
    assert np.std(both[:, 10:]) > 0.1


def test_loss_and_gradients_are_those_of_the_whole():
    """Operation by operation, with paths dropped and an auxiliary head, which reaches the stem."""
    params = jax.tree.map(jnp.asarray, he_init(REGULARIZED, 0))
    programs = Programs(jax.local_devices()[:1])

    def by_operation(auxiliary, drop_path):
        given = Given(REGULARIZED, params)
        network = Plan(REGULARIZED, 8, label_smoothing=0.0, auxiliary=auxiliary).prepare(programs)
        return value_and_grad(network, given, jnp.asarray(IMAGES), LABELS, KEY, drop_path), given.gradients

    def gradient(params, auxiliary, drop_path):
        def loss(params):
            logits = whole.run(REGULARIZED, params, IMAGES, dropout_key=KEY, drop_path=drop_path)
            head = cross_entropy(logits[:, 10:], LABELS)
            return cross_entropy(logits[:, :10], LABELS) + auxiliary * head, (head, logits)

        return jax.value_and_grad(loss, has_aux=True)(params)

    as_a_whole = compiled(gradient, params, 0.4, 0.5)
    found = {}
    for auxiliary, drop_path in ((0.4, 0.5), (0.0, 0.5), (0.4, 0.0)):
        loss, gradients = by_operation(auxiliary, drop_path)
        (value, (_, logits)), known = as_a_whole(params, auxiliary, drop_path)
        np.testing.assert_allclose(loss.loss, value, rtol=1e-5)
        assert int(loss.correct) == int((logits[:, :10].argmax(-1) == LABELS).sum())
        largest = max(np.abs(g).max() for g in known.values())
        for name, gradient in known.items():
            np.testing.assert_allclose(gradients[name], gradient, atol=1e-5 * largest)
        found[auxiliary, drop_path] = gradients
    for name in ("stem.0.weight", "auxiliary_head.features.5.weight"):
        assert not np.allclose(found[0.4, 0.5][name], found[0.0, 0.5][name], atol=1e-4), name
        assert not np.allclose(found[0.4, 0.5][name], found[0.4, 0.0][name], atol=1e-4), name
    assert not np.asarray(found[0.0, 0.5]["auxiliary_head.features.5.weight"]).any()
    programs.close()


def test_dropped_paths_grow_with_the_steps(monkeypatch):
    rates = []
    monkeypatch.setattr(
        "ghn_jax.evaluation.fine_tuning.value_and_grad",
        lambda *arguments: rates.append(arguments[-1]) or value_and_grad(*arguments),
    )
    protocol = Protocol(4, batch_size=8, regularization=Regularization(drop_path=0.2))
    training = Trainer(protocol).begin(REGULARIZED, he_init(REGULARIZED, 0))
    before = jax.tree.map(np.array, training.params)
    for _ in range(3):
        training.step(images.Batch(IMAGES, LABELS), KEY)
    np.testing.assert_allclose(rates, [0, 0.05, 0.1])
    assert all(not np.array_equal(values, before[name]) for name, values in training.params.items())
    assert Protocol(4).drop_path(3) == 0


@pytest.mark.parametrize("side", [0, 1, 4, 7])
def test_holes(side):
    rng = np.random.default_rng(1)
    pixels = rng.uniform(1, 2, (400, 12, 10, 3)).astype(np.float32)
    holes = cut_out(pixels, side, rng)
    gone = (holes == 0).all(-1)
    np.testing.assert_array_equal(holes[~gone], pixels[~gone])
    rows, columns = gone.any(2), gone.any(1)
    np.testing.assert_array_equal(gone, rows[:, :, None] & columns[:, None])
    for axis, length in ((rows, 12), (columns, 10)):
        sides = axis.sum(1)
        inside = (length - side + 1) / length if side else 1
        assert sides.max() == side and abs((sides == side).mean() - inside) < 0.08
        assert sides.min() == side // 2 + side % 2 or side < 2


def test_batches_have_holes_of_the_mean_colour():
    digits = images.load("digits")
    protocol = Protocol(5, regularization=Regularization(cutout=16))
    data = protocol.augmented(digits)
    assert data.augmentation == dataclasses.replace(digits.augmentation, cutout=16)
    plain, holes = (images.train_batch(one, 32, seed=0, step=3) for one in (digits, data))
    np.testing.assert_array_equal(plain.labels, holes.labels)
    gone = (holes.images == 0).all(-1)
    np.testing.assert_array_equal(holes.images[~gone], plain.images[~gone])
    assert ((gone.sum((1, 2)) >= 8 * 8) & (gone.sum((1, 2)) <= 16 * 16)).all()
    assert Protocol(5).augmented(digits) is digits
    assert Protocol(5, regularization=Regularization(cutout=0)).augmented(digits) is digits


def test_what_cannot_be_trained_so():
    with pytest.raises(ArchitectureError, match="only networks of cells have paths to drop, got a ResNet"):
        lower_regularized(NETWORKS["resnet"], CIFAR10)
    with pytest.raises(ArchitectureError, match="auxiliary_head: it needs at least 2x2 pixels, .* has 1x1"):
        lower_regularized(TINY, Task(image_size=4))
    with pytest.raises(ExecutionError, match="Regularization.drop_path=1: expected"):
        Regularization(drop_path=1)
    with pytest.raises(ExecutionError, match="Regularization.cutout=-1: expected"):
        Regularization(cutout=-1)
    with pytest.raises(ExecutionError, match="Protocol.regularization=0.2: expected a Regularization, or None"):
        Protocol(1, regularization=0.2)
    with pytest.raises(images.ImageError, match="Augmentation.cutout=0.5: expected"):
        Augmentation(0, False, cutout=0.5)
    plain, darts = lower(TINY, TASK), Protocol(1, batch_size=8, regularization=Regularization())
    with pytest.raises(ExecutionError, match="the program has 10 outputs, expected 20: Protocol.lower makes"):
        FineTuner(darts)(plain, he_init(plain, 0), images.load("digits"), [1])
    with pytest.raises(ExecutionError, match="the program has 20 outputs, expected 10"):
        Trainer(Protocol(1, batch_size=8)).begin(REGULARIZED, he_init(REGULARIZED, 0))
