"""Kinds of networks and their accuracies."""

import numpy as np
import pytest
import scripts

import ghn_jax
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation import json_lines
from ghn_jax.images import from_arrays
from ghn_jax.studies import weak_networks


def test_kinds():
    rows = [{"split": "test", "number": n, "accuracy": {"A": n / 100}} for n in range(12)]
    rows += [{"split": "bnfree", "number": 0, "accuracy": {"A": 0.5}}, {"split": "test", "number": 30, "accuracy": {}}]
    found = weak_networks.by_kind(rows, "test", "A")
    attention = [n for n in range(12) if sample_architecture("test", n).has_attention]
    assert 0 < len(attention) < 12
    assert found["attention"]["number"] == len(attention)
    assert found["attention"]["mean"] == pytest.approx(np.mean(attention) / 100)
    assert found["all"]["mean"] == pytest.approx(0.055)
    assert found["up to 10 cells"]["number"] + found["more than 10 cells"]["number"] == 12
    assert weak_networks.by_kind(rows, "bnfree", "A")["no normalisation"]["mean"] == 0.5
    assert "batch norm" not in weak_networks.by_kind(rows, "bnfree", "A")


def test_script(tmp_path, monkeypatch, capsys):
    """The accuracy of the only transformer, of one cell with 8 channels, is that of its predicted parameters."""
    script = scripts.load("experiments/weak_networks.py")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20) % 10
    data = from_arrays(images, labels, test=(images, labels))
    monkeypatch.setattr(script, "load_several", lambda *_: ({"A": ghn_jax.load("ghn2_cifar10")}, data))
    row = {"split": "test", "number": 1, "images": 64, "accuracy": {"A": 0.25}}
    json_lines.append(tmp_path / "networks.jsonl", row)
    script.main(
        ["A=a", "--dataset=d", f"--networks={tmp_path}/networks.jsonl", "--splits=test", "--widths=8", "--cells=1",
         "--num_images=20"]
    )  # fmt: skip
    (value,) = weak_networks.transformers(ghn_jax.load("ghn2_cifar10"), data, [8], [1], 20)[0]
    printed = capsys.readouterr().out
    assert "| all | 1 | 25.0 +- nan |" in printed
    assert f"| channels | 1 cells |\n|---|---|\n| 8 | {100 * value:.1f} |" in printed
