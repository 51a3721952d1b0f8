"""Checkpoints of training runs: a folder for every saved step, with arrays and a description, written by Orbax.

A step is written under another name and renamed when it is complete, so a process that dies leaves no half of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ghn_jax.errors import GHNError
from ghn_jax.ghn import config as ghn_config
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import Task

FORMAT = "ghn_jax checkpoint 2"

FOLDER = "checkpoints"
"""Where a run keeps them, in its working directory."""

_STATE = "state"
"""Orbax's name for the arrays."""

_DIGESTS = "digests"
"""In the description: a hash of every array, since Orbax does not notice a changed bit in its values."""


class CheckpointError(GHNError):
    """A checkpoint that is missing, damaged, of another program or of another configuration, or cannot be written.

    >>> ghn_jax.load('runs/no_such_run')
    Traceback (most recent call last):
        ...
    ghn_jax.weights.checkpoint.CheckpointError: there is no 'runs/no_such_ru...
    """


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
    """

    ghn: HypernetConfig
    task: Task
    step: int
    train_config: dict[str, Any]
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    accuracy: float | None = None


class Restored(NamedTuple):
    """The contents of a checkpoint."""

    description: Description
    arrays: Any


class Checkpoints:
    """The checkpoints of one run: the newest few and the most accurate one; older ones are removed.

    Saving goes on in the background.  With several processes all of them must make the same calls, with the same
    folder.

    Args:
      folder: where they are; made if need be.
      keep: how many of the newest stay.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3):
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["accuracy"], n=1, keep_checkpoints_without_metrics=False
        )
        self._folder = Path(folder).absolute()
        either: Any = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        self._checkpointer = ocp.training.Checkpointer(
            os.fspath(self._folder),
            preservation_policy=either,
            cleanup_tmp_directories=True,
        )
        self._writing: tuple[int, Any] | None = None

    def save(self, description: Description, arrays: Any) -> None:
        """Begins to write a checkpoint, after the one before is complete; a step that is there already stays as it is.

        Args:
          description: what it holds.
          arrays: NumPy arrays that nobody changes any more: a mapping with "params" of the hypernetwork; other entries
            (such as the optimiser's) are kept along.

        Raises:
          CheckpointError: this one or the one before could not be written; complete ones are still good.
        """
        self.wait()
        step = description.step
        if any(known.step == step for known in self._checkpointer.checkpoints):
            return
        metrics: Any = None if description.accuracy is None else {"accuracy": description.accuracy}
        fields = {"format": FORMAT, **dataclasses.asdict(description), _DIGESTS: _digests(arrays)}
        fields["ghn"] = json.loads(ghn_config.to_json(description.ghn))
        with self._writes(step):
            response = self._checkpointer.save_async(step, arrays, force=True, metrics=metrics, custom_metadata=fields)
        self._writing = step, response

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          CheckpointError: it could not be written.
        """
        if self._writing is not None:
            (step, response), self._writing = self._writing, None
            with self._writes(step):
                response.result()

    @contextlib.contextmanager
    def _writes(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore and Orbax wrap what the system said
            steps = saved_steps(self._folder)
            left = f"the newest complete one is of step {steps[-1]}" if steps else "there is no complete one"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written into {self._folder}: {_brief(error)}; {left}"
            ) from error

    def close(self) -> None:
        """Waits, and ends threads; raises as `wait`."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()


def save(folder: str | os.PathLike, description: Description, arrays: Any) -> None:
    """Writes one checkpoint and returns when it is there; see `Checkpoints`."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(description, arrays)
    checkpoints.close()


def saved_steps(folder: str | os.PathLike) -> list[int]:
    """Steps of the complete checkpoints in a folder, in order."""
    folder = Path(folder)
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def restore_newest(folder: str | os.PathLike, like: Any, warn: Callable[[str], None]) -> Restored | None:
    """The newest checkpoint of a run that is not damaged, None if there is none.

    Newer damaged ones are moved into a folder `damaged` next to `folder`.  With several processes all of them must
    call it; the first one decides.

    Args:
      folder: the run's checkpoints.
      like: a pytree of the arrays' structure and shapes.
      warn: called with a sentence for each damaged checkpoint.

    Raises:
      CheckpointError: there are checkpoints, all of them damaged.
    """
    folder = Path(folder).absolute()
    if jax.process_index() == 0:
        try:
            restored = _newest_intact(folder, like, warn)
        except CheckpointError:
            multihost_utils.broadcast_one_to_all(np.int32(-2))
            raise
        multihost_utils.broadcast_one_to_all(np.int32(-1 if restored is None else restored.description.step))
        return restored
    step = int(multihost_utils.broadcast_one_to_all(np.int32(0)))
    if step == -2:
        raise CheckpointError(f"the first process found no checkpoint in {folder} that can be read")
    return None if step < 0 else _read(folder / str(step), like)


def _newest_intact(folder: Path, like: Any, warn: Callable[[str], None]) -> Restored | None:
    damaged: list[tuple[int, CheckpointError]] = []
    for step in reversed(saved_steps(folder)):
        try:
            restored = _read(folder / str(step), like)
        except CheckpointError as error:
            damaged.append((step, error))
            continue
        for bad, error in damaged:
            aside = folder.with_name("damaged") / str(bad)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            (folder / str(bad)).rename(aside)
            warn(f"{error}; moved to {aside}")
        return restored
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read; remove the folder to begin again. The newest: {damaged[0][1]}"
        )
    return None


def _read(path: Path, like: Any) -> Restored:
    return Restored(describe(path), load_arrays(path, like))


def describe(path: str | os.PathLike) -> Description:
    """What a checkpoint holds.

    Args:
      path: a checkpoint; or the checkpoints of a run, or its working directory, for the most accurate of those whose
        accuracy was measured, else the newest.

    Raises:
      CheckpointError: no checkpoint, or one that this program did not write.
    """
    return _description(find(path))


def find(path: str | os.PathLike) -> Path:
    """The folder of the checkpoint that `path` stands for, see `describe`.

    Raises:
      CheckpointError: there is none.
    """
    path = Path(path).absolute()
    if (path / FOLDER).is_dir():
        path = path / FOLDER
    steps = saved_steps(path)
    if not steps:
        if (path / _STATE).is_dir():
            return path
        raise CheckpointError(f"no checkpoint at {path}: expected the workdir of a run of experiments/train.py")
    accuracies = {}
    for step in steps:
        with contextlib.suppress(CheckpointError):  # the others may be good
            accuracies[step] = _description(path / str(step)).accuracy
    measured = [step for step, accuracy in accuracies.items() if accuracy is not None]
    return path / str(max(measured, key=lambda step: (accuracies[step], step)) if measured else steps[-1])


def _metadata(path: Path) -> Any:
    """What Orbax keeps beside the arrays."""
    return ocp.metadata(os.fspath(path))


def _description(path: Path) -> Description:
    try:
        fields: Any = _metadata(path).custom_metadata
    except (ValueError, OSError, ocp.errors.InvalidLayoutError) as error:
        raise CheckpointError(f"{path} is damaged: {_brief(error)}") from error
    if not fields:
        raise CheckpointError(f"{path} is damaged or was not written by this program: it has no description")
    try:
        fields = dict(fields)
        if (found := fields.pop("format")) != FORMAT:
            raise CheckpointError(f"{path}: format {found!r}, expected {FORMAT!r}")
        del fields[_DIGESTS]
        ghn, task = ghn_config.from_fields(fields.pop("ghn")), Task(**fields.pop("task"))
        return Description(ghn=ghn, task=task, **fields)
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"the description of {path} is damaged: {error}") from error


def load_arrays(path: str | os.PathLike, like: Any) -> Any:
    """The arrays of a checkpoint.

    Args:
      path: see `describe`.
      like: a pytree of the arrays' structure and shapes; entries at its top level may be fewer than were saved.

    Raises:
      CheckpointError: no checkpoint, arrays of another configuration, or damaged files.
    """
    path = find(path)
    try:
        stored = _metadata(path).metadata
    except (ValueError, OSError, ocp.errors.InvalidLayoutError) as error:
        raise CheckpointError(f"{path}: the arrays are damaged or missing: {_brief(error)}") from error
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
            arrays = ocp.load(os.fspath(path), wanted)
    except Exception as error:
        # Orbax raises a bare Exception where TensorStore could not read an array; what else it raises is a fault.
        if type(error) is not Exception and not isinstance(error, (ValueError, OSError)):
            raise
        raise CheckpointError(f"{path}: the arrays cannot be read: {_brief(error.__cause__ or error)}") from error
    digests = (_metadata(path).custom_metadata or {}).get(_DIGESTS, {})
    for name, digest in _digests(arrays).items():
        if digests.get(name) != digest:
            raise CheckpointError(f"{path}: array {name} is damaged, its values are not those that were saved")
    return arrays


def _digests(arrays: Any) -> dict[str, str]:
    return {
        _name(keys): hashlib.blake2b(np.ascontiguousarray(leaf).tobytes(), digest_size=16).hexdigest()
        for keys, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


def _name(keys) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys)


def _brief(error: BaseException) -> str:
    """What an error says, without the pages that TensorStore adds."""
    text = str(error).split("[tensorstore_spec")[0].strip()
    return text if len(text) < 300 else text[:300] + "..."


def load_ghn(path: str | os.PathLike) -> GHN:
    """The hypernetwork of a checkpoint.

    Args:
      path: see `describe`.

    Raises:
      CheckpointError: as for `describe` and `load_arrays`.
    """
    path = find(path)
    description = _description(path)
    like = jax.eval_shape(lambda: GHN.init(description.ghn, seed=0).params)
    params = load_arrays(path, {"params": like})["params"]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.all(np.isfinite(leaf)):
            raise CheckpointError(f"{path}: array {_name(keys)} has values that are not finite")
    return GHN(description.ghn, params)
