"""Packing a run into one file."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import ghn_jax
from ghn_jax.cli import pack
from ghn_jax.cli.main import main
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.training.loop import Progress
from ghn_jax.weights import checkpoint, run_checkpoints

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)


@pytest.fixture
def run(tmp_path):
    """Makes a folder as experiments/train.py leaves it."""

    def make(name: str, step: int, **fields) -> Path:
        config = {"dataset": "digits", "data_dir": "/somewhere", "ghn": "ghn2", "meta_batch": 2, "start": "random"}
        config |= {"steps": 1200, "decay_at": [0.5, 0.8], "workdir": "/somewhere/else"}
        progress = Progress(step, minutes=3.21).to_json()
        description = checkpoint.Description(SMALL, CIFAR10, step, config | fields, progress)
        run_checkpoints.save(tmp_path / name, description, {"params": GHN.init(SMALL, step).params})
        return tmp_path / name

    return make


@pytest.fixture
def config_file(tmp_path) -> str:
    """A configuration file like `run`'s, but for what a test says otherwise."""
    path = tmp_path / "config.py"
    path.write_text(
        "from ghn_jax.training.config import config_dict\n\n\ndef get_config():\n"
        '    return config_dict(dataset="digits", workdir="runs/digits", meta_batch=2, steps=1200, decay_at=(0.7,))\n'
    )
    return f"--config={path}"


def test_weights_and_provenance(run, config_file, tmp_path):
    out = tmp_path / "packed.npz"
    table = tmp_path / "splits.json"
    table.write_text(json.dumps({"what": "of two", "accuracy": {"mine": {"test": {"mean": 0.5, "best": 0.75}}}}))
    main(
        [
            "pack",
            str(run("run", 7, ghn="mlp")),
            config_file,
            f"--out={out}",
            "--licence=MIT",
            f"--accuracy={table}:mine",
            "--exact",
        ]
    )
    jax.tree.map(np.testing.assert_array_equal, ghn_jax.load(out).params, GHN.init(SMALL, 7).params)
    known = ghn_jax.provenance(out)
    assert known["steps"] == 7 and known["architectures_seen"] == 14 and known["minutes"] == 3.2
    assert known["licence"] == "MIT" and known["accuracy"] == {"what": "of two", "test": {"mean": 0.5, "best": 0.75}}
    assert "started_from" not in known and "somewhere" not in json.dumps(known)
    changed = "--config.decay_at='(0.5, 0.8)' --config.ghn=mlp"
    assert known["command"] == f"python experiments/train.py {config_file} {changed}"


def test_steps_before_the_start_count(run, config_file, tmp_path):
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    main(["pack", str(run("one", 7)), config_file, f"--out={first}"])
    main(["pack", str(run("two", 5, start=str(first), meta_batch=4)), config_file, f"--out={second}"])
    known = ghn_jax.provenance(second)
    assert known["steps"] == 12 and known["architectures_seen"] == 14 + 20
    assert known["started_from"]["steps"] == 7
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(GHN.init(SMALL, 5).params))
    for got, expected in zip(
        jax.tree.leaves(ghn_jax.load(second).params), jax.tree.leaves(GHN.init(SMALL, 5).params), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=largest * 2**-11)  # half precision


def test_stages_that_were_not_packed_count(run, config_file, tmp_path):
    one = run("one", 7)
    two = run("two", 5, start=str(one), meta_batch=4)
    main(["pack", str(run("three", 3, start=str(two))), config_file, f"--out={tmp_path / 'three.npz'}"])
    known = ghn_jax.provenance(tmp_path / "three.npz")
    assert known["steps"] == 7 + 5 + 3 and known["architectures_seen"] == 14 + 20 + 6
    assert known["started_from"]["steps"] == 12 and known["started_from"]["started_from"]["steps"] == 7


def test_bad_arguments(run, config_file, tmp_path):
    folder, out = run("run", 1), tmp_path / "packed.npz"
    with pytest.raises(SystemExit, match="there is no"):
        main(["pack", str(tmp_path / "nothing"), config_file, f"--out={out}"])
    with pytest.raises(SystemExit, match="expected a name ending in .npz"):
        main(["pack", str(folder), config_file, f"--out={tmp_path / 'packed'}"])
    with pytest.raises(SystemExit, match="expected FILE:TITLE"):
        main(["pack", str(folder), config_file, f"--out={out}", "--accuracy=nothing"])
    table = tmp_path / "splits.json"
    table.write_text(json.dumps({"what": "", "accuracy": {"mine": {}}}))
    with pytest.raises(SystemExit, match="has mine"):
        main(["pack", str(folder), config_file, f"--out={out}", f"--accuracy={table}:other"])
    for text in (None, "nonsense =", "fields = {}"):
        foreign = tmp_path / "foreign.py"
        if text is not None:
            foreign.write_text(text)
        with pytest.raises(SystemExit, match="expected a configuration file"):
            main(["pack", str(folder), f"--config={foreign}", f"--out={out}"])
    assert not out.exists()


def test_nothing_is_replaced_unasked(run, config_file, tmp_path):
    out = tmp_path / "packed.npz"
    out.write_text("of an earlier run")
    words = ["pack", str(run("run", 7)), config_file, f"--out={out}"]
    with pytest.raises(SystemExit, match=f"--out={out} exists; --overwrite replaces it"):
        main(words)
    assert out.read_text() == "of an earlier run"
    main([*words, "--overwrite"])
    assert ghn_jax.provenance(out)["steps"] == 7


def test_runs_that_say_what_cannot_be(run, config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "_MOST_STARTS", 2)
    out = f"--out={tmp_path / 'packed.npz'}"
    itself = run("itself", 1, start=str(tmp_path / "itself"))
    for folder, message in (
        (run("batch", 1, meta_batch="x"), "batch: meta_batch='x': expected an integer"),
        (run("start", 1, start=None), "start: start=None: expected a text"),
        (itself, "itself started from .* after 2 others"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["pack", str(folder), config_file, out])
    ghn_jax.save(ghn_jax.load(str(run("good", 1))), tmp_path / "good.npz")
    with pytest.raises(SystemExit, match="no checkpoint at .*good.npz: expected the workdir of a run"):
        main(["pack", str(tmp_path / "good.npz"), config_file, out])
