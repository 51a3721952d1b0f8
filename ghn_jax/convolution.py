"""Convolution maths, and the only place that chooses how a backend computes it.

Arrays are NHWC, kernels HWIO; `padding` is symmetric zero padding `(height, width)` as in PyTorch.

On CPUs XLA's gradient of a convolution with respect to its kernel is several times slower than the matrix products
it amounts to, and grouped convolutions are tens of times slower than sums of shifted products, so there both are
written out here.  Other backends keep the native convolution and its gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Size = tuple[int, int]

native_operations = jax.make_user_context(False)
"""`with native_operations(True):` all backends use XLA's own convolution and pooling, which tell what they compute."""


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves over an image."""

    kernel: Size
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: int = 1

    def output_size(self, size: Size) -> Size:
        """Height and width of the output for an input of this height and width."""
        height, width = (
            (size[axis] + 2 * self.padding[axis] - self.dilation * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        return height, width

    def shifts(self, x: jax.Array, padding_value: float = 0.0) -> list[list[jax.Array]]:
        """For every kernel position `[ky][kx]` the values of `x` that it meets, each `[B, H', W', C]`."""
        height, width = self.output_size(x.shape[1:3])
        pads = ((0, 0), (self.padding[0],) * 2, (self.padding[1],) * 2, (0, 0))
        padded = jnp.pad(x, pads, constant_values=padding_value)

        def met(position: int, outputs: int, stride: int) -> slice:
            start = position * self.dilation
            return slice(start, start + (outputs - 1) * stride + 1, stride)

        rows = [met(ky, height, self.stride[0]) for ky in range(self.kernel[0])]
        columns = [met(kx, width, self.stride[1]) for kx in range(self.kernel[1])]
        return [[padded[:, row, column] for column in columns] for row in rows]

    def map_rows(self, function: Callable[[list[jax.Array]], jax.Array], x: jax.Array) -> jax.Array:
        """`function(self.shifts(x)[ky])` for every `ky`, stacked; compiled once for all of them."""
        height, width = self.output_size(x.shape[1:3])
        (sy, sx), step = self.stride, self.dilation
        padded = jnp.pad(x, ((0, 0), (self.padding[0],) * 2, (self.padding[1],) * 2, (0, 0)))

        def row(ky):
            lines = lax.dynamic_slice_in_dim(padded, ky * step, (height - 1) * sy + 1, axis=1)[:, ::sy]
            starts = [kx * step for kx in range(self.kernel[1])]
            return function([lines[:, :, start : start + (width - 1) * sx + 1 : sx] for start in starts])

        return lax.map(row, jnp.arange(self.kernel[0]))


def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Dense convolution of `x [B, H, W, in]` with `kernel [kh, kw, in, out]`."""
    if window.kernel == (1, 1) and window.padding == (0, 0) and not native_operations.value:
        return x[:, :: window.stride[0], :: window.stride[1]] @ kernel[0, 0]
    if _written_out():
        return _convolve_cpu(x, kernel, window)
    return _native(x, kernel, window)


def convolve_depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Depthwise convolution of `x [B, H, W, channels]` with `kernel [kh, kw, 1, channels]`."""
    if _written_out():
        return _depthwise_cpu(x, kernel, window)
    return _native(x, kernel, window, groups=x.shape[-1])


def pool(x: jax.Array, window: Window, operation: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Maximum or sum (`jnp.maximum`, `jnp.add`) of `x [B, H, W, C]` over a window; padding counts for nothing."""
    neutral = -jnp.inf if operation is jnp.maximum else 0.0
    if native_operations.value:
        monoid = lax.max if operation is jnp.maximum else lax.add
        pads = ((0, 0), *((pad, pad) for pad in window.padding), (0, 0))
        return lax.reduce_window(x, neutral, monoid, (1, *window.kernel, 1), (1, *window.stride, 1), pads)
    return functools.reduce(operation, [values for row in window.shifts(x, neutral) for values in row])


def _written_out() -> bool:
    return jax.default_backend() == "cpu" and not native_operations.value


def _native(x: jax.Array, kernel: jax.Array, window: Window, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=window.stride,
        padding=[(pad, pad) for pad in window.padding],
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_cpu(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return _native(x, kernel, window)


def _convolve_forward(x, kernel, window):
    return _native(x, kernel, window), (x, kernel)


def _convolve_backward(window, residuals, cotangent):
    x, kernel = residuals
    _, pull_back = jax.vjp(lambda x: _native(x, kernel, window), x)
    flat = cotangent.reshape(-1, cotangent.shape[-1])

    def kernel_row(shifts):
        return jnp.stack([values.reshape(-1, x.shape[-1]).T @ flat for values in shifts])

    return (*pull_back(cotangent), window.map_rows(kernel_row, x))


_convolve_cpu.defvjp(_convolve_forward, _convolve_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_cpu(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    shifts = window.shifts(x)
    return sum(shifts[ky][kx] * kernel[ky, kx, 0] for ky in range(window.kernel[0]) for kx in range(window.kernel[1]))


def _depthwise_forward(x, kernel, window):
    return _depthwise_cpu(x, kernel, window), (x, kernel)


def _depthwise_backward(window, residuals, cotangent):
    x, kernel = residuals

    def kernel_row(shifts):
        return jnp.stack([jnp.sum(values * cotangent, axis=(0, 1, 2)) for values in shifts])

    kernel_bar = window.map_rows(kernel_row, x)[:, :, None]
    # The gradient with respect to x is a depthwise convolution too: of the cotangent, spread out by the stride,
    # with the kernel turned round.
    extent = [window.dilation * (size - 1) + 1 for size in window.kernel]
    low = [extent[axis] - 1 - window.padding[axis] for axis in (0, 1)]
    spread = [(cotangent.shape[axis + 1] - 1) * window.stride[axis] + 1 for axis in (0, 1)]
    high = [x.shape[axis + 1] + extent[axis] - 1 - low[axis] - spread[axis] for axis in (0, 1)]
    padding = [(0, 0, 0), *((low[axis], high[axis], window.stride[axis] - 1) for axis in (0, 1)), (0, 0, 0)]
    spread_cotangent = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), padding)
    whole = Window(window.kernel, dilation=window.dilation)
    x_bar = _depthwise_cpu(spread_cotangent, kernel[::-1, ::-1], whole)
    return x_bar, kernel_bar


_depthwise_cpu.defvjp(_depthwise_forward, _depthwise_backward)
