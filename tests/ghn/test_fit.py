import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.fit import fan_in_scale, fit, fit_into
from ghn_jax.graphs.graph import Role, Tensor

MAX_OUT, MAX_IN, CLASSES = 6, 4, 5
PLAIN = HypernetConfig(max_shape=(MAX_OUT, MAX_IN, 11, 11), num_classes=CLASSES)


def decoded_rows(tensor: Tensor, seed: int = 0) -> np.ndarray:
    """Random rows of the kind that a tensor's table holds, for a largest shape of (6, 4, 11, 11)."""
    height, width = tensor.shape4[2:]
    shape = {
        Role.WEIGHT: (height * width, MAX_IN, MAX_OUT),
        Role.POSITION: (height * width, MAX_IN, MAX_OUT),
        Role.DEPTHWISE_WEIGHT: (height * width, MAX_OUT),
        Role.NORM_WEIGHT: (1, 2, MAX_OUT),
        Role.BIAS: (1, 2, MAX_OUT),
        Role.CLASS_WEIGHT: (1, MAX_IN, CLASSES),
        Role.CLASS_BIAS: (1, CLASSES),
    }[tensor.role]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def element(tensor: Tensor, rows: np.ndarray, index: tuple[int, ...], weight_norm: bool) -> float:
    """One element of a tensor by the words of section 4.3 and appendix B.1."""
    rows = rows.astype(np.float64)
    role = tensor.role
    if role is Role.NORM_WEIGHT:
        value = rows[0, 0, index[0] % MAX_OUT]
        return 2 / (1 + np.exp(-value / 2)) if weight_norm else value
    if role is Role.BIAS:
        value = rows[0, 1, index[0] % MAX_OUT]
        return np.tanh(0.2 * value) if weight_norm else value
    if role is Role.CLASS_BIAS:
        value = rows[0, index[0]]
        return np.tanh(0.2 * value) if weight_norm else value
    if role is Role.CLASS_WEIGHT:
        value = rows[0, index[0] % MAX_IN, index[1]]
        return value * np.sqrt(2 / tensor.shape[0]) if weight_norm else value
    if role is Role.POSITION:
        return rows[index[1] * tensor.shape[2] + index[2], index[3] % MAX_IN, 0]
    if len(index) == 2:
        value = rows[0, index[0] % MAX_IN, index[1] % MAX_OUT]
        return value * np.sqrt(2 / tensor.shape[0]) if weight_norm else value
    height, width, inputs, _ = tensor.shape
    y, x, into, out = index
    row = rows[y * width + x]
    value = row[out % MAX_OUT] if role is Role.DEPTHWISE_WEIGHT else row[into % MAX_IN, out % MAX_OUT]
    beta = 1 if inputs == 1 or height < width else 2
    return value * np.sqrt(beta / (inputs * height * width)) if weight_norm else value


TENSORS = [
    Tensor("smaller", 0, Role.WEIGHT, (3, 3, 2, 5)),
    Tensor("equal", 0, Role.WEIGHT, (1, 1, 4, 6)),
    Tensor("whole blocks", 0, Role.WEIGHT, (2, 2, 12, 18)),
    Tensor("cut blocks", 0, Role.WEIGHT, (3, 3, 11, 15)),
    Tensor("only in", 0, Role.WEIGHT, (1, 3, 9, 3)),
    Tensor("only out", 0, Role.WEIGHT, (3, 1, 3, 13)),
    Tensor("one input channel", 0, Role.WEIGHT, (3, 3, 1, 8)),
    Tensor("linear", 0, Role.WEIGHT, (9, 13)),
    Tensor("linear of one input", 0, Role.WEIGHT, (1, 13)),
    Tensor("depthwise", 0, Role.DEPTHWISE_WEIGHT, (3, 5, 1, 15)),
    Tensor("small depthwise", 0, Role.DEPTHWISE_WEIGHT, (5, 5, 1, 4)),
    Tensor("position", 0, Role.POSITION, (1, 3, 4, 10)),
    Tensor("norm", 0, Role.NORM_WEIGHT, (20,)),
    Tensor("bias", 0, Role.BIAS, (5,)),
    Tensor("class weight", 0, Role.CLASS_WEIGHT, (10, CLASSES)),
    Tensor("narrow class weight", 0, Role.CLASS_WEIGHT, (3, CLASSES)),
    Tensor("class bias", 0, Role.CLASS_BIAS, (CLASSES,)),
]


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("tensor", TENSORS, ids=lambda tensor: tensor.name)
def test_every_element(tensor, weight_norm):
    rows = decoded_rows(tensor)
    expected = np.empty(tensor.shape)
    for index in np.ndindex(*tensor.shape):
        expected[index] = element(tensor, rows, index, weight_norm)
    config = dataclasses.replace(PLAIN, weight_norm=weight_norm)
    result = fit(rows, tensor, config, np)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(fit(jnp.asarray(rows), tensor, config, jnp), expected, rtol=2e-6, atol=1e-7)
    out = np.full(tensor.shape, np.nan, np.float32)
    fit_into(out, rows, tensor, config)
    np.testing.assert_array_equal(out, result)


def test_extreme_norm_weights_do_not_overflow():
    tensor = Tensor("norm", 0, Role.NORM_WEIGHT, (2,))
    rows = np.array([[[-1e4, 1e4], [0, 0]]], np.float32)
    np.testing.assert_array_equal(fit(rows, tensor, dataclasses.replace(PLAIN, weight_norm=True), np), [0, 2])


def test_fan_in_is_that_of_the_target():
    assert fan_in_scale(Tensor("w", 0, Role.WEIGHT, (3, 3, 512, 512))) == pytest.approx((2 / (9 * 512)) ** 0.5)
    assert fan_in_scale(Tensor("w", 0, Role.WEIGHT, (7, 1, 64, 64))) == pytest.approx((2 / (7 * 64)) ** 0.5)
    assert fan_in_scale(Tensor("w", 0, Role.WEIGHT, (1, 7, 64, 64))) == pytest.approx((1 / (7 * 64)) ** 0.5)
    assert fan_in_scale(Tensor("w", 0, Role.DEPTHWISE_WEIGHT, (5, 5, 1, 64))) == pytest.approx(1 / 5)
    assert fan_in_scale(Tensor("w", 0, Role.WEIGHT, (1, 64))) == pytest.approx(2**0.5)


def test_gradient_counts_repetitions():
    tensor = Tensor("w", 0, Role.WEIGHT, (9, 13))
    rows = decoded_rows(tensor)
    gradient = jax.grad(lambda rows: fit(rows, tensor, PLAIN, jnp).sum())(jnp.asarray(rows))
    expected = np.zeros((1, MAX_IN, MAX_OUT))
    for into in range(9):
        for out in range(13):
            expected[0, into % MAX_IN, out % MAX_OUT] += 1
    np.testing.assert_allclose(gradient, expected)


CENTERED = dataclasses.replace(PLAIN, decoder="conv3", max_shape=(MAX_OUT, MAX_IN, 4, 4))


def slow_bilinear(values, height, width):
    """`[h, w, ...]` read at the centres of `height` x `width` pixels; constant beyond the outermost centres."""
    result = np.zeros((height, width, *values.shape[2:]))
    for y in range(height):
        for x in range(width):
            places = []
            for index, target, given in ((y, height, values.shape[0]), (x, width, values.shape[1])):
                place = min(max((index + 0.5) / target * given - 0.5, 0), given - 1)
                places.append((int(place), min(int(place) + 1, given - 1), place - int(place)))
            (top, bottom, down), (left, right, across) = places
            above = (1 - across) * values[top, left] + across * values[top, right]
            below = (1 - across) * values[bottom, left] + across * values[bottom, right]
            result[y, x] = (1 - down) * above + down * below
    return result


@pytest.mark.parametrize("size", [(5, 5), (8, 8), (14, 9), (9, 3), (2, 6)])
def test_kernels_larger_than_the_decoders_are_interpolated(size):
    height, width = size
    given = (min(height, 4), min(width, 4))
    rng = np.random.default_rng(0)
    position = Tensor("position", 0, Role.POSITION, (1, *size, 3))
    rows = rng.standard_normal((given[0] * given[1], MAX_IN, MAX_OUT)).astype(np.float32)
    expected = slow_bilinear(rows[:, :3, 0].reshape(*given, 3), *size)
    np.testing.assert_allclose(fit(rows, position, CENTERED, np)[0], expected, atol=1e-6)
    kernel = Tensor("kernel", 0, Role.WEIGHT, (*size, 5, 13))
    expected = slow_bilinear(rows.reshape(*given, MAX_IN, MAX_OUT), *size)
    expected = np.tile(expected, (1, 1, 2, 3))[:, :, :5, :13]
    found = fit(rows, kernel, CENTERED, np)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(fit(jnp.asarray(rows), kernel, CENTERED, jnp), found, atol=1e-6)
    out = np.full(kernel.shape, np.nan, np.float32)
    fit_into(out, rows, kernel, CENTERED)
    np.testing.assert_array_equal(out, found)


def test_interpolation_of_two_by_two_to_four_by_four():
    """The example in PyTorch's documentation of `Upsample`, with corners that are not aligned."""
    config = dataclasses.replace(CENTERED, max_shape=(1, 1, 2, 2))
    rows = np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1)
    found = fit(rows, Tensor("position", 0, Role.POSITION, (1, 4, 4, 1)), config, np)
    expected = [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]]
    np.testing.assert_array_equal(found[0, :, :, 0], expected)
