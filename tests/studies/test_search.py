"""Search: the best predicted networks are found, and splits that are not there are refused."""

import json

import numpy as np
import pytest
import scripts

from ghn_jax import images
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import Architecture, Genotype
from ghn_jax.studies import properties, search, train_networks
from ghn_jax.studies.search import Candidates
from ghn_jax.studies.train_networks import NetworkId, StudyError
from ghn_jax.weights import pretrained

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)
EDGES = (("conv_1x1", 0), ("none", 1))
CELL = Genotype(EDGES, (2,), EDGES, (2,))


def architecture(split, number, large_images=False):
    if split not in ("val", "search"):
        raise KeyError(split)
    return Architecture(CELL, n_cells=1 + number % 10, C=8, fc_dim=16)


def test_the_best_predicted_ones_are_chosen(monkeypatch):
    monkeypatch.setattr(properties, "GRID", {"C": [100], "gamma": [0.1], "epsilon": [0.05]})
    rng = np.random.default_rng(0)

    def looked_at(split, count):
        """The first number of an embedding tells the property, and that of the counts something else."""
        entries = [NetworkId(split, number) for number in range(count)]
        vectors, counts = ({search.name_of(e): rng.standard_normal(3) for e in entries} for _ in range(2))
        return Candidates(entries, vectors, counts, {name: place for place, name in enumerate(vectors)})

    fitted, candidates = looked_at("val", 40), looked_at("search", 20)
    measured = {name: 60 + 8 * vector[0] for name, vector in fitted.vectors.items()}
    chosen = search.choose(candidates, measured, fitted, best=3, random=5)
    order = sorted(candidates.vectors, key=lambda name: -candidates.vectors[name][0])
    assert {search.name_of(entry) for entry in chosen[search.BEST]} <= set(order[:5])
    assert len(set(chosen[search.AT_RANDOM])) == 5 and chosen[search.LARGEST] == [NetworkId("search", 19)]
    assert len(chosen[search.COUNTS]) == 3
    worst = search.choose(candidates, measured, fitted, best=3, random=5, highest=False)[search.BEST]
    assert {search.name_of(entry) for entry in worst} <= set(order[-5:])
    swapped = fitted._replace(vectors=fitted.counts, counts=fitted.vectors)
    others = candidates._replace(vectors=candidates.counts, counts=candidates.vectors)
    assert search.choose(others, measured, swapped, best=3, random=5)[search.COUNTS] == chosen[search.BEST]
    with pytest.raises(StudyError, match="20 candidates: expected at least 30"):
        search.choose(candidates, measured, fitted, best=3, random=30)


def test_a_split_that_is_not_there():
    with pytest.raises(StudyError, match="there is no network searching/0"):
        search.look_at([NetworkId("searching", 0)], GHN.init(SMALL, 0), images.load("digits"))
    with pytest.raises(StudyError, match="there is no split 'searching': expected one of"):
        train_networks.first_networks(["searching"], 1, images.load("digits"))


def test_script(tmp_path, monkeypatch, capsys):
    for module in (search, train_networks):
        monkeypatch.setattr(module, "sample_architecture", architecture)
    monkeypatch.setattr(train_networks, "ALL_SPLITS", ("val", "search"))
    script = scripts.load("experiments/search.py")
    pretrained.write(tmp_path / "ghn.npz", GHN.init(SMALL, 0), {})
    rows = [
        {"split": "val", "number": number, "start": "he", "parameters": 1, "multiply_adds": 1}
        | {"accuracy": {"5": 0.1, "10": 0.05 * number}, "noisy_accuracy": {"10": 0.1}, "train_accuracy": [0.1] * 10}
        for number in range(10)
    ]
    (tmp_path / "networks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [str(tmp_path / "networks.jsonl"), "--dataset=digits", f"--checkpoint={tmp_path / 'ghn.npz'}"]
    arguments += ["--num=3", "--best=1", "--random=2", "--steps=1", "--batch_size=16", "--test_images=32"]
    arguments += ["--image_size=16", "--protocol=darts"]
    script.main([*arguments, f"--out={tmp_path / 'out'}"])
    row, *_ = map(json.loads, (tmp_path / "out" / "networks.jsonl").read_text().splitlines())
    assert row["regularization"] == {"cutout": 8, "drop_path": 0.2, "auxiliary": 0.4}
    output = capsys.readouterr().out
    assert "The best of 3 networks of search, fitted to 10 networks" in output and "| random | " in output
    assert (tmp_path / "out" / "search.md").read_text() in output
    with pytest.raises(SystemExit):
        script.main([*arguments[:3], "--steps=0", "--out=x"])
