"""A picture of a training run."""

from __future__ import annotations

import json
import os

import matplotlib.figure
import numpy as np

_WINDOW = 50


def plot_training(metrics: str | os.PathLike, path: str | os.PathLike) -> None:
    """Draws loss and accuracy of every step in `metrics.jsonl`, and over them their course.

    That is the median of 50 steps for the loss, since single networks without normalisation lose thousands, and the
    mean for the accuracy.
    """
    with open(metrics) as lines:
        rows = [json.loads(line) for line in lines]
    if not rows:
        return
    steps = np.array([row["step"] for row in rows])
    window = min(_WINDOW, len(rows))
    figure = matplotlib.figure.Figure(figsize=(9, 3.5), layout="constrained")
    panels = (("loss", "loss", np.median), ("accuracy", "accuracy on training images", np.mean))
    for axes, (field, label, middle) in zip(figure.subplots(1, 2), panels, strict=True):
        values = np.array([row[field] for row in rows])
        axes.plot(steps, values, color="0.8", linewidth=0.6)
        windows = np.lib.stride_tricks.sliding_window_view(values, window)
        axes.plot(steps[window - 1 :], middle(windows, axis=-1), color="tab:blue")
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(0, min(4.0, 1.1 * max(row["loss"] for row in rows)))
    figure.axes[1].set_ylim(0, 1)
    figure.suptitle(f"{len(rows)} steps, {rows[-1]['minutes']:.1f} minutes")
    figure.savefig(path, dpi=120)
