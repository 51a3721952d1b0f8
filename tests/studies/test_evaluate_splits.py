"""The comparison of hypernetworks over the test splits."""

import json
from pathlib import Path

import numpy as np
import pytest
import scripts
from small_runs import SMALL, TWO_OPERATIONS

import ghn_jax
from ghn_jax.errors import GHNError
from ghn_jax.evaluation import json_lines
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Split
from ghn_jax.networks.architecture import Architecture
from ghn_jax.studies import evaluate_splits
from ghn_jax.weights import pretrained


@pytest.fixture(scope="module")
def script():
    return scripts.load("experiments/evaluate_splits.py")


def test_every_network_has_its_own_images():
    split = Split(np.arange(10)[:, None], np.arange(10))
    assert evaluate_splits.own_images(split, 0, 4).labels.tolist() == [0, 1, 2, 3]
    assert evaluate_splits.own_images(split, 2, 4).labels.tolist() == [8, 9, 0, 1]
    assert evaluate_splits.own_images(split, 2, 4).images[:, 0].tolist() == [8, 9, 0, 1]


def test_table():
    found = {"test": {"a": [0.5, 0.7], "He init": [0.1, 0.1]}, "resnet50": {"a": [0.25]}}
    assert evaluate_splits.table(found, ["a", "He init"]).splitlines() == [
        "|  | test (2) | resnet50 |",
        "| --- | --- | --- |",
        "| a | 60.0 +- 10.0, 70.0 | 25.0 |",
        "| He init | 10.0 +- 0.0, 10.0 |  |",
    ]


def test_goes_on_where_it_was(script, tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        pretrained.write(tmp_path / f"{seed}.npz", GHN.init(SMALL, seed), {})
    monkeypatch.setattr(
        evaluate_splits,
        "networks_of",
        lambda split, most, large: [
            (n, Architecture(TWO_OPERATIONS, n_cells=1 + n, C=8, fc_dim=16)) for n in range(most)
        ],
    )

    def run(num, *hypernetworks):
        arguments = ["--dataset=digits", "--num_images=64", "--splits", "test", f"--num={num}", f"--out={tmp_path}"]
        script.main([*arguments, *hypernetworks])
        return [json.loads(line) for line in (tmp_path / "networks.jsonl").read_text().splitlines()]

    rows = run(1, f"first={tmp_path / '0.npz'}")
    assert [(row["number"], set(row["accuracy"])) for row in rows] == [(0, {"first", "He init"})]
    rows = run(2, f"first={tmp_path / '0.npz'}", f"second={tmp_path / '1.npz'}")
    assert [(row["number"], set(row["accuracy"])) for row in rows[1:]] == [
        (0, {"second"}),
        (1, {"first", "second", "He init"}),
    ]
    assert "| second |" in capsys.readouterr().out
    assert (tmp_path / "splits.png").stat().st_size > 5000
    fingerprints = [ghn_jax.load(tmp_path / f"{seed}.npz").fingerprint for seed in (0, 1)]
    assert rows[2]["weights"] == dict(zip(("first", "second"), fingerprints, strict=True))
    with pytest.raises(GHNError, match="has accuracies of 'first' with other weights"):
        run(2, f"first={tmp_path / '1.npz'}")
    stored = json.loads((tmp_path / "splits.json").read_text())["accuracy"]
    assert set(stored) == {"first", "second", "He init"}
    assert stored["first"]["test"]["networks"] == 2
    both = [rows[0]["accuracy"]["first"], rows[2]["accuracy"]["first"]]
    assert stored["first"]["test"]["mean"] == pytest.approx(np.mean(both))
    assert run(2, f"first={tmp_path / '0.npz'}", f"second={tmp_path / '1.npz'}") == rows
    with pytest.raises(GHNError, match="has accuracies on 64 images, other than --num_images=128"):
        run(2, f"first={tmp_path / '0.npz'}", "--num_images=128")
    with pytest.raises(GHNError, match=r"has accuracies with noise 0.0, other than --noise=0.08"):
        run(2, f"first={tmp_path / '0.npz'}", "--noise=0.08")
    for name in ("networks.jsonl", "splits.md", "splits.json", "splits.png"):
        (tmp_path / name).unlink()
    (row,) = run(1, f"first={tmp_path / '0.npz'}", "--noise=0.08")
    assert row["noise"] == 0.08 and "test images with noise 0.08" in capsys.readouterr().out
    assert evaluate_splits.images_of("test", 64) == 64 and evaluate_splits.images_of("predefined", 64) == 1024


def test_bad_arguments(script, capsys):
    for bad, message in (
        ("--num_images=100", "expected a multiple of 64"),
        ("--num=0", "expected an integer from 1 to"),
        ("He init=b", "expected another"),
    ):
        with pytest.raises(SystemExit):
            script.main(["--dataset=digits", "--out=nowhere", "a=b", bad])
        assert message in capsys.readouterr().err
    for bad, message in (("a=nothing_like_that", "nothing_like_that"), ("ghn2", "'ghn2': expected TITLE=WHAT")):
        with pytest.raises(GHNError, match=message):
            script.main(["--dataset=digits", "--out=nowhere", bad])
    assert not Path("nowhere").exists()


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "networks.jsonl"
    row = {"split": "test", "number": 0, "images": 64, "accuracy": {"a": 0.5}}
    path.write_text(json.dumps(row) + '\n{"split": "te')
    assert evaluate_splits._measured(path, 64, 0.0, "digits", {}) == {("test", 0): {"a"}}
    json_lines.append(path, row | {"number": 1})
    assert evaluate_splits.collect(path, ["a"]) == {"test": {"a": [0.5, 0.5]}}


def test_what_two_processes_measured_counts_once(tmp_path):
    path = tmp_path / "networks.jsonl"
    row = {"split": "test", "number": 0, "images": 64, "dataset": "digits"}
    for accuracy in ({"a": 0.5}, {"a": 0.5, "b": 0.25}, {"b": 0.75}):
        json_lines.append(path, row | {"accuracy": accuracy})
    json_lines.append(path, row | {"number": 1, "accuracy": {"a": 1.0}})
    assert evaluate_splits.collect(path, ["a", "b"]) == {"test": {"a": [0.5, 1.0], "b": [0.25]}}
    assert [one["accuracy"] for one in evaluate_splits.rows(path)] == [{"a": 0.5}, {"b": 0.25}, {"a": 1.0}]
    with pytest.raises(GHNError, match="has accuracies on images of 'digits', other than --dataset=cifar10"):
        evaluate_splits._measured(path, 64, 0.0, "cifar10", {})


def test_a_title_keeps_its_weights(tmp_path):
    path = tmp_path / "networks.jsonl"
    row = {"split": "test", "number": 0, "images": 64, "accuracy": {"a": 0.5, "b": 0.25}}
    json_lines.append(path, row | {"weights": {"a": "1", "b": "2"}})
    json_lines.append(path, row | {"number": 1})  # of an older version, which did not store any
    done = evaluate_splits._measured(path, 64, 0.0, "digits", {"a": "1", "c": "3"})
    assert done == {("test", 0): {"a", "b"}, ("test", 1): {"a", "b"}}
    with pytest.raises(GHNError, match="has accuracies of 'b' with other weights: choose another title, or another"):
        evaluate_splits._measured(path, 64, 0.0, "digits", {"a": "1", "b": "3"})
