"""Checkpoints of training runs: a folder for every saved step, with arrays and a description, written by Orbax.

A step is written under another name and renamed when it is complete, so a process that dies leaves no half of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Is, Maybe, Real, Whole
from ghn_jax.errors import GHNError
from ghn_jax.ghn import config as ghn_config
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import Task

FORMAT = "ghn_jax checkpoint 2"

FOLDER = "checkpoints"
"""Where a run keeps them, in its working directory."""

_STATE = "state"
"""Orbax's name for the arrays."""

_DIGESTS = "digests"
"""In the description: a hash of every array, since Orbax does not notice a changed bit in its values."""

_DIGEST = "digest"
"""In the description: a hash of the description itself; those of older versions of this program have none."""

_ENTRIES = frozenset(("_CHECKPOINT_METADATA", "orbax.checkpoint", "commit_success.txt", "metrics", _STATE))
"""All that is in the folder of a checkpoint.  One with anything else is not this program's alone, and stays."""

_HALF = re.compile(r"[0-9]+\.(orbax-checkpoint-tmp.*|removed)")
"""Names of checkpoints that are half written or half removed."""

_MOST_DESCRIPTION_BYTES = 1 << 26


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
      say: called with a sentence about what was found in the place of a checkpoint.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3, say: Callable[[str], None] = print):
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._say = say
        self._accuracies: dict[int, float | None] = {}
        self._writing: tuple[int, int, Any] | None = None
        self._first = jax.process_index() == 0
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_orbax_is_quiet())
        self._folder.mkdir(parents=True, exist_ok=True)  # in every process: none waits for the first here
        if self._first:
            for path in self._folder.iterdir():
                if _HALF.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)

    def check_space(self, arrays: Any) -> None:
        """Checks that a run's checkpoints fit onto the disk.

        Raises:
          CheckpointError: saying what they take and what is free.
        """
        size = _size(arrays)
        more = max(2, self._keep + 2 - len(saved_steps(self._folder)))  # the best one, and one that is being written
        free = shutil.disk_usage(self._folder).free
        if free < more * size:
            raise CheckpointError(
                f"{self._folder} has {_mib(free)} of free space, expected at least {_mib(more * size)} for {more} "
                f"checkpoints of {_mib(size)} each"
            )

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
        step, path = description.step, self._folder / str(description.step)
        if step in saved_steps(self._folder):
            return
        if self._first and path.exists():
            self._say(f"{path} was not written by this program; moved to {_put_aside(path)}")
        stored = {"format": FORMAT, **dataclasses.asdict(description), _DIGESTS: _digests(arrays)}
        stored["ghn"] = json.loads(ghn_config.to_json(description.ghn))
        stored = json.loads(json.dumps(stored))
        stored[_DIGEST] = _description_digest(stored)
        size = _size(arrays)
        with self._writes(step, size):
            if jax.process_count() == 1 and shutil.disk_usage(self._folder).free < size:
                raise OSError("there is too little space")
            response = ocp.save_async(os.fspath(path), arrays, custom_metadata=stored)
        self._accuracies[step] = description.accuracy
        self._writing = step, size, response

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          CheckpointError: it could not be written.
        """
        if self._writing is not None:
            (step, size, response), self._writing = self._writing, None
            with self._writes(step, size):
                response.result()
            if self._first:
                self._remove_old()

    @contextlib.contextmanager
    def _writes(self, step: int, size: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # TensorStore and Orbax wrap what the system said in whatever they like
            free = shutil.disk_usage(self._folder).free
            if self._first:
                for path in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                    shutil.rmtree(path, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {step}, {_mib(size)}, could not be written into {self._folder}, where "
                f"{_mib(free)} were free: {_brief(error)}; {self._safe()}"
            ) from error

    def _safe(self) -> str:
        """Which checkpoint is good, having read it."""
        step = newest_intact_step(self._folder)
        return "there is no complete one" if step is None else f"the newest complete one is of step {step}"

    def _remove_old(self) -> None:
        """Removes all but the newest ones and the most accurate one."""
        steps = saved_steps(self._folder)
        for step in steps:
            if step not in self._accuracies:
                with contextlib.suppress(CheckpointError):  # a damaged one is never removed
                    self._accuracies[step] = _description(self._folder / str(step)).accuracy
        known = [step for step in steps if step in self._accuracies]
        stay = {*known[-self._keep :], _best(self._accuracies, known)}
        for step in known:
            if step not in stay:
                # Under another name first: what is half removed is no checkpoint.
                removed = self._folder / f"{step}.removed"
                with contextlib.suppress(OSError):
                    (self._folder / str(step)).rename(removed)
                    shutil.rmtree(removed)

    def close(self) -> None:
        """Waits, and ends threads; raises as `wait`."""
        try:
            self.wait()
        finally:
            self._quiet.close()


def _best(accuracies: Mapping[int, float | None], steps: list[int]) -> int | None:
    """The most accurate step, the newest of equal ones; None if nothing was measured."""
    measured = [(accuracy, step) for step in steps if (accuracy := accuracies[step]) is not None]
    return max(measured)[1] if measured else None


def _size(arrays: Any) -> int:
    """Bytes of arrays, and a little for what is written beside them."""
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(arrays)) + (1 << 20)


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


@contextlib.contextmanager
def _orbax_is_quiet() -> Iterator[None]:
    """Orbax logs the traceback of an error in every thread that hears of it, and raises it too."""

    def others(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


def save(folder: str | os.PathLike, description: Description, arrays: Any) -> None:
    """Writes one checkpoint and returns when it is there; see `Checkpoints`."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(description, arrays)
    checkpoints.close()


def saved_steps(folder: str | os.PathLike) -> list[int]:
    """Steps of the complete checkpoints in a folder, in order; what this program did not write is none."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if _is_step(path.name) and _is_ours(path))


def _is_step(name: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]{0,15}", name) is not None


def _is_ours(path: Path) -> bool:
    """Whether a folder has nothing in it that is not of a checkpoint."""
    try:
        return not path.is_symlink() and {entry.name for entry in path.iterdir()} <= _ENTRIES
    except OSError:  # no folder
        return False


def restore_newest(
    folder: str | os.PathLike,
    like: Any,
    warn: Callable[[str], None],
    check: Callable[[Description], object] = lambda description: None,
) -> Restored | None:
    """The newest checkpoint of a run that is not damaged, None if there is none.

    Newer damaged ones are moved into a folder `damaged` next to `folder`.  With several processes all of them must
    call it; the first one decides.

    Args:
      folder: the run's checkpoints.
      like: a pytree of the arrays' structure and shapes.
      warn: called with a sentence for each damaged checkpoint.
      check: raises CheckpointError for a description that cannot be gone on from.

    Raises:
      CheckpointError: there are checkpoints, all of them damaged.
    """
    folder = Path(folder).absolute()
    if jax.process_index() == 0:
        try:
            restored = _newest_intact(folder, like, warn, check)
        except CheckpointError:
            multihost_utils.broadcast_one_to_all(np.int32(-2))
            raise
        multihost_utils.broadcast_one_to_all(np.int32(-1 if restored is None else restored.description.step))
        return restored
    step = int(multihost_utils.broadcast_one_to_all(np.int32(0)))
    if step == -2:
        raise CheckpointError(f"the first process found no checkpoint in {folder} that can be read")
    return None if step < 0 else _read(folder / str(step), like)


def _newest_intact(
    folder: Path, like: Any, warn: Callable[[str], None], check: Callable[[Description], object]
) -> Restored | None:
    damaged: list[tuple[int, CheckpointError]] = []
    for step in reversed(saved_steps(folder)):
        try:
            restored = _read(folder / str(step), like)
            check(restored.description)
        except CheckpointError as error:
            damaged.append((step, error))
            continue
        for bad, error in damaged:
            warn(f"{error}; moved to {_put_aside(folder / str(bad))}")
        return restored
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read; remove the folder to begin again. The newest: {damaged[0][1]}"
        )
    return None


def _put_aside(path: Path) -> Path:
    """Moves a folder of checkpoints' place into a folder `damaged` beside theirs, under a name that is free there."""
    beside = path.parent.with_name("damaged")
    number = 0
    while beside.exists() and not beside.is_dir():
        beside = beside.with_name(f"damaged.{(number := number + 1)}")
    beside.mkdir(exist_ok=True)
    aside, number = beside / path.name, 0
    while os.path.lexists(aside):
        aside = beside / f"{path.name}.{(number := number + 1)}"
    path.rename(aside)
    return aside


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
    best = _best(accuracies, list(accuracies))
    return path / str(steps[-1] if best is None else best)


def _metadata(path: Path) -> Any:
    """What Orbax keeps beside the arrays.

    Raises:
      CheckpointError: files that are none, or damaged.
    """
    for place, _, names in os.walk(path):
        for name in names:
            file = os.path.join(place, name)
            try:
                found = os.stat(file)
            except OSError as error:
                raise CheckpointError(f"{path} is damaged: {error}") from error
            if not stat.S_ISREG(found.st_mode):
                raise CheckpointError(f"{path} is damaged: {file} is no regular file")
            if name in ("_CHECKPOINT_METADATA", "_METADATA") and found.st_size > _MOST_DESCRIPTION_BYTES:
                raise CheckpointError(f"{path} is damaged: {file} has {found.st_size:,} bytes")
    try:
        with _orbax_is_quiet():
            return ocp.metadata(os.fspath(path))
    except Exception as error:  # Orbax raises whatever its readers do
        raise CheckpointError(f"{path} is damaged: {_brief(error)}") from error


def _description(path: Path) -> Description:
    stored = _metadata(path).custom_metadata
    if not isinstance(stored, Mapping) or not stored:
        raise CheckpointError(f"{path} is damaged or was not written by this program: it has no description")
    stored = dict(stored)
    if stored.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {fields.shown(stored.get('format'))}, expected {FORMAT!r}")
    try:
        if _DIGEST in stored and stored.pop(_DIGEST) != _description_digest(stored):
            raise CheckpointError("it is not what was written")
        del stored["format"]
        if not isinstance(stored.pop(_DIGESTS), Mapping):
            raise CheckpointError(f"{_DIGESTS} is no mapping")
        stored["ghn"] = ghn_config.from_fields(stored["ghn"])
        stored["task"] = fields.construct(Task, stored["task"], CheckpointError)
        return fields.construct(Description, stored, CheckpointError)
    except KeyError as error:
        raise CheckpointError(f"the description of {path} is damaged: it has no {error}") from error
    except GHNError as error:
        raise CheckpointError(f"the description of {path} is damaged: {error}") from error


def _description_digest(stored: Mapping[str, Any]) -> str:
    """A hash of a description, but for the hash that may be in it."""
    text = json.dumps({name: value for name, value in stored.items() if name != _DIGEST}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), like)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context, _orbax_is_quiet():
            arrays = ocp.load(os.fspath(path), wanted)
    except Exception as error:
        # A bare Exception where TensorStore could not read an array, in threads an ExceptionGroup, and others.
        raise CheckpointError(f"{path}: the arrays cannot be read: {_brief(error.__cause__ or error)}") from error
    digests = metadata.custom_metadata.get(_DIGESTS) if isinstance(metadata.custom_metadata, Mapping) else None
    if not isinstance(digests, Mapping):
        raise CheckpointError(f"the description of {path} is damaged: it has no {_DIGESTS}")
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
