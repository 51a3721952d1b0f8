"""Accuracy on held-out architectures and images while a hypernetwork is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.evaluation.results import summary
from ghn_jax.execution.compiling import Programs
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset, in_memory
from ghn_jax.networks.architecture import Task
from ghn_jax.networks.network import Network, make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.training.config import TrainConfig


def val_targets(config: TrainConfig, task: Task) -> list[Network]:
    """The first architectures of the val split, of the run's width and as cheap as those it trains on."""
    targets: list[Network] = []
    number = 0
    while len(targets) < config.val_networks:
        architecture = sample_architecture("val", number, task.large_images)
        if config.fixed_width is not None:
            architecture = dataclasses.replace(architecture, C=config.fixed_width)
        target = make_network(number, architecture, task)
        if config.max_multiply_adds is None or target.program.multiply_adds <= config.max_multiply_adds:
            targets.append(target)
        number += 1
    return targets


class Validation:
    """Measures hypernetworks; operations that no network had before are compiled when they are first met.

    Args:
      config: of the run.
      ghn: the hypernetwork.
      dataset: whose validation images are classified.
      programs: of the run, whose compiled operations are used; None for new ones.

    Raises:
      ImageError: images that do not fit into memory, or are damaged.
    """

    def __init__(self, config: TrainConfig, ghn: HypernetConfig, dataset: Dataset, programs: Programs | None = None):
        self._ghn = ghn
        self._dataset = dataset
        self._targets = val_targets(config, dataset.task)
        self._images = in_memory(dataset.val, dataset, config.val_images)
        batch_size = min(BATCH_SIZE, len(self._images.labels))
        self._networks = ByOperation(batch_size, programs)

    def __call__(self, params: Any) -> dict[str, Any]:
        """Mean top-1 accuracy (0..1) of the predicted networks, its standard error, the best, and all of them."""
        accuracies = []
        for target in self._targets:
            logits = self._networks(target.program, predict_params(target.graph, GHN(self._ghn, params)))
            accuracies.append(accuracy(logits, self._images, self._dataset))
        of_all = summary(accuracies)
        return {
            "accuracy": of_all["mean"],
            "standard_error": of_all["standard_error"] if np.isfinite(of_all["standard_error"]) else None,
            "best": of_all["best"],
            "accuracies": accuracies,
        }
