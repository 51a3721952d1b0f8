import dataclasses
import functools
import io
import json
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import HYPERNETWORKS, REFERENCE, needs_reference
from torch_files import archived, checkpoint, random_state_dict, tensor, write_checkpoint, zipped

from ghn_jax.ghn.config import ConfigError, HypernetConfig, ghn1
from ghn_jax.ghn.embedders import EMBEDDERS
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import conversion
from ghn_jax.weights.conversion import ConversionError
from ghn_jax.weights.errors import CheckpointError

SMALL = HypernetConfig(max_shape=(6, 4, 3, 3), num_classes=5, weight_norm=True, ve=True, layernorm=True, hid=8)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        dataclasses.replace(SMALL, decoder="mlp"),
        dataclasses.replace(SMALL, hypernet="mlp"),
        dataclasses.replace(SMALL, ve=False, layernorm=False),
        dataclasses.replace(SMALL, hypernet="graphormer", decoder="conv3", heads=2, layers=2),
    ],
)
def test_converted_parameters_have_the_structure_of_new_ones(config):
    converted = conversion.params_from_torch(random_state_dict(config), config)
    expected = jax.eval_shape(lambda: GHN.init(config, seed=0).params)
    assert jax.tree.map(np.shape, converted) == jax.tree.map(np.shape, expected)


def test_decoder_layouts():
    """The published decoder computes fc -> [4 hid, S, S] and conv -> [out, in]; so must its parts here."""
    state = random_state_dict(SMALL)
    decoder = conversion.params_from_torch(state, SMALL)["decoder"]
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
    decoder = conversion.params_from_torch(state, config)["decoder"]
    last = state["decoder.mlp.fc.2.weight"].reshape(6, 4, 3, 3, 16)
    np.testing.assert_array_equal(decoder["position_kernel"][2 * 3 + 1, :, 3, 5], last[5, 3, 2, 1])
    classes = state["decoder.class_layer_predictor.1.weight"].reshape(5, 4, 16)
    np.testing.assert_array_equal(decoder["class_kernel"][:, 3, 2], classes[2, 3])


def test_entries_that_do_not_belong_are_named():
    state = random_state_dict(SMALL)
    surplus = state | {"decoder_3d.weight": np.zeros(3, np.float32)}
    del surplus["ln.bias"], surplus["gnn.gru.bias_hh"]
    with pytest.raises(ConversionError, match="missing gnn.gru.bias_hh, ln.bias; surplus decoder_3d.weight"):
        conversion.params_from_torch(surplus, SMALL)
    with pytest.raises(ConversionError, match=r"ln.bias has shape \(7,\): expected \(8,\)"):
        conversion.params_from_torch(state | {"ln.bias": np.zeros(7, np.float32)}, SMALL)
    with pytest.raises(ConversionError, match="ln.bias has type int64"):
        conversion.params_from_torch(state | {"ln.bias": np.zeros(8, np.int64)}, SMALL)


def test_npz_files(tmp_path):
    state = random_state_dict(SMALL)
    np.savez(tmp_path / "ghn.npz", __config__=json.dumps(dataclasses.asdict(SMALL)), **state)
    config, params = conversion.load_npz(tmp_path / "ghn.npz")
    assert config == SMALL
    np.testing.assert_array_equal(params["node_type"]["embedding"], state["embed.weight"])
    np.savez(tmp_path / "bare.npz", **state)
    with pytest.raises(ConversionError, match="bare.npz has no entry __config__"):
        conversion.load_npz(tmp_path / "bare.npz")
    np.savez(tmp_path / "bad.npz", __config__="ghn", **state)
    with pytest.raises(ConfigError, match="must be a JSON object"):
        conversion.load_npz(tmp_path / "bad.npz")


def test_kinds_without_published_checkpoints(monkeypatch):
    monkeypatch.setitem(EMBEDDERS, "new", "new:New")
    with pytest.raises(
        ConversionError, match="no published checkpoints of hypernet='new' are known, only of gatedgnn, graph"
    ):
        conversion.state_entries(dataclasses.replace(SMALL, hypernet="new"))


KINDS = {
    "ghn1": dataclasses.replace(SMALL, weight_norm=False, ve=False, layernorm=False),
    "ghn2": SMALL,
    "mlp": dataclasses.replace(SMALL, hypernet="mlp"),
    "mlp decoder": dataclasses.replace(SMALL, decoder="mlp"),
    "ghn3": dataclasses.replace(SMALL, hypernet="graphormer", decoder="conv3", heads=2, layers=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints(tmp_path, kind):
    """A whole file of the original's form, with optimiser and all, gives what its arrays give."""
    path = tmp_path / "ghn.pt"
    state = write_checkpoint(path, KINDS[kind])
    published = conversion.load_checkpoint(path)
    assert published.config == KINDS[kind] and published.epochs == 300
    expected = conversion.params_from_torch(state, KINDS[kind])
    assert jax.tree.structure(published.params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, published.params, expected)


def test_weights_of_other_precision(tmp_path):
    path = tmp_path / "ghn.pt"
    state = {name: values.astype(np.float16) for name, values in random_state_dict(SMALL).items()}
    state["ln.bias"] = state["ln.bias"].astype(np.float64)
    contents, storages = checkpoint(SMALL, state)
    path.write_bytes(archived(contents, storages))
    params = conversion.load_checkpoint(path).params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["norm"]["bias"], state["ln.bias"])
    np.testing.assert_array_equal(params["norm"]["scale"], state["ln.weight"])


def test_defaults_of_the_original():
    assert conversion.published_config({"max_shape": (64, 64, 11, 11), "num_classes": 10}, 10**6) == ghn1()
    assert conversion.published_config({"max_shape": [64, 64, 11, 11], "num_classes": 10}, 10**6) == ghn1()


FIELDS = dataclasses.asdict(SMALL)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"config": None}, "config is no dictionary"),
        ({"config": {"max_shape": (6, 4, 3, 3)}}, "config has no num_classes"),
        ({"config": {}}, "config has no max_shape, num_classes"),
        ({"config": FIELDS | {"depth": 8}}, "no field 'depth'; known are max_shape"),
        ({"config": FIELDS | {"hypernet": "transformer"}}, "hypernet='transformer': expected 'gatedgnn' or 'graph"),
        ({"config": FIELDS | {"hid": 10**9}}, "config asks for 1,000,000,000 of something"),
        ({"config": FIELDS | {"max_shape": (6, 4, 2**40, 2**40)}}, "more than the file has bytes"),
        ({"config": FIELDS | {"max_shape": (6, 4, 3)}}, "4 entries, each an integer from 1"),
        ({"config": FIELDS | {"max_shape": (6, 4, -3, -3)}}, "4 entries, each an integer from 1"),
        ({"config": FIELDS | {"max_shape": {}}}, "config.'max_shape'. is a dict: expected numbers or a name"),
        ({"config": FIELDS | {"max_shape": (6,) * 9}}, "config.'max_shape'. is a tuple"),
        ({"config": FIELDS | {"hypernet": "x" * 100}}, "config.'hypernet'. is a str"),
        ({"config": FIELDS | {"ve": ((1,),)}}, "config.'ve'. is a tuple"),
        ({"config": FIELDS | {3: 4}}, "no field '3'"),
        ({"config": FIELDS | {"hid": 16}}, "has shape .*: expected"),
        ({"config": FIELDS | {"layernorm": False}}, "surplus ln.bias, ln.weight"),
        ({"config": FIELDS | {"hypernet": "mlp"}}, "missing gnn.fc.0.bias.*surplus gnn.gru"),
        ({"state_dict": None}, "state_dict is no dictionary"),
        ({"state_dict": {}}, "missing bias_class.1.bias"),
        ({"state_dict": {"a": 1}}, "state_dict.'a'. is no tensor"),
        ({"state_dict": {1: tensor("0", "FloatStorage", (1,), 1)}}, "state_dict.'1'. is no tensor"),
    ],
)
def test_checkpoints_that_do_not_belong(tmp_path, changes, match):
    write_checkpoint(tmp_path / "ghn.pt", SMALL, changes)
    with pytest.raises(ConversionError, match=f"ghn.pt: .*{match}"):
        conversion.load_checkpoint(tmp_path / "ghn.pt")


@pytest.mark.parametrize("contents", [[], {}, 1, {"state_dict": {}}, {"model": {}, "args": {}}])
def test_files_that_are_no_checkpoints(tmp_path, contents):
    (tmp_path / "ghn.pt").write_bytes(archived(contents, {}))
    with pytest.raises(ConversionError, match="ghn.pt: it has .*expected state_dict and config"):
        conversion.load_checkpoint(tmp_path / "ghn.pt")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_weights_that_are_not_finite(tmp_path, bad):
    state = {name: values.astype(np.float64) for name, values in random_state_dict(SMALL).items()}
    state["gnn.gru.bias_ih"][5] = bad
    (tmp_path / "ghn.pt").write_bytes(archived(*checkpoint(SMALL, state)))
    with pytest.raises(ConversionError, match="gnn.gru.bias_ih has values that are not finite"):
        conversion.load_checkpoint(tmp_path / "ghn.pt")


def test_weights_that_are_integers(tmp_path):
    state = random_state_dict(SMALL) | {"ln.bias": np.zeros(8, np.int64)}
    (tmp_path / "ghn.pt").write_bytes(archived(*checkpoint(SMALL, state)))
    with pytest.raises(ConversionError, match="ln.bias has type int64"):
        conversion.load_checkpoint(tmp_path / "ghn.pt")


def test_storages_that_are_missing(tmp_path):
    contents, storages = checkpoint(SMALL, random_state_dict(SMALL))
    storages.pop("ghn/data/3")
    (tmp_path / "ghn.pt").write_bytes(archived(contents, storages))
    with pytest.raises(CheckpointError, match="ghn.pt has no entry 'ghn/data/3'"):
        conversion.load_checkpoint(tmp_path / "ghn.pt")


@needs_reference
def test_the_reference_checkpoint():
    published = conversion.load_checkpoint(REFERENCE / "ghn2_cifar10.pt")
    config, params = conversion.load_npz(REFERENCE / "ghn2_cifar10.npz")
    assert published.config == config and published.epochs == 1
    jax.tree.map(np.testing.assert_array_equal, published.params, params)


@needs_reference
@pytest.mark.parametrize("name", HYPERNETWORKS)
def test_every_published_kind_at_its_size(tmp_path, name):
    """The reference has one file of PyTorch; the others' arrays are written as it would."""
    config, params = conversion.load_npz(REFERENCE / f"{name}.npz")
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        state = {entry: arrays[entry] for entry in arrays.files if entry != conversion.CONFIG_ENTRY}
    (tmp_path / "ghn.pt").write_bytes(archived(*checkpoint(config, state)))
    published = conversion.load_checkpoint(tmp_path / "ghn.pt")
    assert published.config == config and config.num_classes == (1000 if "imagenet" in name else 10)
    jax.tree.map(np.testing.assert_array_equal, published.params, params)


@functools.cache
def sound_file() -> bytes:
    config = HypernetConfig(max_shape=(2, 2, 1, 1), num_classes=2, layernorm=True, hid=4)
    return archived(*checkpoint(config, random_state_dict(config)))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), st.floats(0, 1), st.booleans()
)
def test_damaged_checkpoints_are_refused_or_sound(tmp_path_factory, changes, end, checked):
    """Random changes of bytes: what is read is a hypernetwork with finite weights, or there is one kind of error."""
    good = sound_file()
    if checked:  # damage that the archive's checksums do not find
        with zipfile.ZipFile(io.BytesIO(good)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        damaged = bytearray(entries["ghn/data.pkl"])
    else:
        damaged = bytearray(good)
    for place, value in changes:
        damaged[int(place * (len(damaged) - 1))] = value
    if end < 0.2:
        del damaged[int(5 * end * len(damaged)) :]
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(zipped(entries | {"ghn/data.pkl": bytes(damaged)}) if checked else bytes(damaged))
    try:
        published = conversion.load_checkpoint(path)
    except CheckpointError:
        return
    expected = jax.eval_shape(lambda: GHN.init(published.config, seed=0).params)
    assert jax.tree.map(np.shape, published.params) == jax.tree.map(np.shape, expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(published.params))
