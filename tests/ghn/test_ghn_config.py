import dataclasses

import jax
import numpy as np
import pytest

from ghn_jax import build_graph, named
from ghn_jax.ghn import config as hypernet_config
from ghn_jax.ghn.config import HYPERNETWORKS, ConfigError, HypernetConfig, ghn1, ghn2, ghn3, mlp, title
from ghn_jax.ghn.embedders import EMBEDDERS
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, IMAGENET
from ghn_jax.prediction.predict import embed_nodes


def test_presets_are_the_published_configurations():
    assert ghn2() == HypernetConfig((64, 64, 11, 11), 10, "gatedgnn", "conv", True, True, True, 32)
    assert ghn2(IMAGENET) == HypernetConfig((64, 64, 16, 16), 1000, "gatedgnn", "conv", True, True, True, 32)
    assert ghn1(CIFAR10) == HypernetConfig((64, 64, 11, 11), 10, "gatedgnn", "conv", False, False, False, 32)
    assert mlp() == dataclasses.replace(ghn2(), hypernet="mlp")
    assert ghn3() == HypernetConfig((64, 64, 11, 11), 10, "graphormer", "conv3", True, True, True, 64, 8, 3)


def test_fingerprints_are_of_the_configuration_and_of_all_weights():
    small = dataclasses.replace(ghn2(), max_shape=(8, 8, 3, 3), hid=8)
    ghn = GHN.init(small, 0)
    assert ghn.fingerprint == GHN(small, jax.tree.map(np.array, ghn.params)).fingerprint
    leaves, tree = jax.tree.flatten(ghn.params)
    last = np.array(leaves[-1])
    last.flat[-1] += 1e-3
    others = (
        GHN(small, jax.tree.unflatten(tree, [*leaves[:-1], last])),
        GHN(dataclasses.replace(small, ve=False), ghn.params),
    )
    assert len({one.fingerprint for one in (ghn, *others)}) == 3


def test_virtual_edges_reach_fifty_steps():
    assert ghn2().max_distance == 50
    assert ghn1().max_distance == 1


@pytest.mark.parametrize("config", [ghn1(), ghn2(IMAGENET), mlp(), dataclasses.replace(ghn2(), decoder="mlp", hid=8)])
def test_json_round_trip(config):
    assert hypernet_config.from_json(hypernet_config.to_json(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_shape": (64, 64, 11)}, r"max_shape=\(64, 64, 11\): expected 4 entries"),
        ({"max_shape": (64, 0, 11, 11)}, "4 entries, each an integer from 1"),
        ({"max_shape": (64, 64, 11, 9)}, "expected a square kernel"),
        ({"max_shape": 64}, "max_shape=64"),
        ({"num_classes": 0}, "num_classes=0: expected an integer from 1"),
        ({"num_classes": 10.0}, "num_classes=10.0"),
        ({"hypernet": "gnn"}, "hypernet='gnn': expected 'gatedgnn' or 'graphormer' or 'mlp'"),
        ({"decoder": "gnn"}, "decoder='gnn': expected 'conv' or 'conv3' or 'mlp'"),
        ({"ve": 1}, "ve=1: expected True or False"),
        ({"hid": 30}, "hid=30: expected a positive multiple of 4"),
        ({"hypernet": "graphormer", "heads": 5}, "heads=5: expected a divisor of hid=32"),
        ({"hypernet": "graphormer", "heads": 0}, "heads=0: expected an integer from 1 to 8,192"),
        ({"hypernet": "graphormer", "layers": 0}, "layers=0: expected an integer from 1 to 256"),
        ({"layers": 10**9}, "layers=1000000000: expected an integer from 1 to 256"),
        ({"hypernet": "graphormer", "embedder_dtype": "float16"}, "'float16': expected 'float32' or 'bfloat16'"),
        ({"embedder_dtype": "bfloat16"}, "embedder_dtype='bfloat16': expected 'float32'$"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        HypernetConfig(**changes)


@pytest.mark.parametrize("text", ["", "[1]", "{'hid': 32}"])
def test_text_that_is_no_configuration_is_refused(text):
    with pytest.raises(ConfigError, match="must be a JSON object|expected its fields by name"):
        hypernet_config.from_json(text)


def test_unknown_fields_are_named():
    with pytest.raises(ConfigError, match="no field 'depth'; known are max_shape, num_classes"):
        hypernet_config.from_json('{"hid": 32, "depth": 8}')


def test_titles_are_those_of_the_paper():
    assert [title(make(task)) for make in (ghn1, ghn2, mlp) for task in (CIFAR10, IMAGENET)] == [
        *("GHN-1", "GHN-1", "GHN-2", "GHN-2", "MLP", "MLP")
    ]
    assert title(dataclasses.replace(ghn2(), hid=12)) == "GHN-2"
    assert title(dataclasses.replace(ghn2(), ve=False)) == "gatedgnn"
    assert [title(HYPERNETWORKS[f"ghn3{size}"].make(IMAGENET)) for size in ("t", "s", "l", "xl")] == [
        *("GHN-3-T", "GHN-3-S", "GHN-3-L", "GHN-3-XL")
    ]
    assert title(dataclasses.replace(ghn3(), embedder_dtype="bfloat16")) == "GHN-3-T"
    assert title(ghn3(hid=32)) == "GHN-3"
    assert title(dataclasses.replace(ghn3(), decoder="conv")) == "graphormer"


def test_another_kind_is_a_file_and_a_line(tmp_path, monkeypatch):
    """A kind of its own predicts, without a change anywhere else."""
    (tmp_path / "averaging.py").write_text(AVERAGING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(EMBEDDERS, "averaging", "averaging:Averaging")
    config = HypernetConfig(max_shape=(8, 8, 3, 3), hypernet="averaging", hid=8)
    assert title(config) == "averaging"
    ghn = GHN.init(config, seed=0)
    assert ghn.params["gnn"]["shift"].shape == (8,)
    graph = build_graph(named("vit"))
    moved = GHN(config, ghn.params | {"gnn": {"shift": ghn.params["gnn"]["shift"] + 1}})
    features = embed_nodes(graph, ghn)
    np.testing.assert_allclose(features, np.broadcast_to(features[:1], features.shape), rtol=1e-5)
    np.testing.assert_allclose(embed_nodes(graph, moved), features + 1, rtol=1e-5)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="hypernet='averaging': expected 'gatedgnn' or 'graphormer' or 'mlp'"):
        hypernet_config.from_json(hypernet_config.to_json(config))


AVERAGING = """
import jax.numpy as jnp
from flax import linen as nn


class Averaging(nn.Module):
    config: object

    @nn.compact
    def __call__(self, features, graphs):
        shift = self.param("shift", nn.initializers.zeros, (self.config.hid,))
        return jnp.broadcast_to(features.mean(1, keepdims=True), features.shape) + shift
"""
