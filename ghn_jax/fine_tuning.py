"""Training a network's own parameters, predicted or random, with one compiled program for many networks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ghn_jax import images
from ghn_jax.convolution import compiler_options
from ghn_jax.evaluation import Interpreted, accuracy
from ghn_jax.images import Dataset, Split
from ghn_jax.machine.assemble import assemble, memory_units, stack
from ghn_jax.machine.parameters import FlatVector
from ghn_jax.machine.run import new_memory, value_and_grad
from ghn_jax.machine.table import signatures_of, table_of
from ghn_jax.program import Program

BATCH_SIZE = 64
LEARNING_RATE = 0.025
MOMENTUM = 0.9
WEIGHT_DECAY = 3e-4
CLIP_NORM = 5.0


class _Carry(NamedTuple):
    """What a step changes: all parameters one after the other, and the optimiser's state."""

    vector: jax.Array
    opt_state: Any


class FineTuner:
    """Trains any of some networks: SGD with momentum 0.9, a rate that falls from 0.025 to 0 along a cosine, weight
    decay, clipping to a norm of 5.

    Args:
      programs: the networks; one program for all of their operations is compiled when it is first used.
      steps: of the whole schedule.
    """

    def __init__(self, programs: Sequence[Program], steps: int):
        self._table = table_of(itertools.chain.from_iterable(map(signatures_of, programs)))
        self._length = max(len(program.instructions) for program in programs)
        self._num_params = max(program.num_params for program in programs)
        self._memory = new_memory(max(memory_units(program, BATCH_SIZE) for program in programs))
        self._networks = Interpreted(programs, BATCH_SIZE)
        self._steps = steps
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(CLIP_NORM),
            optax.add_decayed_weights(WEIGHT_DECAY),
            optax.sgd(optax.cosine_decay_schedule(LEARNING_RATE, steps), momentum=MOMENTUM),
        )
        machine = functools.partial(value_and_grad, self._table, FlatVector())

        def step(carry, memory, code, pixels, labels, key):
            outcome, memory = machine(code, carry.vector, pixels, labels, memory=memory, dropout_keys=key[None])
            updates, opt_state = self._optimizer.update(outcome.bars, carry.opt_state, carry.vector)
            return _Carry(optax.apply_updates(carry.vector, updates), opt_state), memory, outcome.losses[0]

        self._step = jax.jit(step, donate_argnums=(0, 1), compiler_options=compiler_options())

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
          program: one of the networks.
          params: where it starts, by name.
          dataset: its training images are used with the data set's augmentation.
          measure_at: after how many steps accuracy is measured, 0 for before the first one.
          num_test_images: measured on the first so many test images, None for all.
          seed: of the order of images, augmentation and dropout.
          made_step: called with the loss of every step.

        Returns:
          Top-1 accuracy (0..1), with batch statistics, for every number of `measure_at`.
        """
        vector = jnp.asarray(FlatVector.flatten(program, params, self._num_params))
        carry = _Carry(vector, self._optimizer.init(vector))
        words = assemble(program, FlatVector.starts(program), self._table, BATCH_SIZE).words
        code = jax.device_put(stack([words], self._length))
        test = Split(dataset.test.images[:num_test_images], dataset.test.labels[:num_test_images])
        accuracies = {}
        for step in range(max(measure_at) + 1):
            if step > 0:
                batch = images.train_batch(dataset, BATCH_SIZE, seed, step - 1)
                key = jax.random.fold_in(jax.random.key(seed), step)
                carry, self._memory, loss = self._step(carry, self._memory, code, batch.images, batch.labels, key)
                made_step(float(loss))
            if step in measure_at:
                now = FlatVector.unflatten(program, np.asarray(carry.vector))
                accuracies[step] = accuracy(self._networks(program, now), test, dataset)
        return accuracies
