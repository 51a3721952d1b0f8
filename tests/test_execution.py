"""Both ways of running a network: unrolled in one program, and one compiled instruction at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ghn_jax import dispatch, interpreter
from ghn_jax.architecture import CIFAR10, Architecture, Genotype, ResNet
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation import he_init
from ghn_jax.primitives import Moments
from ghn_jax.program import lower

MIXED = Genotype(
    normal=(("sep_conv_3x3", 0), ("cse", 1), ("dil_conv_3x3", 2), ("none", 0)),
    normal_concat=(2, 3),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 1), ("conv_7x1_1x7", 2)),
    reduce_concat=(2, 3),
)
ATTENTIVE = Genotype(
    normal=(("msa", 0), ("conv_1x1", 1)), normal_concat=(2,), reduce=(("msa", 1), ("none", 0)), reduce_concat=(2,)
)
NETWORKS = {
    "mixed": Architecture(MIXED, n_cells=3, C=8, stem_type=1, fc_layers=2, fc_dim=16),
    "attentive": Architecture(ATTENTIVE, n_cells=2, C=8),
    "flat": Architecture(MIXED, n_cells=2, C=8, stem_pool=True, glob_avg=False, norm=None),
    "resnet": ResNet(depths=(1, 1), width=8),
}


def images(batch=4):
    return jnp.asarray(np.random.default_rng(0).standard_normal((batch, 32, 32, 3)), jnp.float32)


LABELS = jnp.array([1, 3, 5, 7])


@pytest.mark.parametrize("name", NETWORKS)
def test_both_ways_agree(name):
    program = lower(NETWORKS[name], CIFAR10)
    params = {k: jnp.asarray(v) for k, v in he_init(program, seed=0).items()}
    key = jax.random.key(3)

    def loss(params):
        logits = interpreter.run(program, params, images(), dropout_key=key)
        return dispatch.cross_entropy(logits, LABELS, 0.1), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    ours = dispatch.value_and_grad(program, params, images(), LABELS, dropout_key=key, label_smoothing=0.1)
    np.testing.assert_allclose(ours.loss, value, rtol=1e-5)
    assert int(ours.correct) == int(jnp.sum(jnp.argmax(logits, -1) == LABELS))
    assert ours.params.keys() == gradients.keys() == {t.name for t in program.tensors}
    for tensor in program.tensors:
        scale = np.abs(gradients[tensor.name]).max() + 1e-6
        np.testing.assert_allclose(ours.params[tensor.name], gradients[tensor.name], atol=2e-4 * scale, rtol=0)
    plain = jax.jit(functools.partial(interpreter.run, program))(params, images())
    np.testing.assert_allclose(dispatch.run(program, params, images()), plain, atol=1e-4 * np.abs(plain).max())


def test_dropout_changes_training_only():
    program = lower(NETWORKS["mixed"], CIFAR10)
    params = he_init(program, seed=0)
    first, second, again = (
        float(dispatch.value_and_grad(program, params, images(), LABELS, dropout_key=jax.random.key(seed)).loss)
        for seed in (0, 1, 0)
    )
    assert first == again != second


def test_running_moments():
    program = lower(NETWORKS["mixed"], CIFAR10)
    params = he_init(program, seed=0)
    by_batch = interpreter.run(program, params, images())
    moments = interpreter.batch_moments(program, params, images())
    np.testing.assert_allclose(interpreter.run(program, params, images(), moments=moments), by_batch, atol=1e-4)
    np.testing.assert_allclose(dispatch.run(program, params, images(), moments), by_batch, atol=1e-4)
    # With running moments an image's logits do not depend on its neighbours.
    alone = interpreter.run(program, params, images()[:1], moments=moments)
    np.testing.assert_allclose(alone, by_batch[:1], atol=1e-4)
    widened = {name: Moments(m.mean, 4 * m.variance) for name, m in moments.items()}
    assert np.abs(interpreter.run(program, params, images(), moments=widened) - by_batch).max() > 1e-3


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    labels = jnp.array([0, 2])
    np.testing.assert_allclose(dispatch.cross_entropy(logits, labels), -np.log([0.7, 0.5]).mean(), rtol=1e-6)
    smooth = 0.7 * -np.log([0.7, 0.5]).mean() + 0.3 * -np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]).mean()
    np.testing.assert_allclose(dispatch.cross_entropy(logits, labels, 0.3), smooth, rtol=1e-6)


@pytest.mark.parametrize("run", [interpreter.run, dispatch.run])
def test_bad_arguments(run):
    program = lower(NETWORKS["resnet"], CIFAR10)
    params = he_init(program, seed=0)
    for wrong in (images()[0], images()[:, :16], images()[..., :1]):
        with pytest.raises(ValueError, match=r"images have shape .* expected \[batch, 32, 32, 3\]"):
            run(program, params, wrong)
    with pytest.raises(ValueError, match="'fc.bias' of shape .10,. is missing"):
        run(program, {k: v for k, v in params.items() if k != "fc.bias"}, images())
    with pytest.raises(ValueError, match="'conv1.weight' has shape"):
        run(program, params | {"conv1.weight": params["conv1.weight"][:2]}, images())
    with pytest.raises(ValueError, match="no parameters 'extra'"):
        run(program, params | {"extra": params["fc.bias"]}, images())


def test_new_networks_compile_only_new_signatures():
    compiled = []

    def listener(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    base = dataclasses.replace(sample_architecture("train", 2), C=8)
    program = lower(base, CIFAR10)
    params = {k: jnp.asarray(v) for k, v in he_init(program, seed=0).items()}
    batch = images()
    key = jax.random.key(0)
    dispatch.compile_signatures([program], len(batch))
    assert dispatch.compile_signatures([program], len(batch)) == 0
    dispatch.value_and_grad(program, params, batch, LABELS, dropout_key=key)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        dispatch.value_and_grad(program, params, batch, LABELS, dropout_key=key)
        assert not compiled
        # A deeper network of the same cells, never seen before, is made of the same signatures.
        deeper = lower(dataclasses.replace(base, n_cells=base.n_cells + 3), CIFAR10)
        more = {k: jnp.asarray(v) for k, v in he_init(deeper, seed=0).items()}
        compiled.clear()
        dispatch.value_and_grad(deeper, more, batch, LABELS, dropout_key=key)
        assert len(compiled) <= 4
    finally:
        jax.monitoring.clear_event_listeners()
