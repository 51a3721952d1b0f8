"""Predicted parameters straight into an NNX module."""

from __future__ import annotations

import sys
from typing import Any

from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Graph
from ghn_jax.prediction.predict import predict_params
from ghn_jax.tracing import trace


def fill(
    module: Any, *inputs: Any, ghn: GHN | None = None, seed: int = 0, strict: bool = False, **kwargs: Any
) -> Graph:
    """Predicts the parameters of an NNX module for `inputs` and puts them into it.

        print(ghn_jax.report(ghn_jax.fill(module, images)))

    Args:
      module: an `nnx.Module`.
      *inputs, strict, **kwargs: as in `trace`.
      ghn, seed: as in `predict_params`.

    Returns:
      Its graph.

    Raises:
      TypeError: something that is not an NNX module.
      TraceError, GraphError: as `trace` and `predict_params`; the module is left as it was.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> module = nnx.Linear(8, 10, rngs=nnx.Rngs(0))
    >>> graph = ghn_jax.fill(module, jnp.ones((1, 8)))
    >>> graph.num_params
    90
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(module, nnx.Module):
        raise TypeError(f"fill expected an NNX module, got {type(module).__name__}; Linen modules hold no parameters")
    graph = trace(module, *inputs, strict=strict, **kwargs)
    nnx.update(module, predict_params(graph, ghn, seed=seed))
    return graph
