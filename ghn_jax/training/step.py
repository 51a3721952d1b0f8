"""What happens before and after the networks of a training step, on every device: embeddings, gradient and update.

graphs -> embeddings -> decoded rows -> networks -> losses -> gradient of the rows -> gradient of the weights -> update.
The way from the rows to their gradient is `decoded.py` and `execution.operations`; `engine.py` joins all of it.

Source: Knyazev et al. 2021, equation 2 (the loss, a mean over images and networks).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ghn_jax.execution.recipes import Loss
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.hypernetwork import Hypernetwork
from ghn_jax.ghn.programs import PullBackChunk, decoder_params
from ghn_jax.training.inputs import Graphs
from ghn_jax.training.optimizer import averaged

DEVICES = "devices"
"""Name of the axis over devices."""


class TrainState(NamedTuple):
    """Everything that an update changes.

    Attributes:
      step: counts all steps, skipped ones too.
      params: weights of the hypernetwork.
      opt_state: of the optimizer.
      average: moving average of the weights, None where the run has none.
    """

    step: jax.Array | np.ndarray
    params: Any
    opt_state: optax.OptState
    average: Any = None

    @property
    def result(self) -> Any:
        """The weights to predict with: their average if there is one."""
        return self.params if self.average is None else self.average


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


def init_state(params: Any, optimizer: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    """The state before the first step, with a moving average of the weights or without."""
    copy = jax.tree.map(jnp.array, params) if average else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), copy)


class Gradients(NamedTuple):
    """What the networks of a device leave behind.

    Attributes:
      decoders: gradient of the loss with respect to the decoder parameters.
      nodes: `[CAPACITY, hid]`, with respect to the embeddings.
      losses: `[M]`.
      correct: int32 `[M]`.
      norms: `[M]`, of each network's gradient with respect to its own parameters.
    """

    decoders: Any
    nodes: jax.Array
    losses: jax.Array
    correct: jax.Array
    norms: jax.Array


@dataclasses.dataclass(frozen=True)
class Collect:
    """The recipe that adds up what networks leave behind: (gradients, loss, sum of squares) of each -> `Gradients`.

    The results have a leading axis of length 1, over devices.  Networks are added in their order, whatever the order
    was in which they were run.

    Attributes:
      pull_back: of any chunk, which knows the shapes.
      networks: how many.
    """

    pull_back: PullBackChunk
    networks: int
    donated = ()

    @property
    def arguments(self):
        number = jax.ShapeDtypeStruct((), jnp.float32)
        loss = jax.eval_shape(lambda: Loss(jnp.zeros(()), jnp.zeros((), jnp.int32)))
        return ((self.pull_back.gradients,) * self.networks, (loss,) * self.networks, (number,) * self.networks)

    def __call__(self, gradients, losses, squares):
        decoders, nodes = functools.reduce(functools.partial(jax.tree.map, jnp.add), gradients)
        loss, correct = jax.tree.map(lambda *values: jnp.stack(values), *losses)
        found = Gradients(decoders, nodes, loss, correct, jnp.sqrt(jnp.stack(squares)))
        return jax.tree.map(lambda leaf: leaf[None], found)

    def __str__(self):
        return f"sum of the gradients of {self.networks} networks"


PullBack = Callable[[jax.Array], tuple[Any]]
"""From the gradient of embeddings to that of parameters: a pytree of arrays, which leaves one program for another."""


def make_embed(ghn: HypernetConfig) -> Callable[[Any, Graphs], tuple[jax.Array, PullBack]]:
    """The function of a device from the hypernetwork's parameters and `Graphs` to embeddings `[CAPACITY, hid]`."""

    def embed(params: Any, graphs: Graphs) -> tuple[jax.Array, PullBack]:
        def nodes(params: Any) -> jax.Array:
            padded: Any = Hypernetwork(ghn).apply({"params": params}, graphs.graphs, method="embed")
            return padded.reshape(-1, ghn.hid)[graphs.order]

        return jax.vjp(nodes, params)

    return embed


def make_update(
    optimizer: optax.GradientTransformation, average: float | None = None
) -> Callable[[TrainState, PullBack, Gradients], tuple[TrainState, Metrics]]:
    """The update of one device, to be mapped over the axis `DEVICES`; `average` is the decay of the moving average."""

    def step(state: TrainState, pull_back: PullBack, found: Gradients) -> tuple[TrainState, Metrics]:
        (gradient,) = pull_back(found.nodes)
        gradient = {**gradient, **jax.tree.map(jnp.add, decoder_params(gradient), found.decoders)}
        gradient = lax.psum(gradient, DEVICES)
        losses, correct, norms = lax.all_gather((found.losses, found.correct, found.norms), DEVICES)
        state, grad_norm, applied = update(optimizer, state, gradient, losses, average)
        return state, Metrics(losses, correct, norms, grad_norm, applied)

    return step


def update(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    gradient: Any,
    losses: jax.Array,
    average: float | None = None,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """The state after a step, the gradient's global norm, and whether both it and the losses are finite.

    If they are not, only the step is counted.
    """
    grad_norm = optax.tree.norm(gradient)
    applied = jnp.all(jnp.isfinite(losses)) & jnp.isfinite(grad_norm)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    mean = None if average is None else averaged(state.average, params, state.step, average)
    new = TrainState(state.step, params, opt_state, mean)
    new = jax.tree.map(lambda new, old: jnp.where(applied, new, old), new, state)
    return new._replace(step=state.step + 1), grad_norm, applied
