"""A hypernetwork for another number of classes: the layers that make classes are new, all others are kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.ghn.shape_encoder import channel_vocabulary
from ghn_jax.weights.errors import CheckpointError

_CHANNELS = "shape_encoder/channels"


def with_classes(ghn: GHN, num_classes: int, seed: int = 0) -> GHN:
    """The hypernetwork for networks of `num_classes` classes.

    Layers that end in a number of classes are made anew.  The table of embedded sizes has a row for the number of
    classes: it moves to the new number; a row that only the new table has is a copy of that row.

    Args:
      ghn: the hypernetwork.
      num_classes: at least 1.
      seed: of the new layers.

    Raises:
      CheckpointError: a hypernetwork whose other layers depend on the number of classes too.
    """
    before, after = ghn.config, dataclasses.replace(ghn.config, num_classes=num_classes)
    if before == after:
        return ghn
    fresh: dict[str, Any] = traverse_util.flatten_dict(GHN.init(after, seed).params, sep="/")
    kept: dict[str, Any] = traverse_util.flatten_dict(ghn.params, sep="/")
    made = {}
    for name, new in fresh.items():
        old = kept.get(name)
        if name == _CHANNELS and old is not None:
            made[name] = _moved_rows(np.asarray(old), before, after)
        elif old is not None and old.shape == new.shape:
            made[name] = old
        elif old is not None and old.shape[:-1] == new.shape[:-1] and new.shape[-1] % num_classes == 0:
            made[name] = new
        else:
            found = "missing" if old is None else old.shape
            raise CheckpointError(f"{name} is {found} for {before.num_classes} classes, expected {new.shape}")
    return GHN(after, traverse_util.unflatten_dict(made, sep="/"))


def _moved_rows(table: np.ndarray, before: HypernetConfig, after: HypernetConfig) -> jnp.ndarray:
    """The embeddings of numbers of channels, ordered for another vocabulary; the last row stands for "no shape"."""
    row_of = {size: row for row, size in enumerate(channel_vocabulary(before.num_classes))}
    classes = row_of[before.num_classes]
    rows = [row_of.get(size, classes) for size in channel_vocabulary(after.num_classes)]
    return jnp.asarray(table[[*rows, len(row_of)]])
