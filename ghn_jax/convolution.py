"""Convolution maths, and the only place that chooses how a backend computes it.

Arrays are NHWC, kernels HWIO; `padding` is symmetric zero padding `(height, width)` as in PyTorch.

XLA's CPU backend computes grouped convolutions, and above all their gradients, many times slower than a sum of
shifted products, and every gradient of a convolution about 14 times slower inside a branch of `lax.switch` than
outside; written as shifts and matrix products both penalties are gone.  On other backends the native convolution
is kept.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

Size = tuple[int, int]


def output_size(size: Size, kernel: Size, stride: Size, padding: Size, dilation: int = 1) -> Size:
    """Height and width of a convolution's or pooling's output."""
    height, width = (
        (size[axis] + 2 * padding[axis] - dilation * (kernel[axis] - 1) - 1) // stride[axis] + 1 for axis in (0, 1)
    )
    return height, width


def convolve(x: jax.Array, kernel: jax.Array, *, stride: Size, padding: Size, dilation: int) -> jax.Array:
    """Dense convolution of `x [B, H, W, in]` with `kernel [kh, kw, in, out]`."""
    kh, kw = kernel.shape[:2]
    if (kh, kw) == (1, 1) and padding == (0, 0):
        return x[:, :: stride[0], :: stride[1]] @ kernel[0, 0]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=[(padding[0],) * 2, (padding[1],) * 2],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve_depthwise(x: jax.Array, kernel: jax.Array, *, stride: Size, padding: Size, dilation: int) -> jax.Array:
    """Depthwise convolution of `x [B, H, W, channels]` with `kernel [kh, kw, 1, channels]`."""
    if jax.default_backend() == "cpu":
        return _shifted_products(x, kernel, stride, padding, dilation)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=[(padding[0],) * 2, (padding[1],) * 2],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted_windows(x: jax.Array, kernel: Size, stride: Size, padding: Size, dilation: int) -> list[list[jax.Array]]:
    """For every kernel position `[ky][kx]` the input values it meets, each `[B, H', W', channels]`."""
    height, width = output_size(x.shape[1:3], kernel, stride, padding, dilation)
    padded = jnp.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    return [
        [
            padded[
                :,
                ky * dilation : ky * dilation + (height - 1) * stride[0] + 1 : stride[0],
                kx * dilation : kx * dilation + (width - 1) * stride[1] + 1 : stride[1],
            ]
            for kx in range(kernel[1])
        ]
        for ky in range(kernel[0])
    ]


def _shifted_products(x: jax.Array, kernel: jax.Array, stride: Size, padding: Size, dilation: int) -> jax.Array:
    kh, kw = kernel.shape[:2]
    windows = shifted_windows(x, (kh, kw), stride, padding, dilation)
    return sum(windows[ky][kx] * kernel[ky, kx, 0] for ky in range(kh) for kx in range(kw))
