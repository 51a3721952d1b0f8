"""Running a network unrolled, as one program of its own."""

import jax.numpy as jnp
import numpy as np
import pytest
from example_networks import NETWORKS

from ghn_jax.execution import whole
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.lowering import lower


def images(batch=4):
    return jnp.asarray(np.random.default_rng(0).standard_normal((batch, 32, 32, 3)), jnp.float32)


LABELS = jnp.array([1, 3, 5, 7])


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    labels = jnp.array([0, 2])
    np.testing.assert_allclose(cross_entropy(logits, labels), -np.log([0.7, 0.5]).mean(), rtol=1e-6)
    smooth = 0.7 * -np.log([0.7, 0.5]).mean() + 0.3 * -np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]).mean()
    np.testing.assert_allclose(cross_entropy(logits, labels, 0.3), smooth, rtol=1e-6)


def test_bad_arguments():
    program = lower(NETWORKS["resnet"], CIFAR10)
    params = he_init(program, seed=0)
    for wrong in (images()[0], images()[:, :16], images()[..., :1]):
        with pytest.raises(ValueError, match=r"images have shape .* expected \[batch, 32, 32, 3\]"):
            whole.run(program, params, wrong)
    with pytest.raises(ValueError, match="'fc.bias' of shape .10,. is missing"):
        whole.run(program, {k: v for k, v in params.items() if k != "fc.bias"}, images())
    with pytest.raises(ValueError, match="'conv1.weight' has shape"):
        whole.run(program, params | {"conv1.weight": params["conv1.weight"][:2]}, images())
    with pytest.raises(ValueError, match="no parameters 'extra'"):
        whole.run(program, params | {"extra": params["fc.bias"]}, images())
