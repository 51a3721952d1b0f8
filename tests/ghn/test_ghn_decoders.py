import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.decoders.conv import ConvDecoder
from ghn_jax.ghn.decoders.mlp import MLPDecoder
from ghn_jax.ghn.decoders.vector import VectorDecoder

SIDE = 3
CONV = HypernetConfig(max_shape=(6, 4, SIDE, SIDE), num_classes=5, hid=8)
MLP = HypernetConfig(max_shape=(6, 4, SIDE, SIDE), num_classes=5, hid=8, decoder="mlp")
NODES = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
POSITIONS = (np.arange(50) * 7 % SIDE**2).astype(np.int32)


def initialise(decoder):
    """Parameters of a decoder, and the same in double precision."""
    methods = ("dense", "depthwise") if not isinstance(decoder, VectorDecoder) else ()
    classes = "class_weight" if methods else "class_bias"

    def touch(module):
        for method in methods:
            getattr(module, method)(NODES, POSITIONS)
        getattr(module, classes)(NODES, np.zeros_like(POSITIONS))

    variables = decoder.init(jax.random.key(1), method=touch)
    return variables, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


def relu(x):
    return np.maximum(x, 0)


def slow_conv_decode(p, node):
    """The whole largest tensor of a node, [out, in, h, w], as appendix B.1 reads."""
    tensor = np.zeros((6, 4, SIDE, SIDE))
    for y in range(SIDE):
        for x in range(SIDE):
            position = y * SIDE + x
            hidden = relu(node @ p["position_kernel"][position] + p["position_bias"][position])
            hidden = relu(hidden @ p["conv"]["kernel"] + p["conv"]["bias"])
            for out in range(6):
                for into in range(4):
                    tensor[out, into, y, x] = hidden @ p["kernel"][:, into, out] + p["bias"][into, out]
    return tensor


def slow_mlp_decode(p, node):
    hidden = relu(node @ p["first"]["kernel"] + p["first"]["bias"])
    tensor = np.zeros((6, 4, SIDE, SIDE))
    for y in range(SIDE):
        for x in range(SIDE):
            position = y * SIDE + x
            values = np.einsum("k,kio->oi", hidden, p["position_kernel"][position])
            tensor[:, :, y, x] = values + p["position_bias"][position].T
    return tensor


def slow_class_weight(config, p, node):
    """[num_classes, in]"""
    if config.decoder == "mlp":
        hidden = relu(node @ p["first"]["kernel"] + p["first"]["bias"])
        return (np.einsum("k,kic->ic", hidden, p["class_kernel"]) + p["class_bias"]).T
    corner = slow_conv_decode(p, node)[:, :, 0, 0]
    return np.stack([relu(corner[:, into]) @ p["classes"]["kernel"] + p["classes"]["bias"] for into in range(4)], 1)


CASES = [(CONV, ConvDecoder, slow_conv_decode), (MLP, MLPDecoder, slow_mlp_decode)]


@pytest.mark.parametrize(("config", "decoder", "slow"), CASES)
def test_rows_are_slices_of_the_whole_tensor(config, decoder, slow):
    decoder = decoder(config)
    variables, p = initialise(decoder)
    dense = decoder.apply(variables, NODES, POSITIONS, method="dense")
    depthwise = decoder.apply(variables, NODES, POSITIONS, method="depthwise")
    assert dense.shape == (50, 4, 6) and depthwise.shape == (50, 6)
    for row, (node, position) in enumerate(zip(NODES, POSITIONS, strict=True)):
        expected = slow(p, node)[:, :, position // SIDE, position % SIDE]
        np.testing.assert_allclose(dense[row], expected.T, atol=2e-6)
        np.testing.assert_allclose(depthwise[row], expected[:, 0], atol=2e-6)


@pytest.mark.parametrize(("config", "decoder", "slow"), CASES)
def test_class_weights(config, decoder, slow):
    decoder = decoder(config)
    variables, p = initialise(decoder)
    result = decoder.apply(variables, NODES[:3], np.zeros(3, np.int32), method="class_weight")
    for node, weight in zip(NODES, result, strict=False):
        np.testing.assert_allclose(weight, slow_class_weight(config, p, node).T, atol=2e-6)


def test_vectors_and_class_biases():
    decoder = VectorDecoder(CONV)
    variables, p = initialise(decoder)
    vectors = decoder.apply(variables, NODES, POSITIONS, method="vector")
    biases = decoder.apply(variables, NODES, POSITIONS, method="class_bias")
    assert vectors.shape == (50, 2, 6)
    for node, vector, bias in zip(NODES, vectors, biases, strict=True):
        hidden = relu(node @ p["mlp"]["first"]["kernel"] + p["mlp"]["first"]["bias"])
        flat = hidden @ p["mlp"]["second"]["kernel"] + p["mlp"]["second"]["bias"]
        np.testing.assert_allclose(vector, [flat[:6], flat[6:]], atol=2e-6)
        expected = relu(flat[6:]) @ p["classes"]["kernel"] + p["classes"]["bias"]
        np.testing.assert_allclose(bias, expected, atol=2e-6)


def test_mlp_decoder_differentiates_through_its_chunks():
    decoder = MLPDecoder(MLP)
    variables, p = initialise(decoder)
    target = np.random.default_rng(1).standard_normal((50, 4, 6))

    def value(variables):
        return jnp.sum(decoder.apply(variables, NODES, POSITIONS, method="dense") * target)

    gradient = jax.grad(value)(variables)["params"]["position_kernel"]
    expected = np.zeros_like(p["position_kernel"])
    for node, position, row in zip(NODES, POSITIONS, target, strict=True):
        hidden = relu(node @ p["first"]["kernel"] + p["first"]["bias"])
        expected[position] += hidden[:, None, None] * row
    np.testing.assert_allclose(gradient, expected, atol=2e-5)
