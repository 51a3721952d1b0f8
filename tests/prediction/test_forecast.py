"""The forecast in the package: what it says of networks that are known to be predicted well and badly."""

import dataclasses

import numpy as np
import pytest

import ghn_jax
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.prediction import forecast
from ghn_jax.prediction.forecast import FEATURES


def report_of(text, ghn=None):
    return ghn_jax.report(ghn_jax.build_graph(ghn_jax.find_architecture(text).architecture), ghn)


def test_features_by_hand():
    """ResNet-50: 53 convolutions and a linear layer, 53 norms, one pooling at the end."""
    features = dict(zip(FEATURES, report_of("resnet50").features, strict=True))
    assert features["norms a layer"] == pytest.approx(53 / 54)
    assert features["share of extrapolated elements"] == 0 and features["share of elements that are not predicted"] == 0
    assert features["attention"] == features["depthwise share of layers"] == features["no global pooling"] == 0
    assert features["log2 of the parameters"] == pytest.approx(np.log2(23_520_842))
    assert features["log2 of the width"] == 8
    ghn = ghn_jax.load("ghn2_fashion_mnist")
    embedding = ghn_jax.embed(ghn_jax.build_graph(ghn_jax.named("resnet50")), ghn)
    references = np.stack([ghn_jax.embed(graph, ghn) for graph in forecast._reference_graphs()])
    away = (embedding - references.mean(0)) / references.std(0)
    assert features["distance of the embedding"] == pytest.approx(np.sqrt(np.mean(away**2)), rel=1e-3)
    vit = dict(zip(FEATURES, report_of("vit").features, strict=True))
    assert vit["attention"] == 1


def test_distance_is_that_from_training_networks():
    ghn = GHN.init(HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8), 0)
    found = np.stack([ghn_jax.embed(graph, ghn) for graph in forecast._reference_graphs()])
    assert len(found) == forecast.REFERENCES
    assert forecast.distance(found.mean(0), ghn) == 0
    away = found.mean(0) + 3 * found.std(0)
    assert forecast.distance(away, ghn) == pytest.approx(3, rel=1e-3)
    assert 0.5 < np.mean([forecast.distance(one, ghn) for one in found]) < 1.1


def test_those_of_the_package_are_stored(monkeypatch):
    """As they are computed for another hypernetwork; and without embedding anything."""
    names = sorted(ghn_jax.load())
    ghns = [ghn_jax.load(name) for name in names]
    computed = [forecast.references(ghn) for ghn in ghns]
    monkeypatch.setattr(forecast, "embed", None)
    for name, ghn, (mean, deviation) in zip(names, ghns, computed, strict=True):
        found = forecast._references(ghn)
        np.testing.assert_allclose(found[0], mean, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(found[1], deviation, rtol=1e-3, err_msg=name)


def test_networks_like_those_of_training_are_forecast_best():
    """Mean accuracies relative to the test split are 1.0, 0.6 (wide) and 0.35 (bnfree); ViT has 0.15."""
    means = {
        split: np.mean([report_of(f"{split}/{number}").forecast.accuracy for number in (1, 3, 5)])
        for split in ("test", "wide", "bnfree")
    }
    assert means["test"] > 0.8 and means["test"] > means["wide"] + 0.15 and means["test"] > means["bnfree"] + 0.3
    vit = report_of("vit").forecast
    assert vit.accuracy < 0.6 and vit.reasons and vit.helps < report_of("test/1").forecast.helps
    assert vit == dataclasses.replace(vit)


def test_traced_models_have_one_too():
    import jax.numpy as jnp
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(32, (3, 3))(x)).mean((1, 2))
            return nn.Dense(10)(x)

    found = ghn_jax.report(ghn_jax.trace(Model(), jnp.ones((2, 32, 32, 3)))).forecast
    assert 0 <= found.accuracy < 2 and 0 < found.helps < 1 and str(found).startswith("forecast: ")
