"""Files of GHN-3: the hub's, without a configuration, and those of its training script."""

import dataclasses
import gzip
import re
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import REFERENCE
from torch_files import (
    Built,
    Raw,
    archived,
    as_published,
    checkpoint,
    joblib_bytes,
    pickled,
    random_state_dict,
)

import ghn_jax
from ghn_jax.ghn.config import HYPERNETWORKS, HypernetConfig
from ghn_jax.networks.architecture import IMAGENET
from ghn_jax.weights import conversion
from ghn_jax.weights.conversion import inferred_config
from ghn_jax.weights.errors import CheckpointError

GHN3 = HypernetConfig(
    max_shape=(6, 4, 3, 3),
    num_classes=5,
    hypernet="graphormer",
    decoder="conv3",
    weight_norm=True,
    ve=True,
    layernorm=True,
    hid=8,
    heads=2,
    layers=3,
)
GHN2 = HypernetConfig(max_shape=(6, 4, 3, 3), num_classes=5, weight_norm=True, ve=True, layernorm=True, hid=8)
MOVED = ("centrality_embed_in.weight", "centrality_embed_out.weight", "input_dist_embed.weight")

needs_figures = pytest.mark.skipif(not (REFERENCE / "ghn3").is_dir(), reason="no reference figures of GHN-3")


def written(tmp_path, state):
    (tmp_path / "ghn3.pt").write_bytes(state if isinstance(state, bytes) else joblib_bytes(state))
    return tmp_path / "ghn3.pt"


def refused(tmp_path, match, state):
    with pytest.raises(CheckpointError, match=f"ghn3.pt: .*{match}"):
        ghn_jax.load(written(tmp_path, state))


def published(config, **changes):
    return as_published(config, random_state_dict(config)) | changes


def same(ghn, config, state):
    assert ghn.config == config
    jax.tree.map(np.testing.assert_array_equal, ghn.params, conversion.params_from_torch(state, config))


@pytest.mark.parametrize("config", [GHN3, GHN2, dataclasses.replace(GHN2, ve=False, layernorm=False)])
@pytest.mark.parametrize("pack", [bytes, zlib.compress, gzip.compress])
def test_files_of_the_hub(tmp_path, config, pack):
    state = published(config)
    path = written(tmp_path, pack(joblib_bytes(state)))
    same(ghn_jax.load(path), config, state)
    found = ghn_jax.provenance(path)
    assert found["converted_from"] == "ghn3.pt" and found["epochs"] is None


def test_decoders_may_have_convolutions_or_linear_layers(tmp_path):
    for config in (GHN2, GHN3):
        state = random_state_dict(config)
        assert state["decoder.conv.2.weight"].shape == (24, 64, 1, 1)
        assert published(config)["decoder.conv.2.weight"].shape == (24, 64)
        same(ghn_jax.load(written(tmp_path, state)), config, state)
        same(ghn_jax.load(written(tmp_path, published(config))), config, state)


@pytest.mark.parametrize("name", ["ghn3t", "ghn3s", "ghn3l", "ghn3xl", "ghn2"])
def test_configurations_of_published_sizes_follow_from_shapes(name):
    config = HYPERNETWORKS[name].make(IMAGENET)
    shapes = {name: entry.also or entry.shape for name, entry in conversion.state_entries(config).items()}
    assert inferred_config(shapes) == config


def as_script(config, state, **fields):
    """The parts of a file of GHN-3's training script."""
    namespace = Raw(b"cargparse\nNamespace\n)\x81")
    arguments = Built(namespace, {"hid": 8, "lr": 4e-4, "opt": "adamw", "lr_steps": [200, 250], "ckpt": None})
    contents, storages = checkpoint(config, state, {"step": 7, "args": arguments})
    contents["config"] |= fields
    return contents, storages


def test_files_of_the_training_script(tmp_path):
    """Some embeddings are parts of the first layer there; the command line is an `argparse.Namespace`."""
    state = published(GHN3)
    moved = {("gnn.0." + name if name in MOVED else name): values for name, values in state.items()}
    path = written(tmp_path, archived(*as_script(GHN3, moved)))
    same(ghn_jax.load(path), GHN3, state)
    assert ghn_jax.provenance(path)["epochs"] == 300


def test_ghn2_of_the_same_script(tmp_path):
    state = published(GHN2)
    path = written(tmp_path, archived(*as_script(GHN2, state, is_ghn2=True, heads=8, layers=3)))
    same(ghn_jax.load(path), GHN2, state)


def without(state, pattern):
    return {name: values for name, values in state.items() if not re.match(pattern, name)}


FLOATS = np.zeros((3, 8), np.float32)


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (without(published(GHN3), r"gnn\.1\."), "missing gnn.1.attn.*surplus gnn.2"),
        (without(published(GHN3), r"gnn\.2\.ff"), "missing gnn.2.ff.net.0.bias"),
        (without(published(GHN3), r"gnn\.0\.attn\.proj_e"), "has no gnn.0.attn.proj_e.2.weight"),
        (without(published(GHN3), "centrality_embed_in"), "missing centrality_embed_in.weight"),
        (without(published(GHN3), "embed"), "has no embed.weight"),
        (published(GHN3, **{"gnn.0.attn.proj_e.2.weight": FLOATS}), "heads=3: expected a divisor of hid=8"),
        (published(GHN3, **{"gnn.1.attn.to_qkv.weight": FLOATS}), "gnn.1.attn.to_qkv.weight has shape .3, 8."),
        (published(GHN3, **{"embed.weight": np.zeros((15, 12), np.float32)}), "has shape .*: expected .* for Hyper"),
        (published(GHN3, **{"embed.weight": np.zeros((15, 6), np.float32)}), "hid=6: expected a positive multiple"),
        (published(GHN3, **{"embed.weight": np.zeros(15, np.float32)}), "embed.weight has shape .15,.: expected a mat"),
        (published(GHN3, **{"decoder.conv.2.weight": np.zeros((23, 64), np.float32)}), "decoder.conv.2.* has shape"),
        (published(GHN3, **{"decoder.conv.2.weight": np.zeros((3, 64), np.float32)}), "max_shape=.6, 0, 3, 3.: exp"),
        (published(GHN3, **{"decoder.fc.0.weight": np.zeros((256, 8), np.float32)}), "decoder.fc.0.* has shape"),
        (published(GHN3, **{"gnn.0.centrality_embed_in.weight": FLOATS}), "has both gnn.0.centrality_embed_in.weight"),
        (published(GHN3, **{"ln.bias": np.full(8, np.nan, np.float32)}), "ln.bias has values that are not finite"),
        (published(GHN3, **{"ln.bias": np.zeros(8, np.int64)}), "ln.bias has type int64"),
        (published(GHN3, **{"decoder_2d.weight": FLOATS}), "surplus decoder_2d.weight"),
        ({"weight": FLOATS}, "has no embed.weight"),
        (pickled({"state_dict": 3}, 4), "it has entries .'state_dict'.: expected state_dict and config"),
        (pickled([1, 2], 4), "it has no dictionary"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, state, match):
    refused(tmp_path, match, state)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"heads": 3}, "config: .*heads=3: expected a divisor of hid=8"),
        ({"heads": None}, "config: .*heads=None: expected an integer from 1"),
        ({"layers": 2}, "surplus gnn.2.attn"),
        ({"layers": 10**9}, "layers=1000000000: expected an integer from 1 to 256"),
        ({"is_ghn2": True}, "missing gnn.gru"),
        ({"is_ghn2": 1}, "is_ghn2=1: expected True or False"),
        ({"depth": 1}, "no field 'depth'"),
    ],
)
def test_configurations_of_the_script_that_do_not_belong(tmp_path, fields, match):
    refused(tmp_path, match, archived(*as_script(GHN3, published(GHN3), **fields)))


def test_a_script_that_says_neither_heads_nor_layers(tmp_path):
    contents, storages = as_script(GHN3, published(GHN3))
    del contents["config"]["heads"], contents["config"]["layers"]
    refused(tmp_path, "config has no heads, layers", archived(contents, storages))


class Mine(nn.Module):
    """A user's own model, with a kernel larger than any that is decoded."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (5, 5), name="large")(x))
        x = nn.relu(nn.GroupNorm(4)(nn.Conv(8, (3, 3), strides=2)(x)))
        return nn.Dense(5)(x.mean((1, 2)))


def test_a_model_of_the_user(tmp_path):
    """From a file of the hub to the parameters of a Flax model."""
    ghn = ghn_jax.load(written(tmp_path, published(GHN3)))
    model, images = Mine(), jnp.zeros((1, 8, 8, 3))
    graph = ghn_jax.trace(model, images)
    params = ghn_jax.predict_params(graph, ghn)
    expected = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected["params"])
    assert all(np.isfinite(leaf).all() and np.std(leaf) > 0 for leaf in jax.tree.leaves(params))
    assert "a kernel of 5x5 interpolated from 3x3" in str(ghn_jax.report(graph, ghn))


@needs_figures
@pytest.mark.parametrize("name", ["ghn3_cifar10.joblib.pt", "ghn3_cifar10.pt"])
def test_files_of_the_published_code(name):
    found = conversion.load_checkpoint(REFERENCE / "ghn3" / name)
    config, params = conversion.load_npz(REFERENCE / "ghn3" / "ghn3_cifar10.npz")
    assert found.config == config and found.epochs == (None if "joblib" in name else 4)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
