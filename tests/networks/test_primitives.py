"""Primitives and convolutions against slow loops and XLA's own operations."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from at_once import at_once, compiled
from jax import lax

from ghn_jax.graphs.graph import NODE_TYPES
from ghn_jax.networks import primitives as ops
from ghn_jax.networks.convolution import Window, convolve, convolve_depthwise
from ghn_jax.networks.platforms import compiler_options, known_options
from ghn_jax.networks.regularization import AuxiliaryPool, DropPath

WINDOWS = [
    Window((3, 3), (1, 1), (1, 1)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((5, 5), (2, 2), (4, 4), dilation=2),
    Window((3, 3), (1, 1), (2, 2), dilation=2),
    Window((1, 7), (1, 2), (0, 3)),
    Window((7, 1), (2, 1), (3, 0)),
    Window((7, 7), (4, 4), (3, 3)),
    Window((3, 3), (3, 3), (1, 1)),
    Window((1, 1), (2, 2)),
]


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("depthwise, size", [(True, 11), (False, 11), (False, 4), (False, 2)])
def test_convolutions_and_their_gradients(window, depthwise, size):
    x = random(0, 2, size, size, 4)
    kernel = random(1, *window.kernel, 1 if depthwise else 4, 4)

    def native(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, window.stride, [(p, p) for p in window.padding], rhs_dilation=(window.dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4 if depthwise else 1,
        )  # fmt: skip

    def with_gradients(function):
        def call(x, kernel, cotangent):
            y, pull = jax.vjp(function, x, kernel)
            return y, *pull(cotangent)

        return call

    ours = functools.partial(convolve_depthwise if depthwise else convolve, window=window)
    cotangent = random(2, 2, *window.output_size((size, size)), 4)
    expected, *expected_gradients = at_once(with_gradients(native), x, kernel, cotangent)
    actual, *gradients = at_once(with_gradients(ours), x, kernel, cotangent)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for a, e in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, e, atol=5e-5)


def test_convolutions_are_not_left_to_the_slower_library():
    """Sums are computed by YNNPACK, convolutions are not."""
    options = compiler_options("cpu")
    assert options
    x, kernel, window = random(0, 8, 16, 16, 32), random(1, 3, 3, 32, 32), Window((3, 3), (1, 1), (1, 1))

    def compiled(function) -> jax.stages.Compiled:
        return jax.jit(function).lower(x, kernel).compile(options)

    convolution = compiled(lambda x, kernel: convolve(x, kernel, window))
    assert "ynn" not in convolution.as_text()
    assert "ynn" in compiled(lambda x, kernel: x.sum((0, 1, 2)) + kernel.sum()).as_text()
    np.testing.assert_allclose(convolution(x, kernel), convolve(x, kernel, window), atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size, size", [((5, 5), 4), ((7, 1), 2), ((3, 3), 2), ((3, 3), 4)], ids=str)
def test_kernels_larger_than_images_stay_kernels(kernel_size, size, stride):
    """XLA would let input and kernel change places, and then compute the convolution by slow loops on CPUs."""
    window = Window(kernel_size, (stride, stride), (kernel_size[0] // 2, kernel_size[1] // 2))
    x, kernel = random(0, 3, size, size, 6), random(1, *kernel_size, 6, 7)

    def with_gradients(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, window), x, kernel)
        return y, *pull(y)

    text = jax.jit(with_gradients).lower(x, kernel).compile(compiler_options("cpu")).as_text()
    labels = re.findall(r"dim_labels=(\S+)", text)
    assert labels and set(label.strip(",") for label in labels) == {"b01f_01io->b01f"}


def test_compiler_options_of_other_backends_and_releases(monkeypatch):
    def unknown(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    assert compiler_options("tpu") == {}
    assert compiler_options("gpu") == {"xla_gpu_enable_triton_gemm": False}
    known_options.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(jax, "jit", unknown)
        assert compiler_options("cpu") == {}
    known_options.cache_clear()


@pytest.mark.parametrize("stride", [1, 2])
def test_pooling_by_hand(stride):
    x = np.random.default_rng(0).standard_normal((1, 5, 5, 2)).astype(np.float32) - 3  # negative: padding must not win
    for primitive, reduce in ((ops.MaxPool(3, stride), np.max), (ops.AvgPool(3, stride), np.mean)):
        out = np.asarray(primitive((), jnp.asarray(x)))
        assert out.shape[1:] == primitive.output_shape([(5, 5, 2)])
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                y, z = row * stride, column * stride
                patch = x[0, max(y - 1, 0) : y + 2, max(z - 1, 0) : z + 2]
                np.testing.assert_allclose(out[0, row, column], reduce(patch, axis=(0, 1)), rtol=1e-6)


def test_max_pool_gradient_goes_to_the_maximum():
    x = random(0, 1, 4, 4, 1)
    expected = jax.grad(
        lambda x: lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        ).sum()
    )(x)
    np.testing.assert_array_equal(jax.grad(lambda x: ops.MaxPool(3, 2)((), x).sum())(x), expected)


def test_norms_by_hand():
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 5)).astype(np.float32)
    weight, bias = random(1, 5), random(2, 5)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
    np.testing.assert_allclose(ops.BatchNorm(5)((weight, bias), jnp.asarray(x)), expected, atol=1e-5)
    centred = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(ops.LayerNorm(5)((weight, bias), jnp.asarray(x)), centred * weight + bias, atol=1e-5)


def test_attention_by_loops():
    heads, dim, size = 2, 3, 2
    qkv = np.random.default_rng(0).standard_normal((1, size, size, 3 * heads * dim)).astype(np.float32)
    out = ops.Attention(heads)((), jnp.asarray(qkv)).reshape(size * size, heads, dim)
    q, k, v = qkv.reshape(size * size, 3, heads, dim).transpose(1, 0, 2, 3)
    for head in range(heads):
        for i in range(size * size):
            scores = [math.exp(q[i, head] @ k[j, head] / math.sqrt(dim)) for j in range(size * size)]
            expected = sum(s * v[j, head] for j, s in enumerate(scores)) / sum(scores)
            np.testing.assert_allclose(out[i, head], expected, atol=1e-5)


def test_attention_gradient():
    q, k, v, cotangent = (random(seed, 2, 3, 5, 4) for seed in range(4))

    def plain(q, k, v):
        return jnp.einsum("bhij,bhjd->bhid", jax.nn.softmax(jnp.einsum("bhid,bhjd->bhij", q, k)), v)

    expected, expected_pull = jax.vjp(plain, q, k, v)
    actual, pull = jax.vjp(ops._attend, q, k, v)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for a, e in zip(pull(cotangent), expected_pull(cotangent), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5)


def test_excitation_is_hard_swish():
    x, e = random(0, 1, 4, 4, 3), jnp.array([[-4.0, 0.5, 5.0]])
    out = ops.Excite(stride=2)((), x, e)
    factors = np.array([0.0, 0.5 * 3.5 / 6, 5.0])
    np.testing.assert_allclose(out, x[:, ::2, ::2] * factors, atol=1e-6)


def test_concat_fills_absent_inputs_with_zeros():
    x, y = random(0, 1, 2, 2, 3), random(1, 1, 2, 2, 3)
    out = ops.Concat()((), x, None, y)
    np.testing.assert_array_equal(out[..., :3], x)
    np.testing.assert_array_equal(out[..., 3:6], 0)
    np.testing.assert_array_equal(out[..., 6:], y)
    assert ops.Concat().output_shape([(2, 2, 3), None, (2, 2, 3)]) == (2, 2, 9)


def test_flatten_puts_channels_outermost():
    x = jnp.arange(2 * 2 * 3).reshape(1, 2, 2, 3)
    assert ops.Flatten()((), x)[0].tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_skip_first_looks_at_odd_pixels():
    conv = ops.Conv(1, 1, (1, 1), (2, 2), skip_first=True)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert conv((jnp.ones((1, 1, 1, 1)),), x).reshape(-1).tolist() == [5, 7, 13, 15]
    assert conv.output_shape([(4, 4, 1)]) == (2, 2, 1)


def test_dropped_paths_are_whole_images_and_the_mean_stays():
    x = jnp.ones((4000, 2, 3))
    drop = DropPath()
    np.testing.assert_array_equal(drop((), x), x)
    for rate in (0.0, 0.2, 0.5):
        out = np.asarray(drop((), x, dropout_key=jax.random.key(0), rate=rate))
        np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1, :1], out.shape))
        assert set(np.unique(out)) == ({0, np.float32(1 / np.float32(1 - rate))} if rate else {1})
        np.testing.assert_allclose(out.mean(), 1, atol=4 * (rate / (1 - rate) / 4000) ** 0.5)


@pytest.mark.parametrize("size, kernel, stride", [(8, 5, 3), (7, 5, 2), (4, 2, 2), (2, 1, 1), (3, 2, 1), (16, 9, 7)])
def test_auxiliary_pools_leave_four_pixels(size, kernel, stride):
    primitive = AuxiliaryPool(size)
    assert primitive.window == Window((kernel, kernel), (stride, stride))
    x = np.random.default_rng(0).standard_normal((1, size, size, 2)).astype(np.float32)
    out = np.asarray(at_once(lambda x: primitive((), x), x))
    assert out.shape[1:] == primitive.output_shape([(size, size, 2)]) == (2, 2, 2)
    np.testing.assert_allclose(out[0, 1, 0], x[0, stride:, :kernel].mean((0, 1)), rtol=1e-4, atol=1e-6)


EXAMPLES = {
    ops.Conv: (ops.Conv(4, 6, (3, 3), relu=True), [(5, 5, 4)]),
    ops.Linear: (ops.Linear(4, 6, activation="gelu", dropout=True), [(4,)]),
    ops.BatchNorm: (ops.BatchNorm(4), [(5, 5, 4)]),
    ops.LayerNorm: (ops.LayerNorm(4), [(5, 5, 4)]),
    ops.MaxPool: (ops.MaxPool(3, 2), [(5, 5, 4)]),
    ops.AvgPool: (ops.AvgPool(3, 2), [(5, 5, 4)]),
    ops.Add: (ops.Add(), [(5, 5, 4), (5, 5, 4)]),
    ops.Concat: (ops.Concat(), [(5, 5, 4), (5, 5, 3)]),
    ops.Subsample: (ops.Subsample(2), [(5, 5, 4)]),
    ops.Relu: (ops.Relu(), [(5, 5, 4)]),
    ops.PositionalEncoding: (ops.PositionalEncoding((5, 5), 4), [(5, 5, 4)]),
    ops.Attention: (ops.Attention(2), [(5, 5, 12)]),
    DropPath: (DropPath(), [(5, 5, 4)]),
    AuxiliaryPool: (AuxiliaryPool(5), [(5, 5, 4)]),
    ops.Squeeze: (ops.Squeeze(), [(5, 5, 4)]),
    ops.Excite: (ops.Excite(2), [(5, 5, 4), (4,)]),
    ops.GlobalAvgPool: (ops.GlobalAvgPool(), [(5, 5, 4)]),
    ops.Flatten: (ops.Flatten(), [(5, 5, 4)]),
}


@pytest.mark.parametrize("kind", [kind for kind in vars(ops).values() if ops.Primitive in getattr(kind, "__mro__", ())])
def test_every_primitive_tells_the_truth_about_itself(kind):
    """Its node, the shape of its output, and what its gradient needs; a new one needs a line in EXAMPLES."""
    if kind is ops.Primitive:
        with pytest.raises(NotImplementedError, match="Primitive does not say which node it has"):
            print(kind().node_type)
        return
    primitive, shapes = EXAMPLES[kind]
    assert primitive.node_type is None or primitive.node_type in NODE_TYPES
    params = tuple(random(number, *parameter.shape) for number, parameter in enumerate(primitive.parameters))
    options = {"dropout_key": jax.random.key(0)} if primitive.needs_key else {}
    first, second = ([random(10 * seed + n, 2, *shape) for n, shape in enumerate(shapes)] for seed in (1, 2))

    def with_bars(params, inputs):
        output, pull_back = jax.vjp(lambda params, inputs: primitive(params, *inputs, **options), params, inputs)
        return output, *pull_back(jnp.cos(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape))

    run = compiled(with_bars, params, first)
    (output, *bars), (_, *others) = run(params, first), run(params, second)
    assert output.shape == (2, *primitive.output_shape(shapes))
    same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (bars, others)), strict=True))
    assert same == (not primitive.gradient_reads_inputs)
    if primitive.hands_on_gradient:
        handed, *more = jax.tree.leaves(bars)
        assert all(np.array_equal(bar, handed) for bar in more)
