"""Training runs of a few seconds: a small hypernetwork, small networks, the digits."""

import dataclasses

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.networks.architecture import Architecture, Genotype
from ghn_jax.training.config import TrainConfig

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)

TWO_OPERATIONS = Genotype(
    normal=(("conv_1x1", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)
CELL = Genotype(
    normal=(("sep_conv_3x3", 0), ("conv_1x1", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)


PLAIN = Architecture(CELL, n_cells=2, C=12, stem_type=1)


def smoke_config(workdir, **fields):
    return TrainConfig(
        dataset="digits", workdir=str(workdir), steps=2, batch_size=8, meta_batch=2, fixed_width=32,
        max_multiply_adds=8_000_000, **fields,
    )  # fmt: skip


def small_config(workdir, **fields):
    return dataclasses.replace(smoke_config(workdir), fixed_width=None, max_multiply_adds=None, **fields)
