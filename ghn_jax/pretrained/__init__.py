"""The hypernetwork that comes with the package.

A file holds the parameters in half precision, which changes predictions by less than rounding an image does, and a
JSON text that says what they are and where they come from.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ghn_jax.checkpoint import CheckpointError
from ghn_jax.ghn import config as ghn_config
from ghn_jax.predict import GHN

DEFAULT = Path(__file__).with_name("ghn2_fashion_mnist.npz")
_ABOUT = "__about__"


@functools.cache
def load() -> GHN:
    """GHN-2 trained on Fashion-MNIST (see `about` for how)."""
    return read(DEFAULT)[0]


def about() -> dict[str, Any]:
    """Provenance of `load()`: data, steps, configuration and measured accuracy."""
    return read(DEFAULT)[1]


def read(path: str | os.PathLike) -> tuple[GHN, dict[str, Any]]:
    """A hypernetwork and its provenance.

    Raises:
      CheckpointError: no such file, or one that `write` did not write.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            entries = {name: archive[name] for name in archive.files}
        description = json.loads(str(entries.pop(_ABOUT)))
        config = ghn_config.from_fields(description.pop("ghn"))
    except FileNotFoundError:
        raise CheckpointError(f"no hypernetwork at {path}") from None
    except (ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} holds no hypernetwork: {error}") from error
    flat = {name: jnp.asarray(values, jnp.float32) for name, values in entries.items()}
    return GHN(config, traverse_util.unflatten_dict(flat, sep="/")), description


def write(path: str | os.PathLike, ghn: GHN, provenance: dict[str, Any]) -> None:
    """Writes what `read` reads, under a temporary name first."""
    path = Path(path)
    flat = traverse_util.flatten_dict(ghn.params, sep="/")
    entries = {name: np.asarray(values, np.float16) for name, values in flat.items()}
    description = {"ghn": json.loads(ghn_config.to_json(ghn.config)), **provenance}
    temporary = path.with_name(path.name + ".new.npz")
    np.savez_compressed(temporary, **entries, **{_ABOUT: np.array(json.dumps(description))})
    temporary.replace(path)
