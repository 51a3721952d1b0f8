"""DenseNet-121 (Huang et al. 2017)."""

import jax.numpy as jnp
from flax import linen as nn


class DenseNet(nn.Module):
    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x, train: bool = True):
        def norm_relu(x):
            return nn.relu(nn.BatchNorm(use_running_average=not train)(x))

        x = nn.Conv(2 * self.growth, (7, 7), (2, 2), use_bias=False)(x)
        x = nn.max_pool(norm_relu(x), (3, 3), (2, 2), padding="SAME")
        for index, layers in enumerate(self.blocks):
            for _ in range(layers):
                y = nn.Conv(4 * self.growth, (1, 1), use_bias=False)(norm_relu(x))
                y = nn.Conv(self.growth, (3, 3), use_bias=False)(norm_relu(y))
                x = jnp.concatenate([x, y], axis=-1)
            if index < len(self.blocks) - 1:
                x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(norm_relu(x))
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = norm_relu(x)
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


def densenet121(**kwargs):
    return DenseNet(**kwargs)
