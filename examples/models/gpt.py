"""A decoder like GPT-2 (Radford et al. 2019): layers in one scan, rematerialised, embeddings tied with the output."""

import jax.numpy as jnp
from flax import linen as nn


class Block(nn.Module):
    heads: int
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, mask):
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(y, y, mask=mask)
        y = nn.Dense(4 * x.shape[-1], dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype)(nn.gelu(y)), None


class GPT(nn.Module):
    vocabulary: int = 8192
    context: int = 256
    dim: int = 384
    depth: int = 6
    heads: int = 6
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.dim, dtype=self.dtype, name="tokens")
        positions = nn.Embed(self.context, self.dim, dtype=self.dtype, name="positions")
        x = embed(tokens) + positions(jnp.arange(tokens.shape[1]))
        layers = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        x, _ = layers(self.heads, self.dtype, name="layers")(x, nn.make_causal_mask(tokens))
        return embed.attend(nn.LayerNorm(dtype=self.dtype)(x))


def gpt_small(**kwargs):
    return GPT(**kwargs)
