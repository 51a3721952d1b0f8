"""Convolution maths, and the only place that chooses how a backend computes it.

Arrays are NHWC, kernels HWIO; `padding` is symmetric zero padding `(height, width)` as in PyTorch.

On CPUs XLA runs a convolution fast only with its axes in the order of a forward one.  It brings others, such as
gradients, into this order at the top level of a program, but takes the input for the kernel where the kernel is the
larger of the two, and is a hundred times slower then.  So convolutions whose kernel is larger than the image are
written out here, with their gradients, with barriers that keep XLA from undoing it.  Grouped convolutions are tens of
times slower than sums of shifted products, which take their place.  And of the two libraries that XLA has for
convolutions it takes the slower one, unless `platforms.compiler_options` tell it not to.  Other platforms keep the
native convolution and its gradient.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ghn_jax.networks.blocking import blocks
from ghn_jax.networks.platforms import platform

Size = tuple[int, int]
"""Height and width."""

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

native_operations = jax.make_user_context(False)
"""`with native_operations(True):` all backends use XLA's own convolution and pooling, which tell what they compute."""


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves over an image."""

    kernel: Size
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: int = 1

    def output_size(self, size: Sequence[int]) -> Size:
        """Height and width of the output for an input of this height and width."""
        height, width = (
            (size[axis] + 2 * self.padding[axis] - self.dilation * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        return height, width

    def gradient_padding(self, size: Sequence[int], output_size: Sequence[int]) -> tuple[list[int], list[int]]:
        """Padding, before and after each axis, of the convolution that is the gradient with respect to the input.

        It may be negative: rows that no output depends on.
        """
        extent = [self.dilation * (kernel - 1) + 1 for kernel in self.kernel]
        low = [extent[axis] - 1 - self.padding[axis] for axis in (0, 1)]
        spread = [(output_size[axis] - 1) * self.stride[axis] + 1 for axis in (0, 1)]
        high = [size[axis] + extent[axis] - 1 - low[axis] - spread[axis] for axis in (0, 1)]
        return low, high

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
        return linear(x[:, :: window.stride[0], :: window.stride[1]], kernel[0, 0])
    if _written_out() and _is_larger(window, x.shape[1:3]):
        return _convolve_cpu(x, kernel, window)
    return _native(x, kernel, window)


def _is_larger(window: Window, size: Sequence[int]) -> bool:
    """Whether the kernel is larger than the image of this height and width, or than its output.

    Then XLA would take the one for the other, in the convolution or in its gradient.
    """
    return math.prod(window.kernel) > min(math.prod(size), math.prod(window.output_size(size)))


def linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`x [..., in] @ weight [in, out]`, with all other axes made one: on CPUs the gradient takes half the time so."""
    if native_operations.value:
        return x @ weight
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


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
    return platform() == "cpu" and not native_operations.value


def _native(x: jax.Array, kernel: jax.Array, window: Window, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=window.stride,
        padding=[(pad, pad) for pad in window.padding],
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def _in_forward_order(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: Sequence[int],
    padding: Sequence[Size],
    input_dilation: Sequence[int] = (1, 1),
    dilation: Sequence[int],
) -> jax.Array:
    """XLA's convolution, so that CPUs run it fast.

    XLA takes the input for the kernel where the kernel is the larger of the two, as with 5x5 kernels on 4x4 images, and
    CPUs are a hundred times slower then: so such inputs are padded before, behind a barrier.
    """
    if math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3]):
        pads = [(low, high, spread - 1) for (low, high), spread in zip(padding, input_dilation, strict=True)]
        x = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)]))
        padding, input_dilation = [(0, 0), (0, 0)], (1, 1)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=padding,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=_DIMENSIONS,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_cpu(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    padding = [(pad, pad) for pad in window.padding]
    return _in_forward_order(x, kernel, stride=window.stride, padding=padding, dilation=(window.dilation,) * 2)


def _convolve_forward(x, kernel, window):
    return _convolve_cpu(x, kernel, window), (x, kernel)


def _convolve_backward(window, residuals, cotangent):
    x, kernel = residuals
    return _input_gradient(x.shape, kernel, cotangent, window), _kernel_gradient(x, kernel.shape, cotangent, window)


def _input_gradient(shape: tuple[int, ...], kernel: jax.Array, cotangent: jax.Array, window: Window) -> jax.Array:
    """A convolution of the cotangent, spread out by the stride, with the kernel turned round."""
    low, high = window.gradient_padding(shape[1:3], cotangent.shape[1:3])
    return _in_forward_order(
        cotangent,
        lax.optimization_barrier(jnp.swapaxes(kernel[::-1, ::-1], 2, 3)),
        stride=(1, 1),
        padding=list(zip(low, high, strict=True)),
        input_dilation=window.stride,
        dilation=(window.dilation,) * 2,
    )


def _kernel_gradient(x: jax.Array, shape: tuple[int, ...], cotangent: jax.Array, window: Window) -> jax.Array:
    """A convolution of the input with the cotangent, in which batch and channels change places."""
    high = [
        (cotangent.shape[axis + 1] - 1) * window.stride[axis]
        + (shape[axis] - 1) * window.dilation
        + 1
        - x.shape[axis + 1]
        - window.padding[axis]
        for axis in (0, 1)
    ]
    gradient = _in_forward_order(
        lax.optimization_barrier(jnp.transpose(x, (3, 1, 2, 0))),
        lax.optimization_barrier(jnp.transpose(cotangent, (1, 2, 0, 3))),
        stride=(window.dilation,) * 2,
        padding=list(zip(window.padding, high, strict=True)),
        dilation=window.stride,
    )
    return jnp.transpose(gradient, (1, 2, 0, 3))


_convolve_cpu.defvjp(_convolve_forward, _convolve_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_cpu(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    # In operations of `lax`: thousands of these products are traced for a machine.
    values = [value for row in window.shifts(x) for value in row]
    factors = lax.split(kernel.reshape(len(values), -1), (1,) * len(values))
    products = (
        lax.mul(value, lax.broadcast_in_dim(factor, value.shape, (2, 3)))
        for value, factor in zip(values, factors, strict=True)
    )
    return functools.reduce(lax.add, products)


def _depthwise_forward(x, kernel, window):
    return _depthwise_cpu(x, kernel, window), (x, kernel)


def _depthwise_backward(window, residuals, cotangent):
    x, kernel = residuals

    def add_block(gradient, block):
        x, cotangent = block

        def kernel_row(shifts):
            return jnp.stack([jnp.sum(values * cotangent, axis=(0, 1, 2)) for values in shifts])

        return gradient + window.map_rows(kernel_row, x)[:, :, None], None

    zeros = jnp.zeros(kernel.shape, kernel.dtype)
    kernel_bar, _ = lax.scan(add_block, zeros, blocks((x, cotangent), x[0].size * x.dtype.itemsize))
    # The gradient with respect to x is a depthwise convolution too: of the cotangent, spread out by the stride,
    # with the kernel turned round.
    low, high = window.gradient_padding(x.shape[1:3], cotangent.shape[1:3])
    padding = [(0, 0, 0), *((low[axis], high[axis], window.stride[axis] - 1) for axis in (0, 1)), (0, 0, 0)]
    spread_cotangent = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), padding)
    whole = Window(window.kernel, dilation=window.dilation)
    x_bar = _depthwise_cpu(spread_cotangent, kernel[::-1, ::-1], whole)
    return x_bar, kernel_bar


_depthwise_cpu.defvjp(_depthwise_forward, _depthwise_backward)
