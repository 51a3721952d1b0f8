"""A hypernetwork with its weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.checks.fields import shown
from ghn_jax.ghn.config import ConfigError, HypernetConfig, to_json
from ghn_jax.ghn.hypernetwork import init_params
from ghn_jax.runtime import own_settings


@dataclasses.dataclass(frozen=True, eq=False)
class GHN:
    """A hypernetwork and its weights.

    Attributes:
      config: what it is.
      params: parameters of `Hypernetwork(config)`.

    Raises:
      ConfigError: another configuration, or parameters that are no arrays of floats.

    >>> ghn = ghn_jax.load('ghn2_cifar10')
    >>> ghn.config.hid, ghn.config.num_classes
    (32, 10)
    """

    config: HypernetConfig
    params: Any

    def __post_init__(self):
        if not isinstance(self.config, HypernetConfig):
            raise ConfigError(f"GHN.config={shown(self.config)}: expected a HypernetConfig")
        leaves = jax.tree_util.tree_leaves_with_path(self.params)
        if not leaves:
            raise ConfigError(f"GHN.params={shown(self.params)}: expected the arrays of a hypernetwork by name")
        for keys, leaf in leaves:
            array = isinstance(leaf, (np.ndarray, np.generic, jax.Array)) and not isinstance(leaf, np.ma.MaskedArray)
            if not array or not jnp.issubdtype(leaf.dtype, jnp.floating):
                name = jax.tree_util.keystr(keys, simple=True, separator="/") or "it"
                kind = f"{type(leaf).__name__} of {leaf.dtype}" if array else shown(leaf)
                raise ConfigError(f"GHN.params: {name} is {kind}, expected an array of floats")

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of what it is and of its weights, which results are stored with."""
        found = hashlib.blake2b(to_json(self.config).encode(), digest_size=8)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            found.update(jax.tree_util.keystr(keys).encode())
            found.update(np.ascontiguousarray(leaf).tobytes())
        return found.hexdigest()

    @classmethod
    def init(cls, config: HypernetConfig, seed: int) -> GHN:
        """A hypernetwork with random weights, distributed as in the original."""
        with own_settings():
            return cls(config, init_params(config, seed))
