import dataclasses

import pytest

from ghn_jax.architecture import CIFAR10, IMAGENET
from ghn_jax.ghn import config as hypernet_config
from ghn_jax.ghn.config import ConfigError, HypernetConfig, ghn1, ghn2, mlp


def test_presets_are_the_published_configurations():
    assert ghn2() == HypernetConfig((64, 64, 11, 11), 10, "gatedgnn", "conv", True, True, True, 32)
    assert ghn2(IMAGENET) == HypernetConfig((64, 64, 16, 16), 1000, "gatedgnn", "conv", True, True, True, 32)
    assert ghn1(CIFAR10) == HypernetConfig((64, 64, 11, 11), 10, "gatedgnn", "conv", False, False, False, 32)
    assert mlp() == dataclasses.replace(ghn2(), hypernet="mlp")


def test_virtual_edges_reach_fifty_steps():
    assert ghn2().max_distance == 50
    assert ghn1().max_distance == 1


@pytest.mark.parametrize("config", [ghn1(), ghn2(IMAGENET), mlp(), dataclasses.replace(ghn2(), decoder="mlp", hid=8)])
def test_json_round_trip(config):
    assert hypernet_config.from_json(hypernet_config.to_json(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_shape": (64, 64, 11)}, r"max_shape=\(64, 64, 11\): expected four positive"),
        ({"max_shape": (64, 0, 11, 11)}, "expected four positive integers"),
        ({"max_shape": (64, 64, 11, 9)}, "expected a square kernel"),
        ({"max_shape": 64}, "max_shape=64"),
        ({"num_classes": 0}, "num_classes=0: expected a positive integer"),
        ({"num_classes": 10.0}, "num_classes=10.0"),
        ({"hypernet": "gnn"}, "hypernet='gnn': expected 'gatedgnn' or 'mlp'"),
        ({"decoder": "gnn"}, "decoder='gnn': expected 'conv' or 'mlp'"),
        ({"ve": 1}, "ve=1: expected True or False"),
        ({"hid": 30}, "hid=30: expected a positive multiple of 4"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        HypernetConfig(**changes)


@pytest.mark.parametrize("text", ["", "[1]", "{'hid': 32}"])
def test_text_that_is_no_configuration_is_refused(text):
    with pytest.raises(ConfigError, match="must be a JSON object"):
        hypernet_config.from_json(text)


def test_unknown_fields_are_named():
    with pytest.raises(ConfigError, match="no field 'heads'; known are max_shape, num_classes"):
        hypernet_config.from_json('{"hid": 32, "heads": 8}')
