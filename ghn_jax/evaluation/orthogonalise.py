"""GHN-orth: predicted parameters made less alike, as a start of training.

A hypernetwork repeats blocks along the channels of tensors that are larger than what it decodes.  Noise tells the
repeated blocks apart, and the weights of late layers become orthogonal.

Source: Knyazev, "Pretraining a Neural Network before Knowing Its Architecture", arXiv 2207.10049, and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ghn_jax.checks.fields import Flag, Real, Whole, taken
from ghn_jax.graphs.graph import Graph, GraphError, Role, Tensor

BETA = 3e-5
"""Scale of the noise for ResNet-50 and ConvNeXt."""

MAX_CHANNELS = 64
"""What a GHN-2 decodes; channels beyond are repeated."""

_MATRICES = (Role.WEIGHT, Role.DEPTHWISE_WEIGHT, Role.CLASS_WEIGHT)


def orthogonalise(
    graph: Graph,
    params: Any,
    *,
    beta: float = BETA,
    orthogonal: bool = True,
    layer: int = 1,
    max_channels: int = MAX_CHANNELS,
    seed: int = 0,
) -> Any:
    """The parameters with noise, and with orthogonal weights in late layers.

    Convolutions and linear layers are counted from 1 in the order of the graph.  The last one stays as it is.

    - Noise: a weight `[out, in, ...]` has Gaussian noise added where both channels are beyond `max_channels`, of scale
      `beta` times the deviation of the correlations between the rows of the weight as a matrix; weights and biases of
      the norms behind it likewise, where their channels are.
    - Orthogonal: layers from number `layer` on, with more outputs or inputs than `max_channels`, become the orthogonal
      factor of their QR decomposition, with the signs of its diagonal.

    Args:
      graph: of the network.
      params: what `predict_params` gave for it.
      beta: scale of the noise, 0 for none.
      orthogonal: False for noise alone.
      layer: for ResNet-50 the published number is 37.
      max_channels: the side of what the hypernetwork decodes.
      seed: of the noise.

    Returns:
      New parameters in the structure of `params`.

    Raises:
      GraphError: a scale, number or seed that is none.
    """
    beta = taken(beta, Real(0, 1e6), GraphError, "beta")
    orthogonal = taken(orthogonal, Flag(), GraphError, "orthogonal")
    layer = taken(layer, Whole(0, 1 << 30), GraphError, "layer")
    max_channels = taken(max_channels, Whole(0, 1 << 30), GraphError, "max_channels")
    rng = np.random.default_rng(taken(seed, Whole(0, 1 << 62), GraphError, "seed"))
    arrays = list(params.values()) if graph.tree is None else graph.tree.arrays(params)
    leaves = [np.array(array) for array in arrays]
    tensors = [(tensor, _view(graph, place, leaves)) for place, tensor in enumerate(graph.tensors)]
    layers = sum(tensor.role in _MATRICES for tensor in graph.tensors)
    norms = {tensor.node for tensor in graph.tensors if tensor.role is Role.NORM_WEIGHT}
    number, scale = 0, 0.0
    for tensor, values in tensors:
        number += tensor.role in _MATRICES
        if number == layers or values is None:
            continue
        if tensor.role in _MATRICES:
            weight = np.moveaxis(values, (-1, -2), (0, 1))  # [out, in, ...], a view
            if beta > 0:
                scale = beta * _deviation_of_correlations(weight)
                beyond = weight[max_channels:, max_channels:]
                beyond += scale * rng.standard_normal(beyond.shape, np.float32)
            if orthogonal and number >= layer and max(weight.shape[:2]) > max_channels:
                weight[...] = _orthogonal(weight)
        elif tensor.node in norms and beta > 0:
            beyond = values[max_channels:]
            beyond += scale * rng.standard_normal(beyond.shape, np.float32)
    if graph.tree is None:
        return dict(zip(params, leaves, strict=True))
    return graph.tree.rebuild([leaf.astype(array.dtype) for leaf, array in zip(leaves, arrays, strict=True)])


def _view(graph: Graph, place: int, leaves: Sequence[np.ndarray]) -> np.ndarray | None:
    """The values of a tensor, as a view of the leaf that it belongs to; None where it shares none."""
    tensor: Tensor = graph.tensors[place]
    if tensor.place is None:
        return leaves[place]
    return tensor.place.buffer(leaves[tensor.place.leaf], tensor.shape)


def _matrix(weight: np.ndarray) -> tuple[np.ndarray, bool]:
    """A weight `[out, in, ...]` as a matrix of at least as many rows as columns, and whether it was transposed."""
    flat = weight.reshape(weight.shape[0], -1)
    return (flat.T, True) if flat.shape[0] < flat.shape[1] else (flat, False)


def _deviation_of_correlations(weight: np.ndarray) -> float:
    """Standard deviation of the correlations between all rows; 0 where rows have none."""
    matrix, _ = _matrix(weight)
    centred = matrix - matrix.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    if matrix.shape[1] < 2 or not norms.all():
        return 0.0
    centred /= norms[:, None]
    return float(np.std(centred @ centred.T, ddof=1))


def _orthogonal(weight: np.ndarray) -> np.ndarray:
    """The orthogonal factor of a weight, in its shape."""
    matrix, transposed = _matrix(weight)
    factor, triangle = np.linalg.qr(matrix)
    factor = factor * np.sign(np.diag(triangle))
    return (factor.T if transposed else factor).reshape(weight.shape)
