import dataclasses
import json

import jax
import numpy as np
import pytest

from ghn_jax import convert
from ghn_jax.convert import ConversionError
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.predict import GHN

SMALL = HypernetConfig(max_shape=(6, 4, 3, 3), num_classes=5, weight_norm=True, ve=True, layernorm=True, hid=8)


def random_state_dict(config):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(e.shape).astype(np.float32) for name, e in convert.entries(config).items()}


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        dataclasses.replace(SMALL, decoder="mlp"),
        dataclasses.replace(SMALL, hypernet="mlp"),
        dataclasses.replace(SMALL, ve=False, layernorm=False),
    ],
)
def test_converted_parameters_have_the_structure_of_new_ones(config):
    converted = convert.from_torch(random_state_dict(config), config)
    expected = jax.eval_shape(lambda: GHN.init(config, seed=0).params)
    assert jax.tree.map(np.shape, converted) == jax.tree.map(np.shape, expected)


def test_decoder_layouts():
    """The published decoder computes fc -> [4 hid, S, S] and conv -> [out, in]; so must its parts here."""
    state = random_state_dict(SMALL)
    decoder = convert.from_torch(state, SMALL)["decoder"]
    fc = state["decoder.fc.0.weight"].reshape(32, 3, 3, 8)
    last = state["decoder.conv.2.weight"].reshape(6, 4, 64)
    np.testing.assert_array_equal(decoder["position_kernel"][2 * 3 + 1, 5], fc[:, 2, 1, 5])
    fc_bias = state["decoder.fc.0.bias"].reshape(32, 3, 3)
    np.testing.assert_array_equal(decoder["position_bias"][2 * 3 + 1], fc_bias[:, 2, 1])
    np.testing.assert_array_equal(decoder["kernel"][:, 3, 5], last[5, 3])
    np.testing.assert_array_equal(decoder["bias"][3, 5], state["decoder.conv.2.bias"].reshape(6, 4)[5, 3])


def test_mlp_decoder_layouts():
    config = dataclasses.replace(SMALL, decoder="mlp")
    state = random_state_dict(config)
    decoder = convert.from_torch(state, config)["decoder"]
    last = state["decoder.mlp.fc.2.weight"].reshape(6, 4, 3, 3, 16)
    np.testing.assert_array_equal(decoder["position_kernel"][2 * 3 + 1, :, 3, 5], last[5, 3, 2, 1])
    classes = state["decoder.class_layer_predictor.1.weight"].reshape(5, 4, 16)
    np.testing.assert_array_equal(decoder["class_kernel"][:, 3, 2], classes[2, 3])


def test_entries_that_do_not_belong_are_named():
    state = random_state_dict(SMALL)
    surplus = state | {"decoder_3d.weight": np.zeros(3, np.float32)}
    del surplus["ln.bias"], surplus["gnn.gru.bias_hh"]
    with pytest.raises(ConversionError, match="missing gnn.gru.bias_hh, ln.bias; surplus decoder_3d.weight"):
        convert.from_torch(surplus, SMALL)
    with pytest.raises(ConversionError, match=r"ln.bias has shape \(7,\): expected \(8,\)"):
        convert.from_torch(state | {"ln.bias": np.zeros(7, np.float32)}, SMALL)
    with pytest.raises(ConversionError, match="ln.bias has type int64"):
        convert.from_torch(state | {"ln.bias": np.zeros(8, np.int64)}, SMALL)


def test_npz_files(tmp_path):
    state = random_state_dict(SMALL)
    np.savez(tmp_path / "ghn.npz", __config__=json.dumps(dataclasses.asdict(SMALL)), **state)
    config, params = convert.load_npz(tmp_path / "ghn.npz")
    assert config == SMALL
    np.testing.assert_array_equal(params["node_type"]["embedding"], state["embed.weight"])
    np.savez(tmp_path / "bare.npz", **state)
    with pytest.raises(ConversionError, match="bare.npz has no entry __config__"):
        convert.load_npz(tmp_path / "bare.npz")
    np.savez(tmp_path / "bad.npz", __config__="ghn", **state)
    with pytest.raises(ConfigError, match="must be a JSON object"):
        convert.load_npz(tmp_path / "bad.npz")
