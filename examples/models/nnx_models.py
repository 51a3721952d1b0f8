"""A ResNet, a ViT and an MLP in Flax NNX."""

import jax.numpy as jnp
from flax import nnx


class MLP(nnx.Module):
    def __init__(self, din: int = 16, width: int = 64, dout: int = 10, *, rngs: nnx.Rngs):
        self.linear1 = nnx.Linear(din, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.bn = nnx.BatchNorm(width, rngs=rngs)
        self.linear2 = nnx.Linear(width, dout, rngs=rngs)

    def __call__(self, x):
        return self.linear2(nnx.relu(self.dropout(self.bn(self.linear1(x)))))


class ResidualBlock(nnx.Module):
    def __init__(self, inputs: int, features: int, strides: int, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(inputs, features, (3, 3), strides=strides, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(features, rngs=rngs)
        self.conv2 = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(features, rngs=rngs)
        if strides != 1 or inputs != features:
            self.shortcut = nnx.Sequential(
                nnx.Conv(inputs, features, (1, 1), strides=strides, use_bias=False, rngs=rngs),
                nnx.BatchNorm(features, rngs=rngs),
            )
        else:
            self.shortcut = lambda x: x

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + self.shortcut(x))


class ResNet18(nnx.Module):
    def __init__(self, num_classes: int = 10, width: int = 64, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, rngs=rngs)
        blocks, inputs = [], width
        for stage in range(4):
            for block in range(2):
                features = width * 2**stage
                blocks.append(ResidualBlock(inputs, features, 2 if stage and not block else 1, rngs=rngs))
                inputs = features
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class EncoderBlock(nnx.Module):
    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(dim, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, dim, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(dim, rngs=rngs)
        self.fc1 = nnx.Linear(dim, 4 * dim, rngs=rngs)
        self.fc2 = nnx.Linear(4 * dim, dim, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x))))


class ViT(nnx.Module):
    def __init__(
        self, size: int = 32, patch: int = 4, dim: int = 192, depth: int = 6, heads: int = 3, num_classes: int = 10,
        *, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.embed = nnx.Conv(3, dim, (patch, patch), strides=(patch, patch), padding="VALID", rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((1, 1, dim)))
        self.pos = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, (size // patch) ** 2 + 1, dim)))
        self.blocks = nnx.List([EncoderBlock(dim, heads, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.head = nnx.Linear(dim, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        cls = jnp.broadcast_to(self.cls[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([cls, x], axis=1) + self.pos[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def mlp():
    return MLP(rngs=nnx.Rngs(0))


def resnet18():
    return ResNet18(rngs=nnx.Rngs(0))


def vit():
    return ViT(rngs=nnx.Rngs(0))
