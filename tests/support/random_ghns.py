"""Small hypernetworks with random weights."""

from __future__ import annotations

import dataclasses

import numpy as np

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import conversion

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), num_classes=10, weight_norm=True, ve=True, layernorm=True, hid=8)
CONFIGS = [
    SMALL,
    dataclasses.replace(SMALL, decoder="mlp"),
    dataclasses.replace(SMALL, hypernet="mlp"),
    dataclasses.replace(SMALL, weight_norm=False, ve=False, layernorm=False),
    dataclasses.replace(SMALL, hypernet="graphormer", decoder="conv3", heads=2, layers=2),
]


def random_ghn(config: HypernetConfig, seed: int = 0) -> GHN:
    """A hypernetwork with random weights, larger than those it would begin training with."""
    rng = np.random.default_rng(seed)
    state = {
        name: (rng.standard_normal(entry.shape) / 4).astype(np.float32)
        for name, entry in conversion.state_entries(config).items()
    }
    return GHN(config, conversion.params_from_torch(state, config))
