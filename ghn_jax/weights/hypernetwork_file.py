"""A hypernetwork as one file: `.npz` (`pretrained`) or `.safetensors`, both with configuration and provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ghn_jax.checks import files
from ghn_jax.ghn import config as ghn_config
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.runtime import outside_of_traces
from ghn_jax.weights import pretrained, safetensors_file
from ghn_jax.weights.errors import CheckpointError

_ABOUT = "ghn_jax"
"""The entry of the metadata with configuration and provenance, as JSON."""

SUFFIXES = (".npz", ".safetensors")


def write(path: Path, ghn: GHN, provenance: Mapping[str, Any]) -> None:
    """Writes a hypernetwork exactly (float32), with what is known of it.

    Raises:
      CheckpointError: another ending than `SUFFIXES`, parameters that are not finite, or a provenance that JSON cannot
        hold or that has an entry "ghn".
      ConfigError: parameters that are not those of its configuration.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path.name}: a hypernetwork is saved as a file ending in {' or '.join(SUFFIXES)}")
    if path.suffix == ".npz":
        pretrained.write(path, ghn, provenance, np.float32)
        return
    pretrained.check_params(ghn)
    text = pretrained.about_as_json(ghn.config, provenance)
    flat: dict[str, Any] = traverse_util.flatten_dict(ghn.params, sep="/")
    arrays = {name: np.asarray(values, np.float32) for name, values in flat.items()}
    _check_finite(arrays, path)
    safetensors_file.write(path, arrays, {"format": "flax", _ABOUT: text})


@outside_of_traces()
def read(path: str | os.PathLike[str]) -> tuple[GHN, dict[str, Any]]:
    """A hypernetwork and its provenance, from a file ending in `.safetensors`.

    Raises:
      CheckpointError: no such file, a damaged one, or one that holds something else: an array that is missing, surplus,
        of another shape or not finite is named.
    """
    config, provenance = read_about(path)
    expected = pretrained.shapes(config)
    # Of the header: what is not to be used is not read either.
    stored = safetensors_file.read_header(path).entries
    pretrained.check_names(path, list(stored), expected)
    for name, entry in stored.items():
        if entry.shape != expected[name] or entry.dtype not in (np.float32, np.float16):
            raise CheckpointError(
                f"{os.fspath(path)}: array {name} is {entry.dtype} {entry.shape}, expected float32 {expected[name]}"
            )
    arrays, _ = safetensors_file.read(path)
    _check_finite(arrays, path)
    flat = {name: jax.device_put(values.astype(np.float32)) for name, values in arrays.items()}
    return GHN(config, traverse_util.unflatten_dict(flat, sep="/")), provenance


def read_about(path: str | os.PathLike[str]) -> tuple[HypernetConfig, dict[str, Any]]:
    """Configuration and provenance of a hypernetwork, without its parameters; raises as `read`."""
    header = safetensors_file.read_header(path)
    if _ABOUT not in header.metadata:
        raise CheckpointError(f"{os.fspath(path)} holds no hypernetwork: its metadata has no entry {_ABOUT!r}")
    try:
        about = files.parse_json(header.metadata[_ABOUT])
        config = ghn_config.from_fields(about.pop("ghn"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{os.fspath(path)} holds no hypernetwork: {str(error)[:300]}") from error
    stored = sum(entry.stop - entry.start for entry in header.entries.values())
    pretrained.check_size(path, config, len(header.entries), stored)
    return config, about


def _check_finite(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise CheckpointError(f"{os.fspath(path)}: array {name} has values that are not finite")
