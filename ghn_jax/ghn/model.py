"""A hypernetwork with its weights."""

from __future__ import annotations

import dataclasses
from typing import Any

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.hypernetwork import init_params
from ghn_jax.runtime import own_settings


@dataclasses.dataclass(frozen=True, eq=False)
class GHN:
    """A hypernetwork and its weights.

    Attributes:
      config: what it is.
      params: parameters of `Hypernetwork(config)`.

    >>> ghn = ghn_jax.load('ghn2_cifar10')
    >>> ghn.config.hid, ghn.config.num_classes
    (32, 10)
    """

    config: HypernetConfig
    params: Any

    @classmethod
    def init(cls, config: HypernetConfig, seed: int) -> GHN:
        """A hypernetwork with random weights, distributed as in the original."""
        with own_settings():
            return cls(config, init_params(config, seed))
