"""Primitives of training as in DARTS, which a network does not have when it is used (`lowering.lower_regularized`)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ghn_jax.networks.convolution import Window, pool
from ghn_jax.networks.primitives import Primitive


@dataclasses.dataclass(frozen=True)
class DropPath(Primitive):
    """In training, the input of some images is dropped and that of others enlarged, so that the mean stays.

    Source: Larsson et al., FractalNet, ICLR 2017; per image as in DARTS.
    """

    node_type: ClassVar[str | None] = None

    gradient_reads_inputs: ClassVar[bool] = False

    needs_key: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]
    takes_rate: ClassVar[bool] = True

    def __call__(self, params, *inputs, dropout_key: jax.Array | None = None, rate: Any = 0.0):
        (x,) = inputs
        if dropout_key is None:
            return x
        kept = jax.random.bernoulli(dropout_key, jnp.float32(1) - rate, (len(x),) + (1,) * (x.ndim - 1))
        return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), 0)


@dataclasses.dataclass(frozen=True)
class AuxiliaryPool(Primitive):
    """Means over windows, without padding, that leave 2x2 pixels of `size` x `size`.

    Of 8x8, 7x7 and 4x4 pixels the windows are those of DARTS and of the paper's code: 5x5 with a stride of 3, 5x5 with
    2, and 2x2.
    """

    node_type: ClassVar[str | None] = "avg_pool"

    gradient_reads_inputs: ClassVar[bool] = False

    size: int

    @property
    def window(self) -> Window:
        """How it moves over the image."""
        stride = self.size // 2 if self.size <= 4 else self.size // 2 - 1
        kernel = self.size - stride
        return Window((kernel, kernel), (stride, stride))

    @property
    def extent(self):
        return self.window.kernel

    def output_shape(self, shapes):
        height, width, channels = shapes[0]
        return (*self.window.output_size((height, width)), channels)

    def __call__(self, params, *inputs):
        return pool(inputs[0], self.window, jnp.add) / math.prod(self.window.kernel)
