"""ConvNeXt-T (Liu et al. 2022), with layer scale and stochastic depth."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class Block(nn.Module):
    dim: int
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.Conv(self.dim, (7, 7), feature_group_count=self.dim)(x)
        y = nn.LayerNorm(epsilon=1e-6)(y)
        y = nn.Dense(4 * self.dim)(y)
        y = nn.Dense(self.dim)(nn.gelu(y))
        y = y * self.param("gamma", nn.initializers.constant(1e-6), (self.dim,))
        if train and self.drop_rate:
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.drop_rate, (x.shape[0], 1, 1, 1))
            y = jnp.where(keep, y / (1 - self.drop_rate), 0)
        return x + y


class ConvNeXt(nn.Module):
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    num_classes: int = 1000
    drop_rate: float = 0.1

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(self.dims[0], (4, 4), strides=(4, 4))(x)
        x = nn.LayerNorm(epsilon=1e-6)(x)
        for stage, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if stage:
                x = nn.Conv(dim, (2, 2), strides=(2, 2))(nn.LayerNorm(epsilon=1e-6)(x))
            for _ in range(depth):
                x = Block(dim, self.drop_rate)(x, train)
        x = nn.LayerNorm(epsilon=1e-6)(x.mean(axis=(1, 2)))
        return nn.Dense(self.num_classes)(x)


def convnext_tiny(**kwargs):
    return ConvNeXt(**kwargs)
