"""The steps of a training run: embeddings on all devices, networks on their own, one update of the hypernetwork."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.operations import ExecutionError, Plan, value_and_grad
from ghn_jax.execution.recipes import Loss
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.programs import Decode, PullBackChunk, decoder_params
from ghn_jax.ghn.rows import Table
from ghn_jax.images.augment import smaller
from ghn_jax.images.batches import Batch
from ghn_jax.networks.losses import TaughtLabels
from ghn_jax.networks.network import Network
from ghn_jax.runtime import own_settings
from ghn_jax.training import parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.decoded import DecodedTensors, Decoding
from ghn_jax.training.inputs import CAPACITY, Graphs, first_nodes, graphs_of, padded_nodes, shares
from ghn_jax.training.memory import check_networks, plan_of
from ghn_jax.training.step import Collect, Metrics, TrainState, make_embed, make_update


class Share(NamedTuple):
    """What a device runs.

    Attributes:
      positions: of its networks in the meta-batch, on which dropout depends.
      numbers: of their architectures.
      plans, decodings: of its networks.
      first: the order in which they are begun, the most expensive first.
    """

    positions: tuple[int, ...]
    numbers: tuple[int, ...]
    plans: tuple[Plan, ...]
    decodings: tuple[Decoding, ...]
    first: tuple[int, ...]


class Prepared(NamedTuple):
    """A meta-batch on its way to a step.

    Attributes:
      targets: its architectures, in the order of the metrics.
      graphs: with a leading axis over the devices of this process.
      shares: one a device of this process.
      balance: largest cost of a device over the mean.
    """

    targets: tuple[Network, ...]
    graphs: Graphs
    shares: tuple[Share, ...]
    balance: float


class Engine:
    """Runs the steps of a training run; holds compiled programs, not the state of the run.

    Args:
      config: of the run.
      ghn: the hypernetwork.
      optimizer: of the update.
      progress: see `Programs`.
    """

    def __init__(
        self,
        config: TrainConfig,
        ghn: HypernetConfig,
        optimizer: optax.GradientTransformation,
        progress: Callable[[int, int, Any], None] = lambda finished, started, recipe: None,
    ):
        self._config = config
        self._ghn = ghn
        self.programs = Programs(progress=progress)
        self._mapped = parallel.Mapped(self.programs, make_embed(ghn), make_update(optimizer, config.average))
        self._workers = [
            concurrent.futures.ThreadPoolExecutor(
                parallel.threads_of_a_device(), thread_name_prefix=f"ghn_jax_device_{number}"
            )
            for number in range(len(self.programs.devices))
        ]
        self._keys = jax.jit(_dropout_key)
        some_chunk = PullBackChunk(Decode(ghn, Table.CLASS_BIAS, 1, CAPACITY), 1 / config.meta_batch, None)
        self._collect = Collect(some_chunk, config.meta_batch // parallel.num_devices())
        self._found = jax.eval_shape(self._collect, *self._collect.arguments)

    def close(self) -> None:
        """Ends all threads."""
        self.programs.close()
        for workers in self._workers:
            workers.shutdown(wait=True, cancel_futures=True)

    def prepare(self, state: TrainState, targets: Sequence[Network]) -> Prepared:
        """Deals a meta-batch out to the devices, makes their arrays, and begins to compile what they need.

        Args:
          state: whose shapes count.
          targets: the architectures.

        Raises:
          ExecutionError: a network that does not fit into the memory of a device.
        """
        config = self._config
        check_networks(tuple(targets), config)
        costs = [float(target.program.multiply_adds) for target in targets]
        dealt = shares(costs, parallel.num_devices())
        nodes = padded_nodes(max(target.graph.num_nodes for target in targets))
        here = parallel.local_shares(dealt)
        graphs = [graphs_of([targets[position].graph for position in share], nodes, self._ghn) for share in here]
        graphs = jax.tree.map(lambda *arrays: np.stack(arrays), *graphs)
        found = tuple(self._share(targets, share, costs) for share in here)
        self._mapped.begin(state, graphs, self._found)
        for share in found:
            for plan, decoding in zip(share.plans, share.decodings, strict=True):
                self.programs.begin(decoding.recipes())
                self.programs.begin(plan.recipes())
        self.programs.begin([self._collect])
        sums = [sum(costs[position] for position in share) for share in dealt]
        order = tuple(targets[position] for share in dealt for position in share)
        return Prepared(order, graphs, found, max(sums) / float(np.mean(sums)))

    def _share(self, targets: Sequence[Network], share: Sequence[int], costs: Sequence[float]) -> Share:
        config = self._config
        of_share = [targets[position] for position in share]
        return Share(
            positions=tuple(share),
            numbers=tuple(target.number for target in of_share),
            plans=tuple(plan_of(target, config) for target in of_share),
            decodings=tuple(
                Decoding(
                    target.program,
                    target.graph,
                    self._ghn,
                    capacity=CAPACITY,
                    first_node=first,
                    weight=1 / len(targets),
                    clip_norm=config.network_clip_norm,
                    norm_penalty=config.norm_penalty,
                )
                for target, first in zip(of_share, first_nodes([t.graph for t in of_share]), strict=True)
            ),
            first=tuple(sorted(range(len(share)), key=lambda number: -costs[share[number]])),
        )

    def step(
        self, state: TrainState, prepared: Prepared, images: np.ndarray, labels: np.ndarray | TaughtLabels
    ) -> tuple[TrainState, Metrics]:
        """The state after an update, and its metrics, both replicated; may return before they are computed.

        Args:
          state: replicated; its arrays are used up by the update, and only then.
          prepared: from `prepare`.
          images: float32 `[config.images_of_step, H, W, 3]`, normalised; scaled down for networks of smaller ones.
          labels: int32 `[config.images_of_step]`, with a teacher `TaughtLabels`.

        Raises:
          CompilationError: naming an operation.
          ExecutionError: a network that the device has no memory for, naming it.
        """
        nodes, pull_back = self._mapped.embed(state.params, prepared.graphs)
        running = [
            self._begin(device, share, state, nodes, images, labels) for device, share in enumerate(prepared.shares)
        ]
        collect = [self.programs.get(self._collect, device) for device in range(len(running))]
        try:
            found = [
                collect[device](*zip(*(future.result() for future in futures), strict=True))
                for device, futures in enumerate(running)
            ]
        except BaseException:
            for future in (future for futures in running for future in futures):
                future.cancel()
            raise
        return self._mapped.update(state, pull_back, parallel.join(found, like=nodes), prepared.graphs)

    def _begin(
        self, device: int, share: Share, state: TrainState, nodes: jax.Array, images: np.ndarray, labels: Any
    ) -> list[concurrent.futures.Future[tuple[Any, Loss, jax.Array]]]:
        """Begins to run the networks of a device; futures are in the order of the share."""
        params = parallel.part_of_device(decoder_params(state.params), device)
        embeddings = parallel.part_of_device(nodes, device)
        step = parallel.part_of_device(state.step, device)
        batch_of = functools.cache(functools.partial(self._batch, device, images, labels))
        batches = [
            batch_of(plan.program.task.image_size, position if self._config.own_images else 0)
            for plan, position in zip(share.plans, share.positions, strict=True)
        ]

        def run(number: int) -> tuple[Any, Loss, jax.Array]:
            plan = share.plans[number]
            network = plan.prepare(self.programs, device)
            tensors = DecodedTensors(share.decodings[number].prepare(self.programs, device), params, embeddings)
            key = self._keys(step, self._config.seed, share.positions[number])
            try:
                loss = value_and_grad(network, tensors, *batches[number], key)
                result = tensors.gradients(), loss, tensors.square
                jax.block_until_ready(result)
            except jax.errors.JaxRuntimeError as error:
                raise out_of_memory(error, share.numbers[number], self._config) from error
            return result

        futures = {number: self._workers[device].submit(own_settings()(run), number) for number in share.first}
        return [futures[number] for number in range(len(share.positions))]

    def _batch(self, device: int, images: np.ndarray, labels: Any, size: int, number: int) -> Batch:
        """Images and labels number `number` of a step on a device, scaled down to `size` pixels."""
        chosen = slice(number * self._config.batch_size, (number + 1) * self._config.batch_size)
        labels = jax.tree.map(lambda array: array[chosen], labels)
        return jax.device_put(Batch(smaller(images[chosen], size), labels), self.programs.devices[device])


def _dropout_key(step: jax.Array, seed: int, position: int) -> jax.Array:
    """Of a network in a step; `step` has a leading axis of length 1."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step[0]), position)


def out_of_memory(error: Exception, number: int, config: TrainConfig) -> Exception:
    """The error for a network that a device cannot run; any other than a lack of memory stays as it is."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return error
    return ExecutionError(
        f"architecture {number} does not fit into the memory of a device ({str(error).splitlines()[0]}): lower "
        f"config.batch_size={config.batch_size} or config.max_multiply_adds={config.max_multiply_adds}"
    )
