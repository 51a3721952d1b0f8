"""Linear layers and MLPs with the initialisation of the originals."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ghn_jax.ghn.config import HypernetConfig

PRECISION = lax.Precision.HIGHEST
"""Of every product in a hypernetwork: accelerators otherwise round the factors to 10 bits or fewer."""

LAYER_NORM_EPSILON = 1e-5


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


def small(fan_in: int) -> Callable[..., jax.Array]:
    """A fifth of `uniform`: the last layers of GHN-3's decoders, whose loss is else not finite now and then."""

    def init(key, shape, dtype=jnp.float32):
        return uniform(fan_in)(key, shape, dtype) / 5

    return init


def embedding_init(config: HypernetConfig) -> Callable[..., jax.Array]:
    """Initialisation of tables of embeddings: normal, or as in GHN-3 with deviation `features ** -0.5`, cut at 2."""
    if not config.small_start:
        return nn.initializers.normal(1.0)

    def init(key, shape, dtype=jnp.float32):
        deviation = shape[-1] ** -0.5
        return deviation * jax.random.truncated_normal(key, -2 / deviation, 2 / deviation, shape, dtype)

    return init


def product(formula: str, a: jax.Array, b: jax.Array, dtype: str) -> jax.Array:
    """`einsum` of two arrays as float32; with `dtype` "bfloat16" the factors are rounded to it, sums are float32."""
    if dtype == "float32":
        return jnp.einsum(formula, a, b, precision=PRECISION)
    a, b = a.astype(dtype), b.astype(dtype)
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


class LinearLayer(nn.Module):
    """A linear layer `[..., inputs] -> [..., features]`.

    Attributes:
      inputs, features: sizes.
      small: start with `small` weights and biases of zero.
      dtype: of the factors, see `product`.
    """

    inputs: int
    features: int
    small: bool = False
    dtype: str = "float32"

    def setup(self):
        weights, biases = uniform(self.inputs), uniform(self.inputs)
        if self.small:
            weights, biases = small(self.inputs), nn.initializers.zeros
        self.kernel = self.param("kernel", weights, (self.inputs, self.features))
        self.bias = self.param("bias", biases, (self.features,))

    def weights(self) -> Affine:
        """The weights, for pure functions that run under transformations of their own."""
        return Affine(self.kernel, self.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return product("...i,io->...o", x, self.kernel, self.dtype) + self.bias


class MLP(nn.Module):
    """Two linear layers `[..., inputs] -> [..., features]`, with a ReLU after the first and no activation last.

    Attributes:
      inputs, hidden, features: sizes.
      small: of the last layer, see `LinearLayer`.
      dtype: of both.
    """

    inputs: int
    hidden: int
    features: int
    small: bool = False
    dtype: str = "float32"

    def setup(self):
        self.first = LinearLayer(self.inputs, self.hidden, dtype=self.dtype)
        self.second = LinearLayer(self.hidden, self.features, small=self.small, dtype=self.dtype)

    def weights(self) -> tuple[Affine, Affine]:
        """The weights of both layers."""
        return self.first.weights(), self.second.weights()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nn.relu(self.first(x)))
