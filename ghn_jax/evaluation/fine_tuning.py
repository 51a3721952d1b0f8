"""Training a network's own parameters, predicted or random, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ghn_jax import images
from ghn_jax.evaluation.accuracy import ByOperation, accuracy
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import Given, Plan, value_and_grad
from ghn_jax.images import Dataset, Split
from ghn_jax.networks.program import Program

BATCH_SIZE = 64
LEARNING_RATE = 0.025
MOMENTUM = 0.9
WEIGHT_DECAY = 3e-4
CLIP_NORM = 5.0


class FineTuner:
    """Trains networks, one after the other: SGD with momentum 0.9, a rate that falls from 0.025 to 0 along a cosine,
    weight decay, clipping to a norm of 5.

    What the operations of one network were compiled for, the next one need not compile again.

    Args:
      steps: of the whole schedule.
    """

    def __init__(self, steps: int):
        self._programs = Programs(jax.local_devices()[:1])
        self._networks = ByOperation(BATCH_SIZE, self._programs)
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(CLIP_NORM),
            optax.add_decayed_weights(WEIGHT_DECAY),
            optax.sgd(optax.cosine_decay_schedule(LEARNING_RATE, steps), momentum=MOMENTUM),
        )

        def update(gradients: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
            updates, opt_state = self._optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        self._update = jax.jit(update, donate_argnums=(1, 2))

    def __call__(
        self,
        program: Program,
        params: Mapping[str, np.ndarray],
        dataset: Dataset,
        measure_at: Sequence[int],
        num_test_images: int | None = None,
        seed: int = 0,
        made_step: Callable[[float], None] = lambda loss: None,
    ) -> dict[int, float]:
        """Trains a network up to the last step of `measure_at`.

        Args:
          program: the network.
          params: where it starts, by name.
          dataset: its training images are used with the data set's augmentation.
          measure_at: after how many steps accuracy is measured, 0 for before the first one.
          num_test_images: measured on the first so many test images, None for all.
          seed: of the order of images, augmentation and dropout.
          made_step: called with the loss of every step.

        Returns:
          Top-1 accuracy (0..1), with batch statistics, for every number of `measure_at`.
        """
        device = self._programs.devices[0]
        tensors = jax.tree.map(lambda values: jax.device_put(np.array(values), device), dict(params))
        opt_state = self._optimizer.init(tensors)
        network = Plan(program, BATCH_SIZE, label_smoothing=0.0).prepare(self._programs)
        test = Split(dataset.test.images[:num_test_images], dataset.test.labels[:num_test_images])
        accuracies = {}
        for step in range(max(measure_at) + 1):
            if step > 0:
                batch = images.train_batch(dataset, BATCH_SIZE, seed, step - 1)
                given = Given(program, tensors)
                pixels, labels = jax.device_put((batch.images, batch.labels), device)
                key = jax.random.fold_in(jax.random.key(seed), step)
                loss = value_and_grad(network, given, pixels, labels, key).loss
                tensors, opt_state = self._update(given.gradients, opt_state, tensors)
                made_step(float(loss))
            if step in measure_at:
                accuracies[step] = accuracy(self._networks(program, tensors), test, dataset)
        return accuracies
