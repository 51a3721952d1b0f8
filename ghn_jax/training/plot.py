"""Pictures of training runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ghn_jax.checks.fields import Real
from ghn_jax.errors import extra
from ghn_jax.evaluation.json_lines import METRICS, Row, read
from ghn_jax.training.watch import VALIDATION

_WINDOW = 50
_PLACE = Real(0, 1e15)
"""Numbers of steps and minutes; Matplotlib makes no axis for much larger ones."""


def plot_runs(workdirs: Sequence[str | os.PathLike], path: str | os.PathLike, against: str = "step") -> None:
    """Draws the course of loss and accuracy of runs into one picture.

    That is the median of 50 steps for the loss, since single networks without normalisation lose thousands, and the
    mean for the accuracy on training images; of a run of less than 200 steps it is that of a quarter of them.  Points
    are accuracies on unseen architectures with their standard error.  For a single run the values of every step are
    drawn too.

    Args:
      workdirs: of the runs; those that have not made a step yet are left out.
      path: of the picture.
      against: "step" or "minutes".
    """
    with extra("plot"):
        import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    highest = 0.0
    for number, workdir in enumerate(workdirs):
        rows = list(read(Path(workdir) / METRICS, **{against: _PLACE}, loss=float, accuracy=float))
        if not rows:
            continue
        color, label = f"C{number % 10}", Path(workdir).name.replace("$", r"\$")  # which would begin a formula
        position = np.array([row[against] for row in rows])
        window = max(1, min(_WINDOW, len(rows) // 4))
        for axes, field, middle in ((loss, "loss", np.median), (accuracy, "accuracy", np.mean)):
            values = np.array([row[field] for row in rows])
            if len(workdirs) == 1:
                axes.plot(position, values, color="0.8", linewidth=0.6)
            with np.errstate(over="ignore", invalid="ignore"):  # a loss may be anything
                course = middle(np.lib.stride_tricks.sliding_window_view(values, window), axis=-1)
            axes.plot(position[window - 1 :], course, color=color, label=label)
            if field == "loss":
                highest = float(np.fmax.reduce(values if len(workdirs) == 1 else course, initial=highest))
        validation = Path(workdir) / VALIDATION
        if validation.exists() and (measured := list(read(validation, **{against: _PLACE}, accuracy=float))):
            accuracy.errorbar(
                [row[against] for row in measured],
                [row["accuracy"] for row in measured],
                [_error(row) for row in measured],
                color=color, marker="o", markersize=4, linestyle=":", markeredgecolor="black",
                label=f"{label}, unseen networks",
                zorder=3,
            )  # fmt: skip
    loss.set(xlabel=against, ylabel="loss", ylim=(0, 1.1 * min(4 / 1.1, highest) or 1))
    accuracy.set(xlabel=against, ylabel="top-1 accuracy", ylim=(0, 1))
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    if accuracy.has_data():
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=8)
    figure.savefig(path, dpi=120)


def _error(row: Row) -> float:
    """The standard error of a validation, 0 where there is none."""
    try:
        return Real(0, 1).take(row.get("standard_error"))
    except (TypeError, ValueError, OverflowError):
        return 0.0
