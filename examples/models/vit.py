"""ViT (Dosovitskiy et al. 2021) with a class token, and MLP-Mixer (Tolstikhin et al. 2021)."""

import jax.numpy as jnp
from flax import linen as nn


class MlpBlock(nn.Module):
    dim: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(self.dim)(x)))


class EncoderBlock(nn.Module):
    heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x, deterministic: bool):
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(self.heads, deterministic=deterministic, dropout_rate=0.1)(y, y)
        x = x + y
        return x + MlpBlock(self.mlp_dim)(nn.LayerNorm()(x))


class ViT(nn.Module):
    patch: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(self.dim, (self.patch, self.patch), (self.patch, self.patch), padding="VALID", name="embedding")(x)
        n, h, w, c = x.shape
        x = x.reshape(n, h * w, c)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, c))
        x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, x.shape[1], c))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        for i in range(self.depth):
            x = EncoderBlock(self.heads, 4 * self.dim, name=f"encoderblock_{i}")(x, not train)
        x = nn.LayerNorm(name="encoder_norm")(x)
        return nn.Dense(self.num_classes, name="head")(x[:, 0])


class MixerBlock(nn.Module):
    tokens_dim: int
    channels_dim: int

    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = jnp.swapaxes(MlpBlock(self.tokens_dim, name="token_mixing")(y), 1, 2)
        x = x + y
        return x + MlpBlock(self.channels_dim, name="channel_mixing")(nn.LayerNorm()(x))


class MlpMixer(nn.Module):
    patch: int = 16
    dim: int = 512
    depth: int = 8
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(self.dim, (self.patch, self.patch), strides=(self.patch, self.patch), name="stem")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(self.depth):
            x = MixerBlock(self.dim // 2, 4 * self.dim)(x)
        x = nn.LayerNorm()(x)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=1))


def vit_s16(**kwargs):
    return ViT(**kwargs)


def mixer_s16(**kwargs):
    return MlpMixer(**kwargs)
