"""Another number of classes: new class layers, and everything else as it was."""

import dataclasses

import numpy as np
import pytest
from flax import traverse_util

import ghn_jax
from ghn_jax.ghn.shape_encoder import channel_table
from ghn_jax.prediction.predict import embed_nodes
from ghn_jax.weights.other_classes import with_classes


@pytest.fixture(scope="module")
def ghn():
    return ghn_jax.load("mlp_fashion_mnist")


@pytest.mark.parametrize("classes", [20, 16])
def test_only_the_layers_of_the_classes_are_new(ghn, classes):
    other = with_classes(ghn, classes)
    assert other.config == dataclasses.replace(ghn.config, num_classes=classes)
    before, after = (traverse_util.flatten_dict(g.params, sep="/") for g in (ghn, other))
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed - {"shape_encoder/channels"} == {name for name in before if "/classes/" in name}
    for name in before.keys() - changed - {"shape_encoder/channels"}:
        np.testing.assert_array_equal(before[name], after[name])
    # every size keeps its embedding, and the new number of classes has that of the old one, unless it had its own
    rows = (
        before["shape_encoder/channels"][channel_table(10)],
        after["shape_encoder/channels"][channel_table(classes)],
    )
    for size in (0, 1, 3, 32, 64, 512, 8192, *([classes] if classes == 16 else [])):
        np.testing.assert_array_equal(rows[0][size], rows[1][size])
    if classes != 16:
        np.testing.assert_array_equal(rows[0][10], rows[1][classes])


def test_the_same_number_is_the_same_hypernetwork(ghn):
    assert with_classes(ghn, 10) is ghn


def test_networks_of_twenty_classes_are_predicted_like_those_of_ten(ghn):
    network = ghn_jax.ResNet(depths=(1,), width=8)
    ten, twenty = (ghn_jax.build_graph(network, ghn_jax.Task(num_classes=number)) for number in (10, 20))
    other = with_classes(ghn, 20)
    np.testing.assert_allclose(embed_nodes(twenty, other), embed_nodes(ten, ghn), rtol=1e-6)
    before, after = ghn_jax.predict_params(ten, ghn), ghn_jax.predict_params(twenty, other)
    assert after["fc.weight"].shape == (32, 20)
    np.testing.assert_allclose(after["conv1.weight"], before["conv1.weight"], rtol=1e-6)
