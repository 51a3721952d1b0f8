"""The check against published figures, on small files of the same form."""

import json
import math
import re

import jax
import numpy as np
import pytest
import scripts
from flax import linen as nn
from torch_files import as_published, joblib_bytes, random_state_dict, write_checkpoint

import ghn_jax
from ghn_jax import images
from ghn_jax.ghn.config import HypernetConfig

GHN3 = HypernetConfig(
    max_shape=(6, 4, 3, 3), num_classes=5, hypernet="graphormer", decoder="conv3",
    weight_norm=True, ve=True, layernorm=True, hid=8, heads=2, layers=3,
)  # fmt: skip
GHN2 = HypernetConfig(max_shape=(8, 8, 11, 11), weight_norm=True, ve=True, layernorm=True, hid=8)

check_parity = scripts.load("benchmarks/check_parity.py")
published = check_parity.published_figures


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(8, (3, 3), strides=4)(x)))
        return nn.Dense(5)(x.mean((1, 2)))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with weights and results for one model, and the norm of what is predicted for it."""
    monkeypatch.setattr(published, "TWINS", {"small": Small})
    (tmp_path / "ghn3tm8.pt").write_bytes(joblib_bytes(as_published(GHN3, random_state_dict(GHN3))))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    params = ghn_jax.predict_params(ghn_jax.trace(Small(), image), ghn_jax.load(tmp_path / "ghn3tm8.pt"))
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(3, 3, 3, 8), (8,), (8, 5), (5,)}
    return tmp_path, math.sqrt(sum(np.square(np.asarray(p, np.float64)).sum() for p in jax.tree.leaves(params)))


def write_results(folder, norm):
    norms = {f"{key}-paramnorm": f"{norm:.4f}" for key in ("ghn2", "ghn3-t", "ghn3")}
    (folder / "ghn3_results.json").write_text(json.dumps({"small": norms, "another": {"ghn3-t": "0.1"}}))


def test_norms_agree(hub, capsys):
    folder, norm = hub
    write_results(folder, norm + 5e-3)
    assert check_parity.main([f"--published={folder}"]) == 0
    # The norm was rounded to four digits.
    assert re.search(r"torchvision: 1 checked, worst error 0\.00(5|49|51) \(allowed 1e-02\)", capsys.readouterr().out)


def test_a_norm_that_is_off(hub, capsys):
    folder, norm = hub
    write_results(folder, norm + 2e-2)
    assert check_parity.main([f"--published={folder}"]) == 1
    assert "ghn3_results.json: small of ghn3tm8.pt has an error of 0.02, allowed are 0.01" in capsys.readouterr().out


@pytest.mark.parametrize("results", [None, "[1, 2]", '{"small": {"ghn2-paramnorm": "1.0"}}', "{"])
def test_other_results(hub, capsys, results):
    folder, _ = hub
    if results is not None:
        (folder / "ghn3_results.json").write_text(results)
    assert check_parity.main([f"--published={folder}"]) == 1
    assert "ghn3_results.json: expected the results of GHN-3's hub" in capsys.readouterr().err


def test_no_weights(tmp_path, capsys):
    assert check_parity.main([f"--published={tmp_path}"]) == 1
    assert "expected at least one of ghn2.pt, ghn3tm8.pt" in capsys.readouterr().err


def test_accuracies(tmp_path, monkeypatch, capsys):
    """Of the networks in a file of the published form, on random images."""
    for name in ("deepnets1m_eval.hdf5", "deepnets1m_eval_meta.json"):
        (tmp_path / name).write_bytes((scripts.ROOT / "tests" / "data" / "parity" / name).read_bytes())
    write_checkpoint(tmp_path / "ghn2_cifar10.pt", GHN2)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20) % 10
    data = images.from_arrays(pixels, labels, test=(pixels, labels), num_classes=10)
    monkeypatch.setattr(images, "load", lambda name, data_dir: data)
    ghn = ghn_jax.load(tmp_path / "ghn2_cifar10.pt")
    found = published.mean_accuracy(tmp_path, "val", ghn, data)
    assert found in np.arange(41) / 40  # two networks, 20 images
    monkeypatch.setattr(published, "mean_accuracy", lambda *_: found)  # which takes its time
    for given, status in ((found + 0.009, 0), (found + 0.011, 1)):
        monkeypatch.setattr(published, "CIFAR10_ACCURACIES", {"val": given})
        assert check_parity.main([f"--published={tmp_path}"]) == status
    assert "ghn2_cifar10.pt: val has an error of 0.011" in capsys.readouterr().out
