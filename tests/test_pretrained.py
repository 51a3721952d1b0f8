"""The hypernetwork in the package, and files like it."""

import jax
import numpy as np
import pytest

from ghn_jax import build_graph, named, predict_params, pretrained
from ghn_jax.checkpoint import CheckpointError
from ghn_jax.ghn.config import HypernetConfig, ghn2
from ghn_jax.predict import GHN

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)


def test_round_trip(tmp_path):
    ghn = GHN.init(SMALL, seed=0)
    pretrained.write(tmp_path / "small.npz", ghn, {"steps": 3})
    read, about = pretrained.read(tmp_path / "small.npz")
    assert read.config == SMALL and about == {"steps": 3}
    assert jax.tree.structure(read.params) == jax.tree.structure(ghn.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), read.params, ghn.params)
    assert [path.name for path in tmp_path.iterdir()] == ["small.npz"]


def test_bad_files(tmp_path):
    with pytest.raises(CheckpointError, match="no hypernetwork at"):
        pretrained.read(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(CheckpointError, match="holds no hypernetwork"):
        pretrained.read(tmp_path / "text.npz")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="holds no hypernetwork"):
        pretrained.read(tmp_path / "foreign.npz")


def test_default_is_the_one_in_the_package():
    ghn = pretrained.load()
    assert ghn.config == ghn2()
    about = pretrained.about()
    assert about["dataset"] == "fashion_mnist" and about["steps"] > 1000
    graph = build_graph(named("vit"))
    by_default, by_name = predict_params(graph), predict_params(graph, ghn)
    assert list(by_default) == [tensor.name for tensor in graph.tensors]
    for tensor in graph.tensors:
        assert by_default[tensor.name].shape == tensor.shape
        np.testing.assert_array_equal(by_default[tensor.name], by_name[tensor.name])
        assert np.isfinite(by_default[tensor.name]).all()
