"""A checkpoint of a training run: a folder with arrays and a description, written by Orbax.

Here it is read; `run_checkpoints.py` writes it.  Orbax is imported when it is used: predicting does not need it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ghn_jax.checks import fields, files
from ghn_jax.checks.fields import Is, Maybe, Real, Whole
from ghn_jax.errors import GHNError
from ghn_jax.ghn import config as ghn_config
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import Task
from ghn_jax.weights import archive, pretrained
from ghn_jax.weights.errors import CheckpointError

FORMAT = "ghn_jax checkpoint 2"

FOLDER = "checkpoints"
"""Where a run keeps them, in its working directory."""

_STATE = "state"
"""Orbax's name for the arrays."""

DIGESTS = "digests"
"""In the description: a hash of every array, since Orbax does not notice a changed bit in its values."""

DIGEST = "digest"
"""In the description: a hash of the description itself; those of older versions of this program have none."""

_ABOUT = "_CHECKPOINT_METADATA"
"""Orbax's name for the file that has the description."""

_ENTRIES = frozenset((_ABOUT, "orbax.checkpoint", "commit_success.txt", "metrics", _STATE))
"""All that is in the folder of a checkpoint.  One with anything else is not this program's alone, and stays."""

_MOST_DESCRIPTION_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Description:
    """What a checkpoint holds.

    Attributes:
      ghn: the hypernetwork.
      task: of the networks it predicts.
      step: updates it has seen.
      train_config: fields of the run that made it.
      progress: where the run was, as plain values; see `training.loop`.
      accuracy: mean top-1 (0..1) on held-out architectures and images, None if it was not measured at this step.

    Raises:
      CheckpointError: naming a field that cannot be.
    """

    ghn: HypernetConfig
    task: Task
    step: int
    train_config: dict[str, Any]
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    accuracy: float | None = None

    def __post_init__(self):
        fields.check(
            self, CheckpointError,
            ghn=Is(HypernetConfig), task=Is(Task), step=Whole(0, 1 << 53), train_config=Is(dict), progress=Is(dict),
            accuracy=Maybe(Real(0, 1)),
        )  # fmt: skip


def saved_steps(folder: str | os.PathLike) -> list[int]:
    """Steps of the complete checkpoints in a folder, in order; what this program did not write is none."""
    folder = files.as_path(folder)
    if not os.path.isdir(folder):
        return []
    return sorted(int(path.name) for path in folder.iterdir() if _is_step(path.name) and _is_checkpoint(path))


def _is_step(name: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]{0,15}", name) is not None


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, even if somebody (a file manager, a network drive) put more into it."""
    return is_ours_alone(path) or os.path.lexists(path / _ABOUT)


def is_ours_alone(path: Path) -> bool:
    """Whether a folder has nothing in it that is not of a checkpoint."""
    try:
        return not path.is_symlink() and {entry.name for entry in path.iterdir()} <= _ENTRIES
    except OSError:  # no folder
        return False


def find(path: str | os.PathLike) -> Path:
    """The folder of the checkpoint that `path` stands for, see `describe`.

    Raises:
      CheckpointError: there is none.
    """
    path = files.as_path(path).absolute()
    if os.path.isdir(path / FOLDER):
        path = path / FOLDER
    steps = saved_steps(path)
    if not steps:
        if os.path.isdir(path / _STATE):
            return path
        raise CheckpointError(f"no checkpoint at {path}: expected the workdir of a run of experiments/train.py")
    accuracies = {}
    for step in steps:
        with contextlib.suppress(CheckpointError):  # the others may be good
            accuracies[step] = _description(path / str(step)).accuracy
    best = most_accurate(accuracies, list(accuracies))
    return path / str(steps[-1] if best is None else best)


def most_accurate(accuracies: Mapping[int, float | None], steps: list[int]) -> int | None:
    """The most accurate step, the newest of equal ones; None if nothing was measured."""
    measured = [(accuracy, step) for step in steps if (accuracy := accuracies[step]) is not None]
    return max(measured)[1] if measured else None


def describe(path: str | os.PathLike) -> Description:
    """What a checkpoint holds.

    Args:
      path: a checkpoint; or the checkpoints of a run, or its working directory, for the most accurate of those whose
        accuracy was measured, else the newest.

    Raises:
      CheckpointError: no checkpoint, or one that this program did not write.
    """
    return _description(find(path))


def load_ghn(path: str | os.PathLike) -> GHN:
    """The hypernetwork of a checkpoint.

    Args:
      path: see `describe`.

    Raises:
      CheckpointError: as for `describe` and `load_arrays`.
    """
    path = find(path)
    description = _description(path)
    entries = len(jax.tree.leaves(_metadata(path).metadata))
    pretrained.check_size(path, description.ghn, entries, archive.MOST_COMPRESSED * check_files(path))
    like = jax.eval_shape(lambda: GHN.init(description.ghn, seed=0).params)
    params = load_arrays(path, {"params": like})["params"]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(leaf)):
            raise CheckpointError(f"{path}: array {_name(keys)} has values that are not finite")
    return GHN(description.ghn, params)


def load_arrays(path: str | os.PathLike, like: Any) -> Any:
    """The arrays of a checkpoint.

    Args:
      path: see `describe`.
      like: a pytree of the arrays' structure and shapes; entries at its top level may be fewer than were saved.

    Raises:
      CheckpointError: no checkpoint, arrays of another configuration, or damaged files.
    """
    path = find(path)
    metadata = _metadata(path)
    stored = metadata.metadata
    if stored is None:
        raise CheckpointError(f"{path}: the arrays are damaged, their description cannot be read")
    known: dict[str, Any] = {_name(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(stored)}
    everywhere = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    for keys, leaf in jax.tree_util.tree_leaves_with_path(like):
        name = _name(keys)
        if not hasattr(known.get(name), "shape"):
            raise CheckpointError(f"{path} has no array {name}: is it of another configuration?")
        if tuple(known[name].shape) != tuple(leaf.shape):
            raise CheckpointError(f"{path}: array {name} has shape {tuple(known[name].shape)}, expected {leaf.shape}")
    check_shapes(path, like)
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), like)
    from orbax.checkpoint import v1 as ocp  # slow to import

    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context, quiet_orbax():
            arrays = ocp.load(os.fspath(path), wanted)
    except Exception as error:
        # A bare Exception where TensorStore could not read an array, in threads an ExceptionGroup, and others.
        raise CheckpointError(f"{path}: the arrays cannot be read: {brief(error.__cause__ or error)}") from error
    digests = metadata.custom_metadata.get(DIGESTS) if isinstance(metadata.custom_metadata, Mapping) else None
    if not isinstance(digests, Mapping):
        raise CheckpointError(f"the description of {path} is damaged: it has no {DIGESTS}")
    for name, digest in array_digests(arrays).items():
        if digests.get(name) != digest:
            raise CheckpointError(f"{path}: array {name} is damaged, its values are not those that were saved")
    return arrays


def verify(path: str | os.PathLike) -> None:
    """Reads all arrays of a checkpoint.

    Args:
      path: see `describe`.

    Raises:
      CheckpointError: it is damaged.
    """
    path = find(path)
    _description(path)
    stored = _metadata(path).metadata
    load_arrays(path, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored))


def newest_intact_step(folder: str | os.PathLike) -> int | None:
    """The step of the newest checkpoint in a folder that can be read, None if there is none."""
    for step in reversed(saved_steps(folder)):
        with contextlib.suppress(CheckpointError):
            verify(Path(folder) / str(step))
            return step
    return None


def check_shapes(path: Path, arrays: Any) -> None:
    """Checks that a folder is not much too small for its arrays: where numbers are missing, Orbax makes zeros.

    Args:
      path: the folder.
      arrays: a pytree of their shapes and types.

    Raises:
      CheckpointError: it is.
    """
    leaves: list[Any] = [leaf for leaf in jax.tree.leaves(arrays) if hasattr(leaf, "shape")]
    claimed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
    found = check_files(path)
    if claimed > archive.MOST_COMPRESSED * found + (1 << 24):
        raise CheckpointError(f"{path} is damaged: it has {found:,} bytes, its arrays claim {claimed:,}")


def check_files(path: Path) -> int:
    """Checks that everything in the folder of a checkpoint is a regular file, and returns their bytes.

    Raises:
      CheckpointError: something else is there, or a description that is too large.
    """
    total = 0
    for place, _, names in os.walk(path):
        for name in names:
            file = os.path.join(place, name)
            try:
                found = os.stat(file)
            except OSError as error:
                raise CheckpointError(f"{path} is damaged: {error}") from error
            if not stat.S_ISREG(found.st_mode):
                raise CheckpointError(f"{path} is damaged: {file} is no regular file")
            if name in (_ABOUT, "_METADATA") and found.st_size > _MOST_DESCRIPTION_BYTES:
                raise CheckpointError(f"{path} is damaged: {file} has {found.st_size:,} bytes")
            total += found.st_size
    return total


def _metadata(path: Path) -> Any:
    """What Orbax keeps beside the arrays.

    Raises:
      CheckpointError: files that are none, or damaged.
    """
    check_files(path)
    from orbax.checkpoint import v1 as ocp  # slow to import

    try:
        with quiet_orbax():
            return ocp.metadata(os.fspath(path))
    except Exception as error:  # Orbax raises whatever its readers do
        raise CheckpointError(f"{path} is damaged: {brief(error)}") from error


def _description(path: Path) -> Description:
    stored = _metadata(path).custom_metadata
    if not isinstance(stored, Mapping) or not stored:
        raise CheckpointError(f"{path} is damaged or was not written by this program: it has no description")
    stored = dict(stored)
    if stored.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {fields.shown(stored.get('format'))}, expected {FORMAT!r}")
    try:
        if DIGEST in stored and stored.pop(DIGEST) != description_digest(stored):
            raise CheckpointError("it is not what was written")
        del stored["format"]
        if not isinstance(stored.pop(DIGESTS), Mapping):
            raise CheckpointError(f"{DIGESTS} is no mapping")
        stored["ghn"] = ghn_config.from_fields(stored["ghn"])
        stored["task"] = fields.construct(Task, stored["task"], CheckpointError)
        return fields.construct(Description, stored, CheckpointError)
    except KeyError as error:
        raise CheckpointError(f"the description of {path} is damaged: it has no {error}") from error
    except GHNError as error:
        raise CheckpointError(f"the description of {path} is damaged: {error}") from error


def description_digest(stored: Mapping[str, Any]) -> str:
    """A hash of a description, but for the hash that may be in it."""
    text = json.dumps({name: value for name, value in stored.items() if name != DIGEST}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def array_digests(arrays: Any) -> dict[str, str]:
    return {
        _name(keys): hashlib.blake2b(np.ascontiguousarray(leaf).tobytes(), digest_size=16).hexdigest()
        for keys, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


def _name(keys) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys)


def brief(error: BaseException) -> str:
    """What an error says, without the pages that TensorStore adds."""
    text = str(error).split("[tensorstore_spec")[0].strip()
    return text if len(text) < 300 else text[:300] + "..."


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Orbax logs the traceback of an error in every thread that hears of it, and raises it too."""

    def others(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)
