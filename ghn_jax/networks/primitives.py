"""Every operation of a target network: its parameters, its output shape and a pure function of arrays.

A primitive is a frozen dataclass of everything static about the operation, so primitives (with their input shapes)
are the signatures of which a compiled program has finitely many.  Activations are `[B, H, W, C]` or `[B, C]`;
shapes here leave the batch axis out.  Parameters come in JAX layout, in the order of `parameters`.

Source: Knyazev et al. 2021, appendix A; Liu et al., DARTS, ICLR 2019, for the cell operations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ghn_jax.graphs.graph import NODE_ID, NODE_TYPES, Role, oihw
from ghn_jax.networks.architecture import ArchitectureError
from ghn_jax.networks.blocking import blocks
from ghn_jax.networks.convolution import Size, Window, convolve, convolve_depthwise, linear, native_operations, pool

NORM_EPSILON = 1e-5
DROPOUT_RATE = 0.5

Array = jax.Array | np.ndarray
"""On a device, or in the memory of the host."""

Shape = tuple[int, ...]


class Parameter(NamedTuple):
    """A parameter tensor of a primitive: the last part of its name, its role and its JAX shape."""

    suffix: str
    role: Role
    shape: Shape


class GraphNode(NamedTuple):
    """A node of the graph: its type, an index into `NODE_TYPES`, its shape and the parameters that it owns."""

    type: int
    shape: tuple[int, int, int, int]
    parameters: tuple[Parameter, ...]


@dataclasses.dataclass(frozen=True)
class Primitive:
    """One operation; subclasses say what it computes."""

    arity: ClassVar[int] = 1
    """Number of inputs; 0 for any number."""

    gradient_reads_inputs: ClassVar[bool] = True
    """If the gradient does not depend on the values of the inputs, they need not be kept for it."""

    hands_on_gradient: ClassVar[bool] = False
    """The gradient of every input is that of the output."""

    separate_bias: ClassVar[bool] = False
    """A bias has a node of its own in the graph, after that of the weight."""

    tensor_is_added: ClassVar[bool] = False
    """The node stands beside the input, and a sum after both."""

    extent: ClassVar[Size] = (0, 0)
    """Height and width that its node has, zeros if none."""

    @property
    def node_type(self) -> str | None:
        """Type of its node in the graph, one of `NODE_TYPES`; every subclass says for itself if it has None."""
        raise NotImplementedError(f"{type(self).__name__} does not say which node it has")

    @property
    def node_shape(self) -> tuple[int, int, int, int]:
        """The shape of its node in the graph, `(out, in, h, w)` of its first parameter or `(1, 1, h, w)` of its window;
        zeros without either."""
        if self.parameters:
            return oihw(self.parameters[0].role, self.parameters[0].shape)
        return (1, 1, *self.extent) if any(self.extent) else (0, 0, 0, 0)

    @functools.cached_property
    def nodes(self) -> tuple[GraphNode, ...]:
        """Its nodes in the graph, each read by the next: one, none, or two with a bias of its own."""
        if self.node_type is None:
            return ()
        parameters = self.parameters
        owned = parameters[:1] if self.separate_bias else parameters
        first = GraphNode(NODE_ID[self.node_type], self.node_shape, owned)
        return first, *(GraphNode(NODE_ID["bias"], oihw(p.role, p.shape), (p,)) for p in parameters[len(owned) :])

    @functools.cached_property
    def node_kinds(self) -> tuple[tuple[str, int, int], ...]:
        """Type of each of its nodes, with the height and width of the node's shape."""
        return tuple((NODE_TYPES[node.type], *node.shape[2:]) for node in self.nodes)

    @property
    def needs_key(self) -> bool:
        """In training it takes a random key, `dropout_key`."""
        return False

    takes_rate: ClassVar[bool] = False
    """With its key it takes the share that is dropped now, `rate`, which changes in training."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameter tensors it needs."""
        return ()

    @functools.cached_property
    def num_params(self) -> int:
        """Number of parameters."""
        return sum(math.prod(parameter.shape) for parameter in self.parameters)

    def output_shape(self, shapes: Sequence[Any]) -> Shape:
        """Shape of the output for inputs of these shapes, None for one that is absent."""
        return shapes[0]

    def known_output_shape(self, shapes: tuple[Shape | None, ...]) -> Shape:
        """`output_shape(shapes)`, worked out once for the same shapes."""
        shape = self._output_shapes.get(shapes)
        if shape is None:
            shape = self._output_shapes[shapes] = self.output_shape(shapes)
        return shape

    @functools.cached_property
    def _output_shapes(self) -> dict[tuple[Shape | None, ...], Shape]:
        return {}

    def multiply_adds(self, output: Shape) -> int:
        """Multiply-adds of the matrix products that make one image's output of this shape."""
        return 0

    def __call__(self, params: Sequence[jax.Array], *inputs: jax.Array) -> jax.Array:
        """The output for these parameters and inputs."""
        raise TypeError(f"{type(self).__name__} is abstract")


@dataclasses.dataclass(frozen=True)
class Conv(Primitive):
    """A convolution without bias, dense or depthwise.

    In cells a ReLU always comes right before a convolution: it is part of this primitive, so that an execution keeps
    one activation less.  `skip_first` drops the first row and column of the input (the second half of a factorised
    reduction looks at the odd pixels).
    """

    separate_bias: ClassVar[bool] = True

    inputs: int
    outputs: int
    kernel: Size
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: int = 1
    depthwise: bool = False
    relu: bool = False
    skip_first: bool = False

    @functools.cached_property
    def parameters(self):
        if self.depthwise:
            return (Parameter("weight", Role.DEPTHWISE_WEIGHT, (*self.kernel, 1, self.outputs)),)
        return (Parameter("weight", Role.WEIGHT, (*self.kernel, self.inputs, self.outputs)),)

    @property
    def node_type(self):
        if not self.depthwise:
            return "conv"
        return "dil_conv" if self.dilation > 1 else "sep_conv"

    @property
    def extent(self):
        return self.kernel

    @property
    def window(self) -> Window:
        """How the kernel moves over the image."""
        return Window(self.kernel, self.stride, self.padding, self.dilation)

    def output_shape(self, shapes):
        height, width, _ = shapes[0]
        return (*self.window.output_size((height - self.skip_first, width - self.skip_first)), self.outputs)

    def multiply_adds(self, output):
        filter_size = math.prod(self.kernel) * (1 if self.depthwise else self.inputs)
        return math.prod(output) * filter_size

    def __call__(self, params, *inputs):
        (x,) = inputs
        if self.skip_first:
            x = x[:, 1:, 1:]
        if self.relu:
            x = jax.nn.relu(x)
        apply = convolve_depthwise if self.depthwise else convolve
        return apply(x, params[0], self.window)


@dataclasses.dataclass(frozen=True)
class Linear(Primitive):
    """A linear layer over the last axis, after an optional activation (None, "relu" or "gelu")."""

    node_type: ClassVar[str | None] = "conv"
    extent: ClassVar[Size] = (1, 1)
    separate_bias: ClassVar[bool] = True

    inputs: int
    outputs: int
    bias: bool = True
    activation: str | None = None
    dropout: bool = False
    classifier: bool = False

    @functools.cached_property
    def parameters(self):
        weight, bias = (Role.CLASS_WEIGHT, Role.CLASS_BIAS) if self.classifier else (Role.WEIGHT, Role.BIAS)
        tensors = (Parameter("weight", weight, (self.inputs, self.outputs)),)
        return (*tensors, Parameter("bias", bias, (self.outputs,))) if self.bias else tensors

    @property
    def needs_key(self):
        return self.dropout

    def output_shape(self, shapes):
        return (*shapes[0][:-1], self.outputs)

    def multiply_adds(self, output):
        return math.prod(output) * self.inputs

    def __call__(self, params, *inputs, dropout_key: jax.Array | None = None):
        (x,) = inputs
        if self.activation == "relu":
            x = jax.nn.relu(x)
        elif self.activation == "gelu":
            x = jax.nn.gelu(x, approximate=False)
        if self.dropout and dropout_key is not None:
            # The same mask whatever the precision of the activations.
            keep = jax.random.bernoulli(dropout_key, jnp.float32(1 - DROPOUT_RATE), x.shape)
            x = jnp.where(keep, x / (1 - DROPOUT_RATE), 0)
        y = linear(x, params[0])
        return y + params[1] if self.bias else y


def _of_norm(channels: int) -> tuple[Parameter, ...]:
    """The parameters of a normalisation: a factor and a summand for every channel."""
    return (Parameter("weight", Role.NORM_WEIGHT, (channels,)), Parameter("bias", Role.BIAS, (channels,)))


@dataclasses.dataclass(frozen=True)
class BatchNorm(Primitive):
    """Batch normalisation by the statistics of the batch, as the published evaluation of predicted parameters does."""

    node_type: ClassVar[str | None] = "bn"
    extent: ClassVar[Size] = (1, 1)

    channels: int

    @functools.cached_property
    def parameters(self):
        return _of_norm(self.channels)

    def __call__(self, params, *inputs):
        (x,) = inputs
        axes = tuple(range(x.ndim - 1))
        mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
        return (x - mean) * (params[0] * lax.rsqrt(variance + NORM_EPSILON)) + params[1]


@dataclasses.dataclass(frozen=True)
class LayerNorm(Primitive):
    """Layer normalisation over the channels."""

    node_type: ClassVar[str | None] = "ln"
    extent: ClassVar[Size] = (1, 1)

    channels: int

    @functools.cached_property
    def parameters(self):
        return _of_norm(self.channels)

    def __call__(self, params, *inputs):
        (x,) = inputs
        mean = jnp.mean(x, -1, keepdims=True)
        variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + NORM_EPSILON) * params[0] + params[1]


@dataclasses.dataclass(frozen=True)
class MaxPool(Primitive):
    """Maximum over a window, with padding that never wins.

    Equal maxima share the gradient, where the original gives it all to the first.
    """

    node_type: ClassVar[str | None] = "max_pool"

    kernel: int = 3
    stride: int = 1

    @property
    def extent(self):
        return (self.kernel, self.kernel)

    def output_shape(self, shapes):
        height, width, channels = shapes[0]
        return (*_pooling_window(self.kernel, self.stride).output_size((height, width)), channels)

    def __call__(self, params, *inputs):
        (x,) = inputs
        if native_operations.value:
            return pool(x, _pooling_window(self.kernel, self.stride), jnp.maximum)
        # Rows, then columns: on CPUs an order of magnitude faster than XLA's reduce_window and its gradient.
        pad = self.kernel // 2
        along_rows = Window((self.kernel, 1), (self.stride, 1), (pad, 0))
        along_columns = Window((1, self.kernel), (1, self.stride), (0, pad))
        return pool(pool(x, along_rows, jnp.maximum), along_columns, jnp.maximum)


@dataclasses.dataclass(frozen=True)
class AvgPool(Primitive):
    """Mean over the part of a window that lies inside the image."""

    node_type: ClassVar[str | None] = "avg_pool"

    gradient_reads_inputs: ClassVar[bool] = False

    kernel: int = 3
    stride: int = 1

    @property
    def extent(self):
        return (self.kernel, self.kernel)

    output_shape = MaxPool.output_shape

    def __call__(self, params, *inputs):
        (x,) = inputs
        window = _pooling_window(self.kernel, self.stride)
        ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        return pool(x, window, jnp.add) / pool(ones, window, jnp.add)


def _pooling_window(kernel: int, stride: int) -> Window:
    return Window((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2))


@dataclasses.dataclass(frozen=True)
class Add(Primitive):
    """Sum of two activations."""

    node_type: ClassVar[str | None] = "sum"
    hands_on_gradient: ClassVar[bool] = True

    arity: ClassVar[int] = 2
    gradient_reads_inputs: ClassVar[bool] = False

    def __call__(self, params, *inputs):
        return inputs[0] + inputs[1]


@dataclasses.dataclass(frozen=True)
class Concat(Primitive):
    """Concatenation along the channels; an absent input (None) counts as zeros of the shape of the others."""

    node_type: ClassVar[str | None] = "concat"

    arity: ClassVar[int] = 0
    gradient_reads_inputs: ClassVar[bool] = False

    def output_shape(self, shapes):
        present = [shape for shape in shapes if shape is not None]
        if len({shape[:-1] for shape in present}) > 1 and all(map(all, present)):  # empty ones are refused elsewhere
            sizes = " and ".join("x".join(map(str, shape[:-1])) for shape in present)
            raise ArchitectureError(
                f"activations of {sizes} pixels cannot be concatenated: expected images whose size reductions halve"
            )
        return (*present[0][:-1], sum((shape or present[0])[-1] for shape in shapes))

    def __call__(self, params, *inputs):
        zeros = jnp.zeros_like(next(x for x in inputs if x is not None))
        return jnp.concatenate([zeros if x is None else x for x in inputs], axis=-1)


@dataclasses.dataclass(frozen=True)
class Subsample(Primitive):
    """Every `stride`-th row and column."""

    node_type: ClassVar[str | None] = None

    gradient_reads_inputs: ClassVar[bool] = False

    stride: int

    def output_shape(self, shapes):
        height, width, channels = shapes[0]
        return (-(-height // self.stride), -(-width // self.stride), channels)

    def __call__(self, params, *inputs):
        return inputs[0][:, :: self.stride, :: self.stride]


@dataclasses.dataclass(frozen=True)
class Relu(Primitive):
    """ReLU on its own, where its result is used more than once."""

    node_type: ClassVar[str | None] = None

    def __call__(self, params, *inputs):
        return jax.nn.relu(inputs[0])


@dataclasses.dataclass(frozen=True)
class PositionalEncoding(Primitive):
    """Adds a learned image of position codes."""

    node_type: ClassVar[str | None] = "pos_enc"
    tensor_is_added: ClassVar[bool] = True

    gradient_reads_inputs: ClassVar[bool] = False

    size: Size
    channels: int

    @functools.cached_property
    def parameters(self):
        return (Parameter("weight", Role.POSITION, (1, *self.size, self.channels)),)

    @property
    def extent(self):
        return self.size

    def __call__(self, params, *inputs):
        return inputs[0] + params[0]


@dataclasses.dataclass(frozen=True)
class Attention(Primitive):
    """Multi-head self-attention over all pixels, from concatenated queries, keys and values."""

    node_type: ClassVar[str | None] = "msa"

    heads: int

    def output_shape(self, shapes):
        height, width, channels = shapes[0]
        return (height, width, channels // 3)

    def multiply_adds(self, output):
        height, width, channels = output
        return 2 * (height * width) ** 2 * channels

    def __call__(self, params, *inputs):
        (qkv,) = inputs
        batch, height, width, channels = qkv.shape
        dim = channels // 3 // self.heads
        pixels = height * width
        q, k, v = jnp.transpose(qkv.reshape(batch, pixels, 3, self.heads, dim), (2, 0, 3, 1, 4))
        return jnp.moveaxis(_attend(q * dim**-0.5, k, v), 1, 2).reshape(batch, height, width, channels // 3)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T) v for `[batch, heads, pixels, dim]` each.

    Plain matrix products, which CPUs run several times faster than an einsum; the gradient is written out to keep
    it so, and to recompute the attention rather than store it.
    """
    return _attention_weights(q, k) @ v


def _attention_weights(q: jax.Array, k: jax.Array) -> jax.Array:
    return jax.nn.softmax(q @ _transpose(k), axis=-1)


def _transpose(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)


def _attend_forward(q, k, v):
    return _attend(q, k, v), (q, k, v)


def _attend_backward(residuals, cotangent):
    def block(arrays):
        q, k, v, cotangent = arrays
        weights = _attention_weights(q, k)
        weights_bar = cotangent @ _transpose(v)
        scores_bar = weights * (weights_bar - jnp.sum(weights * weights_bar, axis=-1, keepdims=True))
        return scores_bar @ k, _transpose(_transpose(q) @ scores_bar), _transpose(_transpose(cotangent) @ weights)

    q = residuals[0]
    _, heads, pixels, _ = q.shape
    bars = lax.map(block, blocks((*residuals, cotangent), heads * pixels**2 * q.dtype.itemsize))
    return tuple(bar.reshape(q.shape) for bar in bars)


_attend.defvjp(_attend_forward, _attend_backward)


@dataclasses.dataclass(frozen=True)
class Squeeze(Primitive):
    """Mean over all pixels, the first half of channel excitation."""

    node_type: ClassVar[str | None] = None

    gradient_reads_inputs: ClassVar[bool] = False

    def output_shape(self, shapes):
        return (shapes[0][-1],)

    def __call__(self, params, *inputs):
        return jnp.mean(inputs[0], axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class Excite(Primitive):
    """Scales the channels of the first input by hard-swish of the second, then subsamples.

    Hard-swish, where squeeze-and-excitation (Hu et al. 2018) has a sigmoid, is the published networks' choice.
    """

    node_type: ClassVar[str | None] = "cse"

    stride: int = 1
    arity: ClassVar[int] = 2

    def output_shape(self, shapes):
        return Subsample(self.stride).output_shape(shapes)

    def __call__(self, params, *inputs):
        x, excitation = inputs
        return x[:, :: self.stride, :: self.stride] * jax.nn.hard_swish(excitation)[:, None, None, :]


@dataclasses.dataclass(frozen=True)
class GlobalAvgPool(Primitive):
    """Mean over all pixels before the head."""

    node_type: ClassVar[str | None] = "glob_avg"

    gradient_reads_inputs: ClassVar[bool] = False

    output_shape = Squeeze.output_shape
    __call__ = Squeeze.__call__


@dataclasses.dataclass(frozen=True)
class Flatten(Primitive):
    """All features as one vector, channels outermost as in the original (tiled weights depend on the order)."""

    node_type: ClassVar[str | None] = None

    gradient_reads_inputs: ClassVar[bool] = False

    def output_shape(self, shapes):
        height, width, channels = shapes[0]
        return (height * width * channels,)

    def __call__(self, params, *inputs):
        x = jnp.moveaxis(inputs[0], -1, 1)
        return x.reshape(x.shape[0], -1)
