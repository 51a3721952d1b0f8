"""Compiled training steps, one for every width of networks, and the memory that they share."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ghn_jax.architecture import Task
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.images import IMAGE_SIZE
from ghn_jax.machine.table import MachineError
from ghn_jax.training import parallel
from ghn_jax.training.bounds import Needs
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.inputs import StepInputs, shares, step_inputs
from ghn_jax.training.step import Metrics, TrainState, make_step
from ghn_jax.training.survey import Survey
from ghn_jax.training.targets import Target, width_of


class Prepared(NamedTuple):
    """A meta-batch on its way to a step.

    Attributes:
      targets: its architectures, in the order of the metrics.
      inputs: arrays with a leading axis over the devices of this process.
      balance: largest cost of a device over the mean.
    """

    targets: tuple[Target, ...]
    inputs: StepInputs
    balance: float


class Engine:
    """Runs the steps of a training run; holds compiled programs and memory, not the state of the run."""

    def __init__(
        self,
        config: TrainConfig,
        ghn: HypernetConfig,
        optimizer: optax.GradientTransformation,
        survey: Survey,
        image_size: int = IMAGE_SIZE,
    ):
        self._config = config
        self._ghn = ghn
        self._optimizer = optimizer
        self._survey = survey
        batch = (jax.local_device_count(), config.batch_size)
        self._images = jax.ShapeDtypeStruct((*batch, image_size, image_size, 3), jnp.float32)
        self._labels = jax.ShapeDtypeStruct(batch, jnp.int32)
        self._compiler = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ghn_jax_compile")
        self._steps: dict[int, concurrent.futures.Future[Callable]] = {}
        check_memory(config, survey.bounds)
        self._memory = parallel.new_memory(survey.bounds.units, jnp.dtype(config.compute_dtype))
        self.compile_seconds = 0.0

    def accepts(self, target: Target) -> bool:
        """Whether the compiled steps can run a network."""
        return self._survey.foresees(target, self._config.batch_size)

    def prepare(self, targets: Sequence[Target]) -> Prepared:
        """Deals a meta-batch out to the devices and makes their arrays.

        Raises:
          MachineError: an architecture that the survey did not foresee.
        """
        costs = [float(target.program.multiply_adds) for target in targets]
        dealt = shares(costs, parallel.num_devices())
        inputs = [
            step_inputs(
                [targets[position] for position in share],
                share,
                self._survey.tables[width_of(targets[0])],
                self._survey.bounds,
                self._ghn,
                self._config.batch_size,
            )
            for share in parallel.local_shares(dealt)
        ]
        sums = [sum(costs[position] for position in share) for share in dealt]
        order = tuple(targets[position] for share in dealt for position in share)
        return Prepared(order, jax.tree.map(lambda *arrays: np.stack(arrays), *inputs), max(sums) / np.mean(sums))

    def compile(self, state: TrainState, prepared: Prepared) -> None:
        """Begins to compile, in another thread, the step that a meta-batch needs, unless that has begun before."""
        width = width_of(prepared.targets[0])
        if width not in self._steps:
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), prepared.inputs)
            self._steps[width] = self._compiler.submit(self._compile, width, _shapes(state), shapes)

    def _compile(self, width: int, state: TrainState, inputs: StepInputs) -> Callable:
        began = time.monotonic()
        step = make_step(
            self._ghn,
            self._optimizer,
            self._survey.tables[width],
            seed=self._config.seed,
            label_smoothing=self._config.label_smoothing,
            network_clip_norm=self._config.network_clip_norm,
        )
        compiled = parallel.compile_step(step, state, _shapes(self._memory), inputs, self._images, self._labels)
        self.compile_seconds += time.monotonic() - began
        return compiled

    def step(
        self, state: TrainState, prepared: Prepared, images: np.ndarray, labels: np.ndarray
    ) -> tuple[TrainState, Metrics]:
        """The state after an update, and its metrics, both replicated; may return before they are computed.

        Args:
          state: replicated; its arrays are used up.
          prepared: from `prepare`.
          images: float32 `[B, H, W, 3]`, normalised.
          labels: int32 `[B]`.
        """
        self.compile(state, prepared)
        run = self._steps[width_of(prepared.targets[0])].result()
        state, self._memory, metrics = run(
            state, self._memory, prepared.inputs, parallel.broadcast(images), parallel.broadcast(labels)
        )
        return state, metrics


def check_memory(config: TrainConfig, bounds: Needs) -> None:
    """Raises MachineError if a step needs more memory than there is, saying what to lower."""
    networks = config.meta_batch // parallel.num_devices()
    activations = bounds.memory_bytes * jnp.dtype(config.compute_dtype).itemsize / 4
    out, inputs = config.hypernetwork(Task()).max_shape[:2]
    rows = 2 * 4 * networks * bounds.dense * out * inputs
    available = parallel.available_memory()
    if activations + rows > available:
        raise MachineError(
            f"a step needs {activations / 2**30:.1f} GiB for activations of the largest network and {rows / 2**30:.1f} "
            f"GiB for decoded rows, {available / 2**30:.1f} GiB are available: lower config.batch_size="
            f"{config.batch_size}, config.max_multiply_adds={config.max_multiply_adds} or config.meta_batch="
            f"{config.meta_batch}"
        )


def _shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
