"""One update of a hypernetwork as one pure function: predict networks, run them, differentiate all the way back.

graphs -> embeddings -> decoded rows -> networks -> losses -> gradient of the rows -> gradient of the weights -> Adam.

Source: Knyazev et al. 2021, equation 2 (the loss, a mean over images and networks).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ghn_jax.ghn.chunks import decode
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.hypernetwork import Decoded, Hypernetwork
from ghn_jax.machine.parameters import DecodedRows
from ghn_jax.machine.run import value_and_grad
from ghn_jax.machine.table import Table
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.inputs import StepInputs

DEVICES = "devices"
"""Name of the axis over devices."""


class TrainState(NamedTuple):
    """Everything that an update changes; `step` counts all steps, skipped ones too."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """Of one step, over all devices.

    Attributes:
      losses: `[devices, M]`, of every network.
      correct: int32 `[devices, M]`, images classified correctly.
      norms: `[devices, M]`, norms of the gradients with respect to the networks' own parameters.
      grad_norm: global norm of the hypernetwork's gradient, before clipping.
      applied: whether the update was made; it is not if any of these numbers is not finite.
    """

    losses: jax.Array
    correct: jax.Array
    norms: jax.Array
    grad_norm: jax.Array
    applied: jax.Array


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


def make_step(
    ghn: HypernetConfig,
    optimizer: optax.GradientTransformation,
    table: Table,
    *,
    seed: int,
    label_smoothing: float = 0.0,
    network_clip_norm: float | None = None,
) -> Callable[..., tuple[TrainState, jax.Array, Metrics]]:
    """The update of one device, to be mapped over the axis `DEVICES`.

    Returns:
      A function of the state, the machine's memory `[units, UNIT]` (whose type activations are computed in), the
      `StepInputs` of the device, images `[B, H, W, 3]` and labels `[B]`; it returns the new state, the memory and the
      `Metrics`.
    """

    def step(state: TrainState, memory: jax.Array, inputs: StepInputs, images: jax.Array, labels: jax.Array):
        decoded, pull_back = jax.vjp(lambda params: predict_rows(ghn, params, inputs), state.params)
        step_key = jax.random.fold_in(jax.random.key(seed), state.step)
        outcome, memory = value_and_grad(
            table,
            DecodedRows(ghn.weight_norm),
            inputs.code,
            decoded,
            images,
            labels,
            memory=memory,
            dropout_keys=jax.vmap(lambda network: jax.random.fold_in(step_key, network))(inputs.networks),
            label_smoothing=label_smoothing,
        )
        weights = jnp.full_like(outcome.norms, 1 / (lax.axis_size(DEVICES) * len(inputs.networks)))
        if network_clip_norm is not None:
            weights *= jnp.minimum(1.0, network_clip_norm / outcome.norms)
        (gradient,) = pull_back(_scale(outcome.bars, weights, inputs))
        gradient = lax.psum(gradient, DEVICES)
        losses, correct, norms = lax.all_gather((outcome.losses, outcome.correct, outcome.norms), DEVICES)
        state, grad_norm, applied = update(optimizer, state, gradient, losses)
        return state, memory, Metrics(losses, correct, norms, grad_norm, applied)

    return step


def predict_rows(ghn: HypernetConfig, params: Any, inputs: StepInputs) -> Decoded:
    """The decoded rows of a meta-batch."""
    nodes = Hypernetwork(ghn).apply({"params": params}, inputs.graphs, method="embed").reshape(-1, ghn.hid)
    return decode(ghn, params, nodes, inputs.requests, inputs.rows)


def update(
    optimizer: optax.GradientTransformation, state: TrainState, gradient: Any, losses: jax.Array
) -> tuple[TrainState, jax.Array, jax.Array]:
    """The state after a step, the gradient's global norm, and whether both it and the losses are finite.

    If they are not, only the step is counted.
    """
    grad_norm = optax.tree.norm(gradient)
    applied = jnp.all(jnp.isfinite(losses)) & jnp.isfinite(grad_norm)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    new = TrainState(state.step, optax.apply_updates(state.params, updates), opt_state)
    new = jax.tree.map(lambda new, old: jnp.where(applied, new, old), new, state)
    return new._replace(step=state.step + 1), grad_norm, applied


def _scale(bars: Decoded, weights: jax.Array, inputs: StepInputs) -> Decoded:
    """Gradients of the decoded rows, those of every network times its weight."""
    nodes = inputs.graphs.nodes["type"].shape[1]
    requests = inputs.requests
    owners = (
        requests.dense_node,
        requests.depthwise_node,
        requests.vector_node,
        requests.class_weight_node,
        requests.class_bias_node,
    )
    return Decoded(
        *(
            rows * weights[owner // nodes].reshape(-1, *[1] * (rows.ndim - 1))
            for rows, owner in zip(bars, owners, strict=True)
        )
    )
