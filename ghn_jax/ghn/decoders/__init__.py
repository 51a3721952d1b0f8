"""Decoders: from node embeddings to rows of parameters, one module a kind.

All work position by position: what they predict at kernel position (y, x) depends on the node's embedding and on
(y, x) alone.  So kernels of all sizes are decoded together, as rows of one (node, position) pair each, and nothing is
decoded that is not used.  The original decodes groups of equal kernel size instead, in slices that for some numbers of
input channels (20, for example) mix up the axes; here the slice is always the leading one.  A position is `y * S + x`
with S the side of the largest kernel; rows come out as `[in, out]`, the last axes of a kernel in JAX layout.

Source: Knyazev et al. 2021, appendix B.1; Zhang et al., ICLR 2019; Knyazev et al. 2023 (centre).
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, ClassVar, Protocol

import jax

DECODERS = {
    "conv": "ghn_jax.ghn.decoders.conv:ConvDecoder",
    "conv3": "ghn_jax.ghn.decoders.conv3:CenteredConvDecoder",
    "mlp": "ghn_jax.ghn.decoders.mlp:MLPDecoder",
}
"""Modules of Flax by `HypernetConfig.decoder`, as `file:class`; another one is a file of its own and a line here."""


class Decoder(Protocol):
    """A module `Decoder(config)` with the tables of rows that depend on the kind of decoder.

    Attributes:
      centered: kernels are cut out of the centre of the largest one, and larger ones interpolated; otherwise they are
        cut out of its first corner, and larger ones repeat it.
    """

    centered: ClassVar[bool]

    def dense(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows of dense tensors: `[R, hid]` embeddings and `[R]` positions -> `[R, in, out]`.

        The first channels depend on nothing but the first part of every array, as of a smaller `config.max_shape`:
        narrow tensors are decoded so.
        """
        ...

    def depthwise(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows of depthwise tensors: `[R, hid]` embeddings and `[R]` positions -> `[R, out]`."""
        ...

    def class_weight(self, nodes: jax.Array, positions: jax.Array) -> jax.Array:
        """Weights of classification layers: `[K, hid]` -> `[K, in, num_classes]`; positions are zeros."""
        ...


@functools.cache
def decoder(name: str) -> Any:
    """The class called `name` in `DECODERS`."""
    file, _, kind = DECODERS[name].partition(":")
    return getattr(importlib.import_module(file), kind)
