"""Linear layers and MLPs with the initialisation of the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

PRECISION = lax.Precision.HIGHEST
"""Of every product in a hypernetwork: accelerators otherwise round the factors to 10 bits or fewer."""


class Affine(NamedTuple):
    """Weights of a linear layer: kernel `[in, out]`, bias `[out]`."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.matmul(x, self.kernel, precision=PRECISION) + self.bias


def uniform(fan_in: int) -> Callable[..., jax.Array]:
    """Uniform initialisation in +-1/sqrt(fan_in), PyTorch's default for linear layers and their biases."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """A linear layer `[..., inputs] -> [..., features]`."""

    inputs: int
    features: int

    def setup(self):
        self.kernel = self.param("kernel", uniform(self.inputs), (self.inputs, self.features))
        self.bias = self.param("bias", uniform(self.inputs), (self.features,))

    def weights(self) -> Affine:
        """The weights, for pure functions that run under transformations of their own."""
        return Affine(self.kernel, self.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.weights()(x)


class MLP(nn.Module):
    """Two linear layers `[..., inputs] -> [..., features]`, with a ReLU after the first and no activation last."""

    inputs: int
    hidden: int
    features: int

    def setup(self):
        self.first = Linear(self.inputs, self.hidden)
        self.second = Linear(self.hidden, self.features)

    def weights(self) -> tuple[Affine, Affine]:
        """The weights of both layers."""
        return self.first.weights(), self.second.weights()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nn.relu(self.first(x)))
