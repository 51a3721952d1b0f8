"""Networks trained on few images of each class or on all, from predicted and from other parameters.

Source: paper, section 5.3 and appendix (100 images a class of CIFAR-10, the rate tuned on 200 held-out images), and
Knyazev, "Pretraining a Neural Network before Knowing Its Architecture" (noise and orthogonal weights).
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghn_jax import images
from ghn_jax.errors import extra
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.fine_tuning import FineTuner, Protocol
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.evaluation.orthogonalise import orthogonalise
from ghn_jax.evaluation.results import summary
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Role
from ghn_jax.images import Dataset, Split
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import Network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.studies.train_networks import StudyError

FEW_SHOT_STARTS = ("predicted", "he", "noise", "orthogonal", "body")
"""Predicted parameters; random ones; predicted with noise; with noise and orthogonal weights; predicted with new class
layers, for a hypernetwork of another data set."""

TUNED_ON = 200
"""Validation images that the learning rate is chosen by."""

PAPERS_BATCH_SIZE = 96


def few_shot(dataset: Dataset, per_class: int | None, seed: int = 0) -> Dataset:
    """A data set with so many training images of each class.

    Args:
      dataset: in memory.
      per_class: how many; None for all, as they are.
      seed: 0 takes the first ones in their order, as published; another one draws.

    Raises:
      StudyError: a class with fewer images, named with their number.
    """
    if per_class is None:
        return dataset
    labels = np.asarray(dataset.train.labels)
    order = np.arange(len(labels)) if seed == 0 else np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for label in range(dataset.num_classes):
        mine = order[labels[order] == label]
        if len(mine) < per_class:
            raise StudyError(f"class {label} of {dataset.name} has {len(mine)} training images, expected {per_class}")
        chosen.append(mine[:per_class])
    places = np.sort(np.concatenate(chosen))
    return dataclasses.replace(dataset, train=Split(dataset.train.images[places], labels[places]))


def start_of(network: Network, start: str, ghn: GHN, seed: int) -> Mapping[str, Any]:
    """The parameters that a network starts from.

    Raises:
      StudyError: a start that is none of `FEW_SHOT_STARTS`.
    """
    if start not in FEW_SHOT_STARTS:
        raise StudyError(f"start={start!r}: expected one of {', '.join(FEW_SHOT_STARTS)}")
    random = he_init(network.program, seed)
    if start == "he":
        return random
    predicted = predict_params(network.graph, ghn)
    if start == "body":
        classes = {t.name for t in network.graph.tensors if t.role in (Role.CLASS_WEIGHT, Role.CLASS_BIAS)}
        return {name: random[name] if name in classes else values for name, values in predicted.items()}
    if start == "predicted":
        return predicted
    return orthogonalise(network.graph, predicted, orthogonal=start == "orthogonal", seed=seed)


def measure(
    ghn: GHN,
    networks: Mapping[str, Network],
    dataset: Dataset,
    path: Path,
    *,
    per_class: Sequence[int | None],
    epochs: int = 50,
    seeds: Sequence[int] = (0, 1, 2),
    starts: Collection[str] = ("predicted", "he"),
    optimizer: str = "sgd",
    rates: Sequence[float] = (0.025,),
    weight_decay: float = 1e-3,
    test_images: int | None = None,
    checkpoint: str = "",
    finished: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Test accuracies of networks trained on few images; those that a file does not have yet are added to it.

    Args:
      ghn: predicts parameters.
      networks: by name.
      dataset: what they classify.
      path: a file with a JSON line for every training.
      per_class: numbers of training images of each class; None for all that there are.
      epochs: of every training; accuracy is measured before and after them, and after each fifth of them.
      seeds: of images, random parameters, noise and the order of images.
      starts: some of `FEW_SHOT_STARTS`.
      optimizer: "sgd" or "adamw".
      rates: learning rates; of several the one is taken whose network is best on `TUNED_ON` validation images.
      weight_decay: of all parameters.
      test_images: accuracy on the first so many, None for all.
      checkpoint: name of the hypernetwork, which rows are stored with.
      finished: called after every training.

    Returns:
      A row for every training: what it was, its rate, and test accuracy by number of epochs.

    Raises:
      StudyError: a class with fewer images than asked for, or fewer validation images than the rate is chosen by.
    """
    if len(rates) > 1 and len(dataset.val.labels) < TUNED_ON:
        raise StudyError(
            f"{dataset.name} has {len(dataset.val.labels)} validation images: expected {TUNED_ON} to choose among "
            f"learning rates {', '.join(map(str, rates))}, or a single rate"
        )
    for rate in rates:  # before any network is trained
        Protocol(epochs, PAPERS_BATCH_SIZE, optimizer, rate, weight_decay)
    about = {"dataset": dataset.name, "epochs": epochs, "optimizer": optimizer, "rates": list(rates)}
    about |= {"weight_decay": weight_decay, "test_images": test_images, "checkpoint": checkpoint}
    keys = [
        about | {"architecture": name, "per_class": count, "start": start, "seed": seed} | weights_of(start, ghn)
        for name in networks
        for count in per_class
        for seed in seeds
        for start in starts
    ]
    expected = {str(epoch) for epoch in _measured_at(epochs)}
    stored = [
        row for row in json_lines.resume(path, accuracy=json_lines.ACCURACIES) if expected <= row["accuracy"].keys()
    ]
    rows = []
    for key in keys:
        row = next((row for row in stored if json_lines.is_of(row, key)), None)
        if row is None:
            few = few_shot(dataset, key["per_class"], key["seed"])
            row = key | _train(ghn, networks[key["architecture"]], few, key)
            json_lines.append(path, row)
        rows.append(row)
        finished()
    return rows


def _measured_at(epochs: int) -> set[int]:
    """The epochs after which accuracy is measured."""
    return {round(part * epochs / 5) for part in range(6)}


def weights_of(start: str, ghn: GHN) -> Row:
    """What a row says of the hypernetwork that a start comes from."""
    return {} if start == "he" else {json_lines.WEIGHTS: ghn.fingerprint}


def _train(ghn: GHN, network: Network, few: Dataset, key: Row) -> Row:
    """Rate and accuracies of one training."""
    batch_size = min(PAPERS_BATCH_SIZE, len(few.train.labels))
    an_epoch = images.steps_per_epoch(few, batch_size)
    steps, seed = key["epochs"] * an_epoch, key["seed"]
    params = start_of(network, key["start"], ghn, seed)

    def train(rate: float, data: Dataset, at: Sequence[int], test_images: int | None) -> dict[int, float]:
        protocol = Protocol(steps, batch_size, key["optimizer"], rate, key["weight_decay"])
        return FineTuner(protocol)(network.program, params, data, at, test_images, seed)

    rate = key["rates"][0]
    if len(key["rates"]) > 1:
        held_out = dataclasses.replace(few, test=Split(few.val.images[:TUNED_ON], few.val.labels[:TUNED_ON]))
        rate = max(key["rates"], key=lambda rate: train(rate, held_out, [steps], None)[steps])
    at = [epoch * an_epoch for epoch in _measured_at(key["epochs"])]
    found = train(rate, few, at, key["test_images"])
    return {"learning_rate": rate, "accuracy": {str(step // an_epoch): value for step, value in found.items()}}


def table(rows: Iterable[Row]) -> str:
    """Mean and standard error over seeds of the last accuracy in percent, as Markdown."""
    cells, counts = collections.defaultdict(list), {}
    for row in rows:
        last = row["accuracy"][str(row["epochs"])]
        cells[row["architecture"], row["start"], row["per_class"]].append(100 * last)
        counts[row["per_class"]] = None
    lines = [["network", "start", *("all" if count is None else f"{count} a class" for count in counts)]]
    lines.append(["---"] * len(lines[0]))
    for network, start in dict.fromkeys((network, start) for network, start, _ in cells):
        line = [network, start]
        for count in counts:
            values = summary(cells[network, start, count])
            spread = "" if np.isnan(values["standard_error"]) else f" +- {values['standard_error']:.1f}"
            line.append(f"{values['mean']:.1f}{spread}")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(path: str | os.PathLike, rows: Sequence[Row], title: str) -> None:
    """Draws accuracy over epochs, a panel for every number of images, means over seeds and networks."""
    with extra("plot"):
        import matplotlib.figure

    counts = list(dict.fromkeys(row["per_class"] for row in rows))
    starts = list(dict.fromkeys(row["start"] for row in rows))
    figure = matplotlib.figure.Figure(figsize=(3.4 * len(counts) + 0.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False, sharey=True)[0]
    for axes, count in zip(panels, counts, strict=True):
        for place, start in enumerate(starts):
            mine = [row["accuracy"] for row in rows if (row["per_class"], row["start"]) == (count, start)]
            epochs = sorted(map(int, mine[0]))
            values = 100 * np.array([[accuracy[str(epoch)] for epoch in epochs] for accuracy in mine])
            mean, spread = values.mean(0), values.std(0) / max(1, len(values) - 1) ** 0.5
            style = (".-", ".--", ".-.", ".:")[place % 4]  # some starts lie on top of others
            axes.plot(epochs, mean, style, color=f"C{place}", label=start)
            axes.fill_between(epochs, mean - spread, mean + spread, color=f"C{place}", alpha=0.2, linewidth=0)
        axes.set(xlabel="epochs", title="all images" if count is None else f"{count} images a class")
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy, %")
    panels[-1].legend(loc="lower right")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
