"""One update of a hypernetwork: predict a meta-batch of networks, run them, differentiate all the way back.

Source: Knyazev et al. 2021, equation 2 (the loss, a mean over images and networks).

The gradient goes through two compiled parts with NumPy between them: the hypernetwork (compiled once for every size
of padded meta-batch) and the networks' instructions (`ghn_jax.dispatch`).
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax

from ghn_jax import dispatch, padding
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.fit import fit
from ghn_jax.ghn.hypernetwork import Decoded, Hypernetwork
from ghn_jax.ghn.requests import Placement, Requests, Sizes, pad_requests, request, rows_of
from ghn_jax.graph import Role, Tensor
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.targets import Target


class TrainState(NamedTuple):
    """Everything that an update changes."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """Of one step: mean loss, share of images classified correctly, global norm of the gradient before clipping,
    and the losses of the networks `[meta_batch]`."""

    loss: float
    accuracy: float
    grad_norm: float
    losses: np.ndarray


class NonFiniteLossError(FloatingPointError):
    """A loss or gradient that is not finite; the state before the step is still good."""


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping, L2 penalty in the gradient and Adam with a stepwise schedule (appendix B)."""
    boundaries = {int(share * config.steps): 0.1 for share in config.decay_at}
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(optax.piecewise_constant_schedule(config.learning_rate, boundaries)),
    )


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


class Trainer:
    """The update for one hypernetwork and optimiser; holds compiled functions, no state of the run."""

    def __init__(
        self,
        ghn: HypernetConfig,
        optimizer: optax.GradientTransformation,
        label_smoothing: float,
        seed: int,
        network_clip_norm: float | None = None,
    ):
        self._config = ghn
        self._label_smoothing = label_smoothing
        self._network_clip_norm = network_clip_norm
        self._dropout_key = jax.random.key(seed)
        model = Hypernetwork(ghn)

        def decode(params, graphs, requests):
            return jax.vjp(lambda params: model.apply({"params": params}, graphs, requests), params)

        def update(state: TrainState, pull_back, cotangent: Decoded):
            (gradient,) = pull_back(cotangent)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(state.step + 1, params, opt_state), optax.tree.norm(gradient)

        self._threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ghn_jax_networks")
        self._decode = jax.jit(decode)
        self._update = jax.jit(update)

    def step(
        self, state: TrainState, targets: Sequence[Target], images: np.ndarray, labels: np.ndarray
    ) -> tuple[TrainState, Metrics]:
        """The state after one update, and its metrics.

        Args:
          state: before the update.
          targets: the meta-batch.
          images: float32 `[B, H, W, 3]`, normalised.
          labels: int32 `[B]`.

        Raises:
          NonFiniteLossError: naming the step and the architectures whose loss or gradient is not finite.
        """
        graphs, requests, placements = pad_meta_batch(targets, self._config)
        decoded, pull_back = self._decode(state.params, graphs, requests)
        decoded = Decoded(*map(np.asarray, decoded))
        cotangent = Decoded(*map(np.zeros_like, decoded))
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        step_key = jax.random.fold_in(self._dropout_key, int(state.step))
        # Single instructions rarely keep all cores busy; networks are independent of each other.
        results = list(
            self._threads.map(
                lambda item: self._network(*item[1], decoded, cotangent, images, labels, step_key, item[0]),
                enumerate(zip(targets, placements, strict=True)),
            )
        )
        losses = [float(gradients.loss) for gradients in results]
        correct = sum(int(gradients.correct) for gradients in results)
        bad = [target.number for target, loss in zip(targets, losses, strict=True) if not np.isfinite(loss)]
        if bad:
            raise NonFiniteLossError(f"step {int(state.step)}: the loss of train architectures {bad} is not finite")
        for table in cotangent:
            table /= len(targets)
        new_state, grad_norm = self._update(state, pull_back, cotangent)
        if not np.isfinite(grad_norm):
            numbers = [target.number for target in targets]
            raise NonFiniteLossError(
                f"step {int(state.step)}: the gradient is not finite, the train architectures were {numbers}"
            )
        return new_state, Metrics(
            float(np.mean(losses)), correct / (len(targets) * len(labels)), float(grad_norm), np.array(losses)
        )

    def compile(self, targets: Sequence[Target], batch_size: int) -> None:
        """Compiles what the instructions of `targets` still need; may run in a thread beside `step`."""
        dispatch.compile_signatures([target.program for target in targets], batch_size)

    def _network(self, target, places, decoded, cotangent, images, labels, step_key, index) -> dispatch.Gradients:
        """Runs one network and adds its part to the cotangent of the decoded rows."""
        weight_norm = self._config.weight_norm
        tensors = target.graph.tensors
        rows = [decoded[place.table][place.start : place.start + place.rows] for place in places]
        params = {
            tensor.name: _fit(tensor.role, tensor.shape, weight_norm)(values)
            for tensor, values in zip(tensors, rows, strict=True)
        }
        gradients = dispatch.value_and_grad(
            target.program,
            params,
            images,
            labels,
            dropout_key=jax.random.fold_in(step_key, index),
            label_smoothing=self._label_smoothing,
        )
        if self._network_clip_norm is not None:
            gradients = gradients._replace(params=clip_by_norm(gradients.params, self._network_clip_norm))
        pulled = [
            _fit_backward(tensor.role, tensor.shape, weight_norm)(values, gradients.params[tensor.name])
            for tensor, values in zip(tensors, rows, strict=True)
        ]
        for place, bar in zip(places, pulled, strict=True):
            cotangent[place.table][place.start : place.start + place.rows] += np.asarray(bar)
        return gradients


def clip_by_norm(gradients: Mapping[str, jax.Array], largest: float) -> dict[str, np.ndarray]:
    """The gradients scaled down to a global norm of at most `largest`; what is not finite stays so."""
    gradients = {name: np.asarray(values) for name, values in gradients.items()}
    # In float64, where the squares of float32 numbers cannot overflow.
    norm = np.sqrt(sum(np.sum(np.square(values, dtype=np.float64)) for values in gradients.values()))
    if norm <= largest:
        return gradients
    scale = np.float32(largest / norm)
    return {name: values * scale for name, values in gradients.items()}


def pad_meta_batch(
    targets: Sequence[Target], config: HypernetConfig
) -> tuple[jraph.GraphsTuple, Requests, tuple[tuple[Placement, ...], ...]]:
    """The graphs of a meta-batch padded to one size, the rows they need, and where each tensor finds its own."""
    graphs = [target.graph for target in targets]
    largest = max(graph.num_nodes for graph in graphs)
    nodes = next((size for size in _NODES if largest < size), None) or padding.bucket(largest)
    requests, placements = request(graphs, nodes, config)
    padded = padding.stack([padding.pad(graph, nodes, config.max_distance) for graph in graphs])
    rows = rows_of(requests)
    doublings = 0
    while any(need > size << doublings for need, size in zip(rows[:3], _ROWS[:3], strict=True)):
        doublings += 1
    sizes = Sizes(*(size << doublings for size in _ROWS[:3]), classes=len(graphs))
    return padded, pad_requests(requests, sizes), placements


# Coarser steps than in prediction: the hypernetwork's gradient takes many seconds to compile for every combination,
# and its time is a small part of a step.
_NODES = (256, 512, 1024, 2304)
_ROWS = Sizes(dense=512, depthwise=512, vector=256, classes=1)


@functools.cache
def _fit(role: Role, shape: tuple[int, ...], weight_norm: bool):
    tensor = Tensor("", 0, role, shape)
    return jax.jit(lambda rows: fit(rows, tensor, weight_norm, jnp))


@functools.cache
def _fit_backward(role: Role, shape: tuple[int, ...], weight_norm: bool):
    tensor = Tensor("", 0, role, shape)

    def backward(rows, cotangent):
        _, pull_back = jax.vjp(lambda rows: fit(rows, tensor, weight_norm, jnp), rows)
        return pull_back(cotangent)[0]

    return jax.jit(backward)
