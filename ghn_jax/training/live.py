"""A training run watched in a notebook: its picture is drawn anew every few seconds while the run goes on."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ghn_jax.errors import extra
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.loop import Outcome, train
from ghn_jax.training.plot import plot_runs
from ghn_jax.training.watch import METRICS


def train_live(config: TrainConfig, seconds: float = 10.0) -> Outcome:
    """`training.loop.train`, with a live picture of loss and accuracy in the output of a notebook's cell.

    Stopping the cell ends the run after the step at hand, with a checkpoint; running it again goes on.

    Args:
      config: the run.
      seconds: how often the picture is drawn.

    Raises:
      MissingExtraError: there is no IPython, as in every notebook.
      The errors of `train`.
    """
    with extra("notebooks"):
        from IPython.display import DisplayHandle, Image  # pyright: ignore[reportMissingImports]

    handle = DisplayHandle()
    shown = False

    def show(content: bytes) -> None:
        nonlocal shown
        (handle.update if shown else handle.display)(Image(data=content))
        shown = True

    with redrawing(Path(config.workdir), seconds, show):
        return train(config)


@contextlib.contextmanager
def redrawing(workdir: Path, seconds: float, show: Callable[[bytes], None]) -> Iterator[None]:
    """Calls `show` with a PNG of the run in `workdir` every few seconds, and once more at the end.

    Nothing is shown before the first step.  A picture that cannot be drawn, as while lines are being rewritten, is left
    out: the run matters more.
    """
    over = threading.Event()

    def follow() -> None:
        while not over.wait(seconds):
            with contextlib.suppress(OSError, ValueError, KeyError):
                draw(workdir, show)

    thread = threading.Thread(target=follow, name="ghn_jax_live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        draw(workdir, show)


def draw(workdir: Path, show: Callable[[bytes], None]) -> None:
    """Shows the run once, if it has made a step."""
    metrics = workdir / METRICS
    if not metrics.is_file() or not metrics.stat().st_size:
        return
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "run.png"
        plot_runs([workdir], picture)
        show(picture.read_bytes())
