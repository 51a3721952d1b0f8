"""A picture of a training run."""

from __future__ import annotations

import json
import os

import matplotlib.figure
import numpy as np


def plot_training(metrics: str | os.PathLike, path: str | os.PathLike) -> None:
    """Draws loss and accuracy of `metrics.jsonl` against the steps, the means of 50 steps over those of each."""
    with open(metrics) as lines:
        rows = [json.loads(line) for line in lines]
    if not rows:
        return
    steps = np.array([row["step"] for row in rows])
    figure = matplotlib.figure.Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (field, label) in zip(
        figure.subplots(1, 2), (("loss", "loss"), ("accuracy", "accuracy on training images")), strict=True
    ):
        values = np.array([row[field] for row in rows])
        window = min(50, len(values))
        mean = np.convolve(values, np.ones(window) / window, "valid")
        axes.plot(steps, values, color="0.8", linewidth=0.6)
        axes.plot(steps[window - 1 :], mean, color="tab:blue")
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(0, min(4.0, 1.1 * max(row["loss"] for row in rows)))
    figure.axes[1].set_ylim(0, 1)
    figure.suptitle(f"{len(rows)} steps, {rows[-1]['minutes']:.1f} minutes")
    figure.savefig(path, dpi=120)
