"""Training of networks from predicted parameters, beside the same training from He initialization.

Both are trained by `ghn_jax.evaluation.fine_tuning`: SGD with momentum and a cosine schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ghn_jax import images
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.fine_tuning import TRAIN_BATCH_SIZE, FineTuner
from ghn_jax.evaluation.json_lines import Row
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset, Split
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import Network
from ghn_jax.prediction.predict import predict_params

FINE_TUNE_STARTS = ("predicted", "he")


def with_train_images(dataset: Dataset, count: int | None) -> Dataset:
    """A data set of which only the first `count` training images are there, None for all."""
    train = Split(dataset.train.images[:count], dataset.train.labels[:count])
    return dataset if count is None else dataclasses.replace(dataset, train=train)


def epoch_steps(dataset: Dataset) -> int:
    """How many steps an epoch has."""
    return images.steps_per_epoch(dataset, TRAIN_BATCH_SIZE)


def measure(
    ghn: GHN,
    networks: Mapping[str, Network],
    dataset: Dataset,
    path: Path,
    epochs: Sequence[int],
    *,
    starts: Collection[str] = FINE_TUNE_STARTS,
    test_images: int | None = None,
    checkpoint: str = "",
) -> list[Row]:
    """Accuracies of networks on the way, from every start; those that a file does not have yet are added to it.

    Args:
      ghn: predicts the parameters that networks start from.
      networks: by name.
      dataset: its training images are used with the data set's augmentation.
      path: a file with a JSON line for every network and start.
      epochs: accuracy is measured after these; the last one ends the schedule.
      starts: "predicted", "he" or both.
      test_images: accuracy is measured on the first so many, None for all.
      checkpoint: name of the hypernetwork, which rows of predicted parameters are stored with.

    Returns:
      A row for every network and start, with "accuracy" by number of epochs.
    """
    an_epoch = epoch_steps(dataset)
    steps = max(epochs) * an_epoch
    about: Row = {"dataset": dataset.name, "steps": steps}
    about |= {"train_images": len(dataset.train.labels), "test_images": test_images}
    of_ghn: Row = {"checkpoint": checkpoint, json_lines.WEIGHTS: ghn.fingerprint}
    wanted = [
        about | {"architecture": name, "start": start} | (of_ghn if start == "predicted" else {})
        for name in networks
        for start in starts
    ]
    rows = json_lines.resume(path, accuracy=json_lines.ACCURACIES)
    stored = [row for row in rows if all(str(epoch) in row["accuracy"] for epoch in epochs)]
    missing = [key for key in wanted if _find(stored, key) is None]
    tuner = FineTuner(steps)
    with tqdm(total=len(missing) * steps, unit="step") as bar:

        def made_step(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        for key in missing:
            network = networks[key["architecture"]]
            bar.set_description(f"{key['architecture']}, {key['start']}")
            params, at = _start(network, key["start"], ghn), [epoch * an_epoch for epoch in epochs]
            measured = tuner(network.program, params, dataset, at, test_images, made_step=made_step)
            stored.append(key | {"accuracy": {str(epoch): measured[epoch * an_epoch] for epoch in epochs}})
            json_lines.append(path, stored[-1])
    return [row for key in wanted if (row := _find(stored, key))]


def _find(rows: Iterable[Row], key: Row) -> Row | None:
    """The first row with the fields of `key`."""
    return next((row for row in rows if json_lines.is_of(row, key)), None)


def _start(network: Network, start: str, ghn: GHN) -> Mapping[str, Any]:
    """The parameters that a network starts from."""
    return predict_params(network.graph, ghn) if start == "predicted" else he_init(network.program, network.number)


def table(rows: Sequence[Row], epochs: Iterable[int]) -> str:
    """A line for every network and start, and the means over networks."""
    epochs = list(epochs)
    lines = [f"{'architecture':14}{'start':>10}" + "".join(f"{f'epoch {epoch}':>10}" for epoch in epochs)]
    for row in rows:
        cells = "".join(f"{100 * row['accuracy'][str(epoch)]:9.1f}%" for epoch in epochs)
        lines.append(f"{row['architecture']:14}{row['start']:>10}{cells}")
    for start in dict.fromkeys(row["start"] for row in rows):
        chosen = [row["accuracy"] for row in rows if row["start"] == start]
        if len(chosen) > 1:
            means = "".join(f"{100 * np.mean([a[str(epoch)] for a in chosen]):9.1f}%" for epoch in epochs)
            lines.append(f"{f'mean of {len(chosen)}':14}{start:>10}{means}")
    return "\n".join(lines)
