"""How well predicted parameters classify, over architectures that the hypernetwork has never seen.

Source: Knyazev et al. 2021, section 5.1: top-1 accuracy with the batch statistics of test batches of 64.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from ghn_jax import dispatch
from ghn_jax.graph import Role
from ghn_jax.images import Dataset, Split, eval_batches
from ghn_jax.predict import GHN, predict_params
from ghn_jax.program import Program
from ghn_jax.training.targets import Target

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Result:
    """Top-1 accuracies (0..1) of one architecture with predicted and with He-initialised parameters."""

    name: str
    num_params: int
    predicted: float
    he_init: float


def he_init(program: Program, seed: int) -> dict[str, np.ndarray]:
    """Random parameters by name: weights N(0, 2 / fan-in) (He et al. 2015), position codes N(0, 0.02^2), norm weights
    one and biases zero.

    Every tensor depends on its name and the seed alone.
    """
    params = {}
    for tensor in program.tensors:
        rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(tensor.name.encode())]))
        match tensor.role:
            case Role.NORM_WEIGHT:
                values = np.ones(tensor.shape)
            case Role.BIAS | Role.CLASS_BIAS:
                values = np.zeros(tensor.shape)
            case Role.POSITION:
                values = 0.02 * rng.standard_normal(tensor.shape)
            case _:
                values = rng.standard_normal(tensor.shape) * np.sqrt(2 / np.prod(tensor.shape[:-1]))
        params[tensor.name] = values.astype(np.float32)
    return params


def accuracy(
    program: Program, params: Mapping[str, np.ndarray], split: Split, dataset: Dataset, num_images: int | None = None
) -> float:
    """Top-1 accuracy (0..1) on the first `num_images` images of `split` (None: all), in batches of 64."""
    params = {name: jnp.asarray(values) for name, values in params.items()}
    total = len(split.labels) if num_images is None else min(num_images, len(split.labels))
    split = Split(split.images[:total], split.labels[:total])
    correct = 0
    for batch, count in eval_batches(split, dataset, min(BATCH_SIZE, total)):
        logits = np.asarray(dispatch.run(program, params, jnp.asarray(batch.images)))
        correct += int(np.sum(np.argmax(logits[:count], -1) == batch.labels[:count]))
    return correct / total


def evaluate(
    ghn: GHN,
    targets: Sequence[tuple[str, Target]],
    dataset: Dataset,
    split: Split,
    num_images: int | None,
    report: Callable[[Result], None],
) -> list[Result]:
    """Predicts the parameters of every target and measures them beside He initialisation.

    Args:
      ghn: the hypernetwork.
      targets: names and networks.
      dataset: what images are normalised with.
      split: images to classify.
      num_images: how many of them, None for all.
      report: called with every result when it is there.
    """
    results = []
    for name, target in targets:
        predicted = accuracy(target.program, predict_params(target.graph, ghn), split, dataset, num_images)
        random = accuracy(target.program, he_init(target.program, target.number), split, dataset, num_images)
        results.append(Result(name, target.program.num_params, predicted, random))
        report(results[-1])
    return results


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard error of the mean, and best of accuracies; the error of a single one is nan."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return {"mean": float(values.mean()), "standard_error": float(error), "best": float(values.max())}


def table(results: Sequence[Result]) -> str:
    """Results as text, a line each, with mean, standard error and best below."""
    width = max(12, *(len(result.name) for result in results))
    lines = [f"{'architecture':{width}}  {'parameters':>12}  {'predicted':>9}  {'He init':>9}"]
    for r in results:
        lines.append(f"{r.name:{width}}  {r.num_params:12,}  {r.predicted:9.1%}  {r.he_init:9.1%}")
    columns = [summary([r.predicted for r in results]), summary([r.he_init for r in results])]
    lines.append("-" * len(lines[0]))
    for label, key in (("mean", "mean"), ("std. error", "standard_error"), ("best", "best")):
        cells = "  ".join(f"{'-' if np.isnan(column[key]) else format(column[key], '.1%'):>9}" for column in columns)
        lines.append(f"{label:{width}}  {'':12}  {cells}")
    return "\n".join(lines)


def write_json(path: str | os.PathLike, results: Sequence[Result], about: Mapping[str, object]) -> None:
    """Writes results, their summary and `about` as JSON; a file that is already there is replaced at the end."""
    path = Path(path)
    fields = {
        **about,
        "predicted": summary([r.predicted for r in results]),
        "he_init": summary([r.he_init for r in results]),
        "architectures": [dataclasses.asdict(r) for r in results],
    }
    temporary = path.with_name(path.name + ".new")
    text = json.dumps(fields, indent=2, allow_nan=True)
    temporary.write_text(text.replace("NaN", "null") + "\n")
    temporary.replace(path)


def plot(path: str | os.PathLike, results: Sequence[Result], title: str) -> None:
    """Draws the accuracies, sorted, predicted beside He initialisation."""
    ordered = sorted(results, key=lambda r: r.predicted)
    figure = matplotlib.figure.Figure(figsize=(max(6, 1 + 0.17 * len(ordered)), 4.2), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(ordered))
    axes.bar(positions, [100 * r.predicted for r in ordered], color="tab:blue", label="predicted")
    axes.plot(positions, [100 * r.he_init for r in ordered], "o", color="tab:orange", markersize=4, label="He init")
    mean = 100 * float(np.mean([r.predicted for r in ordered]))
    axes.axhline(mean, color="tab:blue", linestyle="--", linewidth=1, label=f"mean of predicted, {mean:.1f}%")
    axes.set_xticks(positions, [r.name for r in ordered], rotation=90, fontsize=7)
    axes.set(ylabel="top-1 accuracy, %", ylim=(0, 100), title=title)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
