"""How the hypernetwork's weights follow their gradient: optimizers, schedules of the learning rate, moving average."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from ghn_jax.training.config import TrainConfig


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping of the global norm, then the optimizer of the run with its schedule.

    "adam" adds the L2 penalty to the gradient, as the paper does (appendix B); "adamw" and "muon" shrink the weights
    themselves (Loshchilov and Hutter 2019).  "muon" orthogonalizes the momentum of matrices (Jordan et al. 2024), with
    updates as large as AdamW's (Liu et al. 2025), and leaves everything else to AdamW, both with Nesterov's momentum.
    """
    rate = make_schedule(config)
    match config.optimizer:
        case "adam":
            rule = optax.chain(
                optax.add_decayed_weights(config.weight_decay),
                optax.scale_by_adam(),
                optax.scale_by_learning_rate(rate),
            )
        case "adamw":
            rule = optax.adamw(rate, weight_decay=config.weight_decay)
        case "muon":
            rule = contrib.muon(
                rate,
                weight_decay=config.weight_decay,
                adam_weight_decay=config.weight_decay,
                muon_weight_dimension_numbers=matrices,
                consistent_rms=0.2,
            )
        case unknown:
            raise AssertionError(unknown)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate by step: a linear warm-up over `warm_up` of the run, then steps or a cosine down to zero."""
    warm_up = round(config.warm_up * config.steps)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(config.steps - warm_up, 1))
    else:
        boundaries = {int(share * config.steps) - warm_up: 0.1 for share in config.decay_at}
        after = optax.piecewise_constant_schedule(config.learning_rate, boundaries)
    if not warm_up:
        return after
    before = optax.linear_schedule(config.learning_rate / warm_up, config.learning_rate, max(warm_up - 1, 1))
    return optax.join_schedules([before, after], [warm_up])


def matrices(params: Any) -> Any:
    """For every parameter, how Muon reads it as matrices from inputs to outputs; None if it is not one.

    Tables of embeddings and biases are none: their rows are added to something, they multiply nothing.
    """

    def of(path: Any, leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
        match str(path[-1].key):
            case "kernel":  # of a decoder's last layer: a matrix for every input channel, which costs a fraction of one
                return contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=leaf.ndim - 1)
            case "position_kernel":  # a matrix for every position of a convolution
                return contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return None

    return jax.tree_util.tree_map_with_path(of, params)


def averaged(average: Any, params: Any, step: jax.Array | np.ndarray, decay: float) -> Any:
    """The moving average of the weights after an update, which is the one number `step`, from 0.

    In the first steps the average is over those alone: decay is at most (1 + step) / (10 + step).
    """
    share = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, average, params)
