"""From decoded rows to a tensor of the target's shape.

Slice to at most the target's shape, normalise, interpolate kernels that are larger than the decoder's, repeat whole
blocks along the output and then the input channels, and cut.  The original normalises last; the order changes nothing,
since every element is treated alike, and normalising the small block touches far fewer elements.

Source: Knyazev et al. 2021, section 4.3 and appendix B.1; Knyazev et al. 2023 (interpolation).
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.rows import decoded_kernel
from ghn_jax.graphs.graph import Role, Tensor
from ghn_jax.networks.primitives import Array


def fit(rows: Array, tensor: Tensor, config: HypernetConfig, xp: ModuleType) -> Array:
    """The tensor predicted by its decoded rows.

    Args:
      rows: `decoded[table][start : start + rows]` of its `Placement`.
      tensor: the target.
      config: of the hypernetwork.
      xp: `numpy`, which compiles nothing, or `jax.numpy`, which can be differentiated.

    Returns:
      An array of shape `tensor.shape`.
    """
    values = block(rows, tensor, config, xp)
    return tile(values, tensor.shape, xp)


def fit_into(out: np.ndarray, rows: np.ndarray, tensor: Tensor, config: HypernetConfig) -> None:
    """Writes what `fit` returns into `out`, every element once."""
    tile_into(out, np.asarray(block(rows, tensor, config, np)))


def block(rows: Array, tensor: Tensor, config: HypernetConfig, xp: ModuleType) -> Array:
    """The part of the tensor that is decoded, normalised: `tensor.shape` or smaller along its channels."""
    shape = tensor.shape
    match tensor.role:
        case Role.WEIGHT | Role.CLASS_WEIGHT | Role.EMBEDDING:
            values = rows[:, : shape[-2], : shape[-1]]
        case Role.DEPTHWISE_WEIGHT:
            values = rows[:, None, : shape[-1]]
        case Role.POSITION:
            values = rows[:, : shape[-1], 0]
        case Role.NORM_WEIGHT:
            values = rows[0, 0, : shape[0]]
        case Role.BIAS:
            values = rows[0, 1, : shape[0]]
        case Role.CLASS_BIAS:
            values = rows[0]
    if config.weight_norm:
        values = normalise_predicted(values, tensor, xp)
    target = tensor.shape4[2:]
    if (decoded := decoded_kernel(*target, config)) != target:
        values = stretch(values.reshape(*decoded, *values.shape[1:]), target)
    channels = 1 if tensor.role is Role.POSITION else min(2, len(shape))
    return values.reshape(shape[:-channels] + values.shape[values.ndim - channels :])


def normalise_predicted(values: Array, tensor: Tensor, xp: ModuleType) -> Array:
    """Values of any part of `tensor` scaled by its fan-in, or squashed if they are norm weights or biases.

    Positional encodings and embeddings stay as they are.  (The original leaves only those encodings alone that are 11
    or more high, the ones that its networks have.)
    """
    match tensor.role:
        case Role.POSITION | Role.EMBEDDING:
            return values
        case Role.NORM_WEIGHT:
            return 1 + xp.tanh(0.25 * values)  # 2 sigmoid(values / 2), without overflow
        case Role.BIAS | Role.CLASS_BIAS:
            return xp.tanh(0.2 * values)
    return values * np.float32(fan_in_scale(tensor))


def stretch(values: Array, target: tuple[int, int]) -> Array:
    """Values `[h, w, ...]` interpolated linearly to `[*target, ...]`; a value is that of a pixel's centre."""
    for axis, length in enumerate(target):
        given = values.shape[axis]
        if given == length:
            continue
        places = np.maximum((np.arange(length) + 0.5) * given / length - 0.5, 0)
        before = places.astype(np.int32)
        after = np.minimum(before + 1, given - 1)
        share = (places - before).astype(np.float32).reshape(-1, *(1,) * (values.ndim - axis - 1))
        index = (slice(None),) * axis
        values = (1 - share) * values[(*index, before)] + share * values[(*index, after)]
    return values


def fan_in_scale(tensor: Tensor) -> float:
    """sqrt(beta / fan-in) of a weight: beta is 2, or 1 for convolutions that no ReLU follows.

    Those are taken to be the convolutions with one input channel a filter and the wide ones (1x7).
    """
    _, inputs, height, width = tensor.shape4
    convolution = len(tensor.shape) == 4
    beta = 1 if convolution and (inputs == 1 or height < width) else 2
    return (beta / (inputs * height * width)) ** 0.5


def tile(values: Array, shape: tuple[int, ...], xp: ModuleType) -> Array:
    """`values` repeated in whole blocks along the last axis, then the last but one, and cut to `shape`."""
    for axis in range(len(shape) - 1, max(len(shape) - 3, -1), -1):
        if values.shape[axis] < shape[axis]:
            times = -(-shape[axis] // values.shape[axis])
            values = xp.concatenate([values] * times, axis=axis)
            values = values[(slice(None),) * axis + (slice(shape[axis]),)]
    return values


_APART = 1 << 16
"""Elements of a kernel position from which on it is written by itself."""


def tile_into(out: np.ndarray, values: np.ndarray) -> None:
    """Writes what `tile` returns into `out`."""
    if out.ndim == 1:
        _repeat_into(out, values, axis=0)
    elif out.ndim > 2 and out.shape[-2] * out.shape[-1] >= _APART:
        # One position after the other: fresh memory is written while the zeros of the system are still in the cache.
        for part, block in zip(out, values, strict=True):
            tile_into(part, block)
    else:
        first = out[..., : values.shape[-2], :]
        _repeat_into(first, values, axis=out.ndim - 1)
        if first.shape[-2] < out.shape[-2]:
            _repeat_into(out, first, axis=out.ndim - 2, written=True)


def _repeat_into(out: np.ndarray, values: np.ndarray, axis: int, written: bool = False) -> None:
    """Fills `out` with `values` repeated along `axis`; `written` says that the first repetition is there already."""
    length, total = values.shape[axis], out.shape[axis]
    if length == total:
        out[...] = values
        return
    times = total // length
    before = (slice(None),) * axis
    whole = out[(*before, slice(times * length))]
    # Splitting an axis never copies, so this is a view into `out`.
    blocks = whole.reshape(*whole.shape[:axis], times, length, *whole.shape[axis + 1 :])
    blocks[(*before, slice(int(written), None))] = values[(*before, None)]
    if total > times * length:
        out[(*before, slice(times * length, None))] = values[(*before, slice(total - times * length))]
