"""How well predicted parameters classify, over architectures that the hypernetwork has never seen.

Source: Knyazev et al. 2021, section 5.1: top-1 accuracy (for ImageNet top-5) with the batch statistics of test batches
of 64.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from ghn_jax import images
from ghn_jax.architecture import AnyArchitecture
from ghn_jax.execution import operations, whole
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import Given, Plan
from ghn_jax.graph import Role
from ghn_jax.images import Dataset, Split, eval_batches, in_memory
from ghn_jax.platforms import compiler_options
from ghn_jax.predict import GHN, predict_params
from ghn_jax.program import Program, lower
from ghn_jax.training.targets import Target

BATCH_SIZE = 64

TOP5_ABOVE = 10
"""With more classes than this, top-5 accuracy is measured too."""


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


Logits = Callable[[Program, Mapping[str, np.ndarray]], Callable[[np.ndarray], np.ndarray]]
"""A way of running networks: from a program and its parameters to a function from images to logits."""


def as_a_whole(program: Program, params: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles the network as one program of its own: the fastest for one network and many images."""
    compiled = _compiled(program)
    params = {name: jnp.asarray(values) for name, values in params.items()}
    return lambda images: np.asarray(compiled(params, images))


@functools.lru_cache(maxsize=1)
def _compiled(program: Program):
    return jax.jit(functools.partial(whole.run, program), compiler_options=compiler_options(jax.default_backend()))


class ByOperation:
    """Runs any networks operation by operation: the fastest for many networks and few images each.

    Args:
      batch_size: number of images.
      programs: whose programs are used and added to; None for new ones.
    """

    def __init__(self, batch_size: int, programs: Programs | None = None):
        self._batch_size = batch_size
        self._programs = Programs(jax.local_devices()[:1]) if programs is None else programs

    def __call__(self, program: Program, params: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        whole.check_params(program, params)
        network = Plan(program, self._batch_size).prepare(self._programs)
        given = Given(program, jax.device_put(dict(params), self._programs.devices[0]))

        def logits(images: np.ndarray) -> np.ndarray:
            return np.asarray(operations.logits(network, given, jnp.asarray(images, jnp.float32)))

        return logits


def accuracy(
    logits: Callable[[np.ndarray], np.ndarray], split: Split, dataset: Dataset, num_images: int | None = None
) -> float:
    """Top-1 accuracy (0..1) on the first `num_images` images of `split` (None: all), in batches of 64.

    Args:
      logits: from images `[B, H, W, 3]` to `[B, classes]`, with the statistics of the batch.
      split: images to classify.
      dataset: what they are normalised with.
      num_images: how many of them.
    """
    return accuracies(logits, split, dataset, num_images)[0]


def accuracies(
    logits: Callable[[np.ndarray], np.ndarray], split: Split, dataset: Dataset, num_images: int | None = None
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy, as `accuracy`; of equal logits the first ones count as the largest."""
    total = len(split.labels) if num_images is None else min(num_images, len(split.labels))
    split = Split(split.images[:total], split.labels[:total])
    correct, among_five = 0, 0
    for batch, count in eval_batches(split, dataset, min(BATCH_SIZE, total)):
        values, labels = logits(batch.images)[:count], batch.labels[:count]
        correct += int(np.sum(np.argmax(values, -1) == labels))
        largest = np.argsort(-values, axis=-1, kind="stable")[:, :5]
        among_five += int(np.sum(largest == labels[:, None]))
    return correct / total, among_five / total


def measure_accuracy(
    architecture: AnyArchitecture,
    params: Mapping[str, np.ndarray],
    dataset: str = "fashion_mnist",
    num_images: int | None = None,
    data_dir: str | None = None,
) -> float:
    """Top-1 accuracy (0..1) of one network on the first test images of a data set, with batch statistics.

    Args:
      architecture: the network.
      params: its parameters by name, from `predict_params`.
      dataset: name of an image data set.
      num_images: how many images, None for all.
      data_dir: where the data set's files are; None looks in the usual places.

    Raises:
      ImageError: the data set is not there; the message says where to get it.
    """
    data = images.load(dataset, data_dir)
    return accuracy(as_a_whole(lower(architecture, data.task), params), data.test, data, num_images)


def evaluate(
    ghn: GHN,
    targets: Sequence[tuple[str, Target]],
    dataset: Dataset,
    split: Split,
    num_images: int | None,
    report: Callable[[Result], None],
    mode: str = "auto",
) -> list[Result]:
    """Predicts the parameters of every target and measures them beside He initialisation.

    Args:
      ghn: the hypernetwork.
      targets: names and networks.
      dataset: what images are normalised with.
      split: images to classify.
      num_images: how many of them, None for all.
      report: called with every result when it is there.
      mode: "operations" (operation by operation), "whole" (a program for every network), or "auto": operations for
        several networks, whole for one.

    Raises:
      ImageError: photographs that do not fit into memory, or a damaged one.
    """
    programs = [target.program for _, target in targets]
    if mode == "auto":
        mode = "operations" if len(programs) > 1 else "whole"
    batch_size = min(BATCH_SIZE, len(split.labels), num_images or BATCH_SIZE)
    run_network: Logits = ByOperation(batch_size) if mode == "operations" else as_a_whole
    split = in_memory(split, dataset, num_images)
    results = []
    for name, target in targets:
        predicted, random = (
            accuracies(run_network(target.program, params), split, dataset)
            for params in (predict_params(target.graph, ghn), he_init(target.program, target.number))
        )
        top5 = (predicted[1], random[1]) if dataset.num_classes > TOP5_ABOVE else ()
        results.append(Result(name, target.program.num_params, predicted[0], random[0], *top5))
        report(results[-1])
    return results


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard error of the mean, and best of accuracies; the error of a single one is nan."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return {"mean": float(values.mean()), "standard_error": float(error), "best": float(values.max())}


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
    path = Path(path)
    fields = {
        **about,
        **{field: summary([getattr(r, field) for r in results]) for field in _measures(results)},
        "architectures": [dataclasses.asdict(r) for r in results],
    }
    temporary = path.with_name(path.name + ".new")
    text = json.dumps(fields, indent=2, allow_nan=True)
    temporary.write_text(text.replace("NaN", "null") + "\n")
    temporary.replace(path)


def plot(path: str | os.PathLike, results: Sequence[Result], title: str) -> None:
    """Draws the accuracies, top-5 where they were measured, sorted, predicted beside He initialisation."""
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
