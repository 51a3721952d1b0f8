"""Hypernetworks on disk: a folder with the arrays (Orbax) and a JSON description of what they are."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ghn_jax.architecture import Task
from ghn_jax.ghn import config as ghn_config
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.predict import GHN

FORMAT = "ghn_jax checkpoint 1"
_DESCRIPTION = "description.json"
_ARRAYS = "arrays"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, of another program or of another configuration."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What a checkpoint holds.

    Attributes:
      ghn: the hypernetwork.
      task: of the networks it predicts.
      step: updates it has seen.
      train_config: fields of the run that made it.
    """

    ghn: HypernetConfig
    task: Task
    step: int
    train_config: dict[str, Any]


def save(path: str | os.PathLike, description: Description, arrays: Any) -> None:
    """Writes a checkpoint, replacing the one at `path` only when the new one is complete.

    With several processes all of them must call it, with the same folder.

    Args:
      path: the checkpoint's folder.
      description: what it holds.
      arrays: a mapping with "params" of the hypernetwork; other entries (such as the optimiser's) are kept along.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f"{path.name}.{kind}") for kind in ("new", "old"))
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
    _wait_for_all("made")
    ocp.save(new / _ARRAYS, arrays)
    if not first:
        return
    fields = {
        "format": FORMAT,
        "ghn": json.loads(ghn_config.to_json(description.ghn)),
        "task": dataclasses.asdict(description.task),
        "step": description.step,
        "train_config": description.train_config,
    }
    (new / _DESCRIPTION).write_text(json.dumps(fields, indent=2) + "\n")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _wait_for_all(what: str) -> None:
    """Returns when all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint {what}")


def describe(path: str | os.PathLike) -> Description:
    """What the checkpoint at `path` holds.

    Raises:
      CheckpointError: no checkpoint, or one that this program did not write.
    """
    path = _existing(path)
    try:
        fields = json.loads((path / _DESCRIPTION).read_text())
        if fields["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {fields['format']!r}, expected {FORMAT!r}")
        return Description(
            ghn_config.from_fields(fields["ghn"]), Task(**fields["task"]), fields["step"], fields["train_config"]
        )
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: expected a folder with {_DESCRIPTION} and {_ARRAYS}") from None
    except (json.JSONDecodeError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path / _DESCRIPTION} is damaged: {error}") from error


def load_arrays(path: str | os.PathLike, like: Any) -> Any:
    """The arrays of a checkpoint.

    Args:
      path: the checkpoint's folder.
      like: a pytree of the arrays' structure and shapes; entries at its top level may be fewer than were saved.

    Raises:
      CheckpointError: no checkpoint, arrays of another configuration, or damaged files.
    """
    path = _existing(path)
    try:
        stored = ocp.metadata(path / _ARRAYS).metadata
    except (ValueError, OSError, ocp.errors.InvalidLayoutError) as error:
        raise CheckpointError(f"{path}: the arrays are damaged or missing: {error}") from error
    if stored is None:
        raise CheckpointError(f"{path}: the arrays are damaged, their description cannot be read")
    known = {_name(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(stored)}
    everywhere = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    for keys, leaf in jax.tree_util.tree_leaves_with_path(like):
        name = _name(keys)
        if name not in known:
            raise CheckpointError(f"{path} has no array {name}: is it of another configuration?")
        if tuple(known[name].shape) != tuple(leaf.shape):
            raise CheckpointError(f"{path}: array {name} has shape {tuple(known[name].shape)}, expected {leaf.shape}")
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), like)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context:
            return ocp.load(path / _ARRAYS, wanted)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: the arrays are damaged: {error}") from error


def _name(keys) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys)


def load_ghn(path: str | os.PathLike) -> GHN:
    """The hypernetwork of a checkpoint.

    Raises:
      CheckpointError: as for `describe` and `load_arrays`.
    """
    description = describe(path)
    like = jax.eval_shape(lambda: GHN.init(description.ghn, seed=0).params)
    params = load_arrays(path, {"params": like})["params"]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(leaf)):
            raise CheckpointError(f"{path}: array {_name(keys)} has values that are not finite")
    return GHN(description.ghn, params)


def _existing(path: str | os.PathLike) -> Path:
    path = Path(path).absolute()
    if path.is_dir():
        return path
    interrupted = path.with_name(f"{path.name}.old")
    if interrupted.is_dir():  # killed between the two renames of `save`
        return interrupted
    raise CheckpointError(f"no checkpoint at {path}: expected a folder written by experiments/train.py")
