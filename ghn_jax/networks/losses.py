"""The loss of the networks that a hypernetwork predicts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TaughtLabels(NamedTuple):
    """Labels, int32 `[B]`, and what a trained network thinks: probabilities of classes, float32 `[B, classes]`."""

    labels: Any
    taught: Any


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy of `logits [B, classes]` with smoothed `labels [B]` (Szegedy et al. 2016)."""
    log_probs = jax.nn.log_softmax(logits)
    hit = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return -jnp.mean((1 - label_smoothing) * hit + label_smoothing * jnp.mean(log_probs, axis=-1))


def distillation(logits: jax.Array, taught: jax.Array) -> jax.Array:
    """Mean cross-entropy of `logits [B, classes]` with probabilities `taught [B, classes]` (Hinton et al. 2015)."""
    return -jnp.mean(jnp.sum(taught * jax.nn.log_softmax(logits), axis=-1))
