"""What a person sees of a run: files with a JSON line for every step and every validation, and TensorBoard's."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ghn_jax.checks import files
from ghn_jax.evaluation.json_lines import METRICS, append, lines, parse

VALIDATION = "validation.jsonl"


class Watch:
    """Writes what a run reports into its working directory; processes other than the first write nothing.

    Lines of steps after `step`, from before an interruption, are removed: those steps are made again.  Lines that
    cannot be written, as on a full disk, are kept until they can: training goes on.

    Args:
      workdir: of the run.
      step: where the run goes on.
      steps: how many it will make.
      first: whether this is the process that writes.
    """

    def __init__(self, workdir: Path, step: int, steps: int, first: bool):
        self._workdir = workdir
        self._writes = first
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._board = None
        self._shown = 0.0
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not first)
        if not first:
            return
        for name in (METRICS, VALIDATION):
            rewind(workdir / name, step)
            open(workdir / name, "a").close()  # an error now rather than at the first step
        with contextlib.suppress(ImportError):
            tensorboard = importlib.import_module("tensorboardX")
            self._board = tensorboard.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def report(self, name: str, fields: Mapping[str, Any]) -> None:
        """Adds a line to the file `name`; numbers go to TensorBoard too."""
        if self._writes:
            told = bool(self._waiting)
            self._waiting.append((name, fields))
            error = self._write()
            if error is not None and not told:
                self.bar.write(
                    f"{self._workdir / self._waiting[0][0]} cannot be written: {error.strerror}. Training goes on; its "
                    "lines are written when they can be"
                )
        if self._board is not None:
            kind = Path(name).stem
            for key, value in fields.items():
                if isinstance(value, (int, float)) and key != "step":
                    self._board.add_scalar(f"{kind}/{key}", value, fields["step"])

    def _write(self) -> OSError | None:
        """Writes the lines that wait, until one cannot be written."""
        try:
            while self._waiting:
                name, fields = self._waiting[0]
                append(self._workdir / name, fields)
                del self._waiting[0]
        except OSError as error:
            return error
        return None

    def compiling(self, finished: int, started: int, recipe: object) -> None:
        """Shows which program has just been compiled, about once a second."""
        if self.bar.disable or time.monotonic() - self._shown < 1:
            return
        self._shown = time.monotonic()
        self.bar.set_postfix_str(f"compiling: {finished} of {started} programs, {str(recipe)[:60]}")

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        self.bar.close()
        if (error := self._write()) is not None:
            steps = [fields["step"] for _, fields in self._waiting]
            self.bar.write(
                f"{self._workdir}: lines of steps {steps[0]} to {steps[-1]} could not be written: {error.strerror}; "
                "checkpoints are not affected"
            )
        if self._board is not None:
            self._board.close()


def rewind(path: Path, step: int) -> None:
    """Removes lines of steps after `step` from a file, if there is one, and lines that are no JSON objects.

    Others stay as they are, also those that have no step.
    """
    if not path.exists():
        return
    with files.open_regular(path) as file:
        as_it_is = all(line.endswith(b"\n") and _stays(line, step) for line in lines(file))
    if as_it_is:
        return
    with files.open_regular(path) as file, files.replacing(path) as temporary, temporary.open("wb") as kept:
        for line in lines(file):
            if _stays(line, step):
                kept.write(line if line.endswith(b"\n") else line + b"\n")


def _stays(line: bytes, step: int) -> bool:
    row = parse(line)
    if row is None:
        return False
    number = row.get("step")
    return not isinstance(number, (int, float)) or isinstance(number, bool) or number <= step
