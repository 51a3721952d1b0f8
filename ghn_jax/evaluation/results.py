"""Accuracies of many architectures: their summary, as a table, as JSON and as a picture."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from ghn_jax.checks import files
from ghn_jax.errors import extra


@dataclasses.dataclass(frozen=True)
class Result:
    """Accuracies (0..1) of one architecture with predicted and with He-initialised parameters.

    Attributes:
      name: what it is called.
      num_params: size of its parameters.
      predicted, he_init: top-1 accuracy.
      predicted_top5, he_init_top5: top-5 accuracy, None for data sets of few classes.
    """

    name: str
    num_params: int
    predicted: float
    he_init: float
    predicted_top5: float | None = None
    he_init_top5: float | None = None


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard error of the mean, and best of accuracies; the error of a single one is nan."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else float("nan")
    return {"mean": float(array.mean()), "standard_error": float(error), "best": float(array.max())}


def _measures(results: Sequence[Result]) -> dict[str, str]:
    """What was measured: fields of a result and how tables call them."""
    measures = {"predicted": "predicted", "he_init": "He init"}
    if results[0].predicted_top5 is not None:
        measures |= {"predicted_top5": "predicted, top-5", "he_init_top5": "He init, top-5"}
    return measures


def table(results: Sequence[Result]) -> str:
    """Results as text, a line each, with mean, standard error and best below."""
    width = max(12, *(len(result.name) for result in results))
    columns = {title: [getattr(r, field) for r in results] for field, title in _measures(results).items()}
    widths = [max(9, len(title)) for title in columns]

    def line(name: str, size: str, cells: Sequence[str]) -> str:
        return "  ".join([f"{name:{width}}", f"{size:>12}", *(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))])

    lines = [line("architecture", "parameters", list(columns))]
    for result, *values in zip(results, *columns.values(), strict=True):
        lines.append(line(result.name, f"{result.num_params:,}", [f"{value:.1%}" for value in values]))
    lines.append("-" * len(lines[0]))
    summaries = [summary(values) for values in columns.values()]
    for label, key in (("mean", "mean"), ("std. error", "standard_error"), ("best", "best")):
        lines.append(line(label, "", ["-" if np.isnan(s[key]) else f"{s[key]:.1%}" for s in summaries]))
    return "\n".join(lines)


def write_json(path: str | os.PathLike, results: Sequence[Result], about: Mapping[str, object]) -> None:
    """Writes results, their summary and `about` as JSON; a file that is already there is replaced at the end."""
    fields = {
        **about,
        **{field: summary([getattr(r, field) for r in results]) for field in _measures(results)},
        "architectures": [dataclasses.asdict(r) for r in results],
    }
    text = json.dumps(fields, indent=2, allow_nan=True)
    with files.replacing(path) as temporary:
        temporary.write_text(text.replace("NaN", "null") + "\n")


def plot(path: str | os.PathLike, results: Sequence[Result], title: str) -> None:
    """Draws the accuracies, top-5 where they were measured, sorted, predicted beside He initialisation."""
    with extra("plot"):
        import matplotlib.figure

    top5 = results[0].predicted_top5 is not None
    pairs = [(r.predicted_top5, r.he_init_top5, r.name) if top5 else (r.predicted, r.he_init, r.name) for r in results]
    predicted, he_init, names = zip(*sorted(pairs), strict=True)
    figure = matplotlib.figure.Figure(figsize=(max(6, 1 + 0.17 * len(names)), 4.2), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(names))
    axes.bar(positions, 100 * np.array(predicted), color="tab:blue", label="predicted")
    axes.plot(positions, 100 * np.array(he_init), "o", color="tab:orange", markersize=4, label="He init")
    mean = 100 * float(np.mean(predicted))
    axes.axhline(mean, color="tab:blue", linestyle="--", linewidth=1, label=f"mean of predicted, {mean:.1f}%")
    axes.set_xticks(positions, names, rotation=90, fontsize=7)
    axes.set(ylabel=f"top-{5 if top5 else 1} accuracy, %", ylim=(0, 100), title=title)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
