"""The checkpoints of a training run: saved one after the other, the newest few and the best one kept, the newest found.

A step is written under another name and renamed when it is complete, so a process that dies leaves no half of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ghn_jax.ghn import config as ghn_config
from ghn_jax.weights.checkpoint import (
    DIGEST,
    DIGESTS,
    FORMAT,
    Description,
    array_digests,
    brief,
    describe,
    description_digest,
    is_ours_alone,
    load_arrays,
    most_accurate,
    newest_intact_step,
    quiet_orbax,
    saved_steps,
)
from ghn_jax.weights.errors import CheckpointError

_HALF = re.compile(r"[0-9]+\.orbax-checkpoint-tmp.*")
"""Names of checkpoints that are half written or half removed; nobody would call a folder of their own so."""


@contextlib.contextmanager
def _quiet_writes() -> Iterator[None]:
    """Where one write fails, those still under way find nobody waiting: Python would print a traceback for each."""
    before = sys.unraisablehook

    def others(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = others
    try:
        yield
    finally:
        if sys.unraisablehook is others:  # else somebody has other plans by now
            sys.unraisablehook = before


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
        self._quiet.enter_context(quiet_orbax())
        self._quiet.enter_context(_quiet_writes())
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
        if self._first and os.path.lexists(path):
            self._say(f"{path} was not written by this program; moved to {_put_aside(path)}")
        stored = {"format": FORMAT, **dataclasses.asdict(description), DIGESTS: array_digests(arrays)}
        stored["ghn"] = json.loads(ghn_config.to_json(description.ghn))
        stored = json.loads(json.dumps(stored))
        stored[DIGEST] = description_digest(stored)
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
                f"{_mib(free)} were free: {brief(error)}; {self._safe()}"
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
                    self._accuracies[step] = describe(self._folder / str(step)).accuracy
        known = [step for step in steps if step in self._accuracies]
        stay = {*known[-self._keep :], most_accurate(self._accuracies, known)}
        for step in known:
            if step not in stay and is_ours_alone(self._folder / str(step)):
                # Under another name first: what is half removed is no checkpoint.
                removed = self._folder / f"{step}.orbax-checkpoint-tmp-removed"
                with contextlib.suppress(OSError):
                    (self._folder / str(step)).rename(removed)
                    shutil.rmtree(removed)

    def close(self) -> None:
        """Waits, and ends threads; raises as `wait`."""
        try:
            self.wait()
        finally:
            self._quiet.close()


def _size(arrays: Any) -> int:
    """Bytes of arrays, and a little for what is written beside them."""
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(arrays)) + (1 << 20)


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def save(folder: str | os.PathLike, description: Description, arrays: Any) -> None:
    """Writes one checkpoint and returns when it is there; see `Checkpoints`."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(description, arrays)
    checkpoints.close()


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
    while os.path.lexists(beside) and not beside.is_dir():
        beside = beside.with_name(f"damaged.{(number := number + 1)}")
    beside.mkdir(exist_ok=True)
    aside, number = beside / path.name, 0
    while os.path.lexists(aside):
        aside = beside / f"{path.name}.{(number := number + 1)}"
    shutil.move(path, aside)  # which copies where checkpoints are on a disk of their own
    return aside


def _read(path: Path, like: Any) -> Restored:
    return Restored(describe(path), load_arrays(path, like))
