"""Hypernetworks compared on the test splits of DeepNets-1M: mean, standard error and best top-1 accuracy.

All predict the same networks: test (500), wide, deep, dense and bnfree (100 each), ResNet-50 and ViT; beside them
stands He initialization.  Each network classifies its own stretch of the test images, so that a mean is over all of
them (ResNet-50 and ViT at least 1,024); accuracies use batch statistics of 64 images, as in the paper.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ghn_jax.checks.fields import ByName, OneOf, Real, Rule, shown
from ghn_jax.deepnets.sampler import ALL_SPLITS, PREDEFINED, sample_architecture, split_size
from ghn_jax.errors import GHNError, extra
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.evaluation.results import summary
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset, Split
from ghn_jax.networks.architecture import AnyArchitecture, named
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import Network, make_network
from ghn_jax.prediction.predict import predict_params

NUM = {"test": 500, "wide": 100, "deep": 100, "dense": 100, "bnfree": 100}
EVALUATED_SPLITS = (*NUM, "predefined")
HE = "He init"

PREDEFINED_IMAGES = 1024
"""Images at least for ResNet-50 and ViT, each of which is a column of its own."""

Accuracies = dict[str, dict[str, list[float]]]
"""By column (a split or a predefined network) and title, one for every network."""


class StoredResultsError(GHNError):
    """Results from before that are not of the images asked for."""


def networks_of(split: str, most: int | None, large_images: bool) -> list[tuple[int, AnyArchitecture]]:
    """Numbers and architectures of a split, at most so many."""
    if split == "predefined":
        return [(number, named(name)) for number, name in enumerate(PREDEFINED)]
    count = NUM[split] if most is None else min(most, NUM[split])
    return [(number, sample_architecture(split, number, large_images)) for number in range(count)]


def images_of(split: str, num_images: int) -> int:
    """How many images a network of `split` classifies."""
    return max(num_images, PREDEFINED_IMAGES) if split == "predefined" else num_images


def own_images(split: Split, number: int, count: int) -> Split:
    """The stretch of images of network `number`; past the end it goes on at the beginning."""
    chosen = (number * count + np.arange(count)) % len(split.labels)
    return Split(split.images[chosen], split.labels[chosen])


def measure(
    ghns: Mapping[str, GHN],
    dataset: Dataset,
    path: Path,
    num_images: int,
    splits: Iterable[str] = EVALUATED_SPLITS,
    most: int | None = None,
    noise: float = 0.0,
) -> None:
    """Adds the accuracies that a file does not have yet, network by network, and those of He initialization.

    Two processes may work on one file: they do some of the work twice, and `rows` counts it once.

    Args:
      ghns: hypernetworks by title.
      dataset: its test images are classified.
      path: a file with a JSON line for every network.
      num_images: for each network, a multiple of 64.
      splits: those to measure.
      most: at most so many networks of each, None for all.
      noise: standard deviation of noise on images scaled to 0..1.

    Raises:
      StoredResultsError: the file has accuracies on another number of images, of another data set, with other noise,
        or of other weights under one of these titles.
    """
    weights = {title: ghn.fingerprint for title, ghn in ghns.items()}
    done = _measured(path, num_images, noise, dataset.name, weights)
    for split in splits:
        found = networks_of(split, most, dataset.task.large_images)
        missing = {number: [title for title in (*ghns, HE) if title not in done[split, number]] for number, _ in found}
        networks = [make_network(number, one, dataset.task) for number, one in found if missing[number]]
        if not networks:
            continue
        run_network, count = ByOperation(BATCH_SIZE), images_of(split, num_images)
        for network in tqdm(networks, desc=split, unit="network"):
            own = own_images(dataset.test, network.number, count)
            accuracies = {
                title: accuracy(
                    run_network(network.program, _params(network, ghns.get(title))), own, dataset, noise=noise
                )
                for title in missing[network.number]
            }
            row = {"split": split, "number": network.number, "parameters": network.program.num_params, "images": count}
            row |= {"dataset": dataset.name} | ({"noise": noise} if noise else {})
            row[json_lines.WEIGHTS] = {title: weights[title] for title in accuracies if title in weights}
            json_lines.append(path, {**row, "accuracy": accuracies})


ROW: dict[str, type | Rule] = {
    "split": OneOf(*ALL_SPLITS),
    "number": int,
    "images": int,
    "accuracy": ByName(Real(0, 1)),
}
"""Fields of a stored row."""


def rows(path: str | os.PathLike) -> Iterator[json_lines.Row]:
    """The rows of a file that `measure` wrote, without accuracies that a row before has."""
    seen = set()
    for row in json_lines.read(path, **ROW):
        network = row["split"], row["number"]
        new = {title: value for title, value in row["accuracy"].items() if (*network, title) not in seen}
        seen.update((*network, title) for title in new)
        if new:
            yield row | {"accuracy": new}


def _measured(
    path: Path, num_images: int, noise: float, dataset: str, weights: Mapping[str, str]
) -> collections.defaultdict[tuple[str, int], set[str]]:
    """Titles whose accuracy a file has, by split and number of the network."""
    done = collections.defaultdict(set)
    for row in json_lines.resume(path, **ROW):
        if row["images"] != images_of(row["split"], num_images):
            raise StoredResultsError(
                f"{path} has accuracies on {shown(row['images'])} images, other than --num_images={num_images}"
            )
        if row.get("dataset", dataset) != dataset:  # which rows of older versions do not say
            raise StoredResultsError(
                f"{path} has accuracies on images of {shown(row['dataset'])}, other than --dataset={dataset}"
            )
        if row.get("noise", 0.0) != noise:
            raise StoredResultsError(
                f"{path} has accuracies with noise {shown(row.get('noise', 0.0))}, other than --noise={noise}"
            )
        of_row = row.get(json_lines.WEIGHTS)
        for title, fingerprint in weights.items():
            if isinstance(of_row, dict) and of_row.get(title, fingerprint) != fingerprint:
                raise StoredResultsError(
                    f"{path} has accuracies of {title!r} with other weights: choose another title, or another folder"
                )
        done[row["split"], row["number"]].update(row["accuracy"])
    return done


def _params(network: Network, ghn: GHN | None) -> Mapping[str, Any]:
    """Parameters that a hypernetwork predicts, or of He initialization."""
    return he_init(network.program, network.number) if ghn is None else predict_params(network.graph, ghn)


def collect(path: Path, titles: Collection[str]) -> Accuracies:
    """The accuracies in a file that `measure` wrote, for these titles."""
    found: Accuracies = {}
    for row in rows(path):
        if not 0 <= row["number"] < split_size(row["split"]):
            continue
        column = PREDEFINED[row["number"]] if row["split"] == "predefined" else row["split"]
        for title, value in row["accuracy"].items():
            if title in titles:
                found.setdefault(column, {}).setdefault(title, []).append(value)
    return found


def figures(found: Accuracies, titles: Iterable[str], num_images: int, dataset: str) -> dict[str, Any]:
    """Mean, standard error, best and number of networks, by title and column; `ghn-jax pack` stores them."""

    def of(values: list[float]) -> dict[str, float]:
        s = summary(values)
        if len(values) == 1:
            return {"mean": s["mean"]}
        return {name: s[name] for name in ("mean", "standard_error", "best")} | {"networks": len(values)}

    what = (
        f"top-1 accuracy of predicted networks never trained on, {num_images} test images of {dataset} for "
        f"each (ResNet-50 and ViT at least {PREDEFINED_IMAGES:,}), with the statistics of batches of {BATCH_SIZE}"
    )
    accuracies = {
        title: {column: of(values[title]) for column, values in found.items() if title in values} for title in titles
    }
    return {"what": what, "accuracy": accuracies}


def table(found: Accuracies, titles: Iterable[str]) -> str:
    """Mean, standard error and best in percent, as Markdown."""

    def cell(values: list[float] | None) -> str:
        if not values:
            return ""
        s = summary(values)
        if len(values) == 1:
            return f"{100 * s['mean']:.1f}"
        return f"{100 * s['mean']:.1f} +- {100 * s['standard_error']:.1f}, {100 * s['best']:.1f}"

    counts = {column: len(next(iter(values.values()))) for column, values in found.items()}
    header = ["", *(f"{column} ({count})" if count > 1 else column for column, count in counts.items())]
    lines = [header, ["---"] * len(header)]
    lines += [[title, *(cell(values.get(title)) for values in found.values())] for title in titles]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(path: str | os.PathLike, found: Accuracies, titles: Sequence[str], dataset: str) -> None:
    """Draws bars of the means with standard errors, and the best as points."""
    with extra("plot"):
        import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(titles)
    for place, title in enumerate(titles):
        summaries = [summary(values[title]) for values in found.values() if title in values]
        positions = [number + place * width for number, values in enumerate(found.values()) if title in values]
        means, errors = ([100 * np.nan_to_num(s[key]) for s in summaries] for key in ("mean", "standard_error"))
        color = "0.6" if title == HE else f"C{place}"
        axes.bar(positions, means, width, yerr=errors, color=color, label=title)
        axes.plot(positions, [100 * s["best"] for s in summaries], "k.", markersize=4)
    axes.set_xticks(np.arange(len(found)) + 0.4 - width / 2, list(found))
    axes.set(ylabel="top-1 accuracy, %", ylim=(0, 100), title=f"{dataset}: mean and best of networks never trained on")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
