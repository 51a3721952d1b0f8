"""`ghn-jax import`, as a user runs it."""

import hashlib
import pathlib

import jax
import numpy as np
import pytest
from reference import REFERENCE, needs_reference
from torch_files import write_checkpoint

import ghn_jax
from ghn_jax.cli.main import main
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import conversion, pretrained

SMALL = HypernetConfig(max_shape=(6, 4, 3, 3), num_classes=5, weight_norm=True, ve=True, layernorm=True, hid=8)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        main(["import", *arguments])
        return capsys.readouterr().out

    return call


def test_says_what_a_file_is(run, tmp_path):
    write_checkpoint(tmp_path / "ghn.pt", SMALL)
    out = run("ghn.pt")
    assert "GHN-2: gatedgnn, conv decoder, 8 features a node" in out
    assert "virtual edges, normalised weights, layer norm" in out
    assert "networks for 5 classes" in out and "tensors of up to 6x4x3x3" in out
    assert [line.split() for line in out.splitlines() if "epochs" in line] == [["epochs", "300"]]
    count = sum(leaf.size for leaf in jax.tree.leaves(GHN.init(SMALL, seed=0).params))
    assert f"{count:,} in 31 arrays" in out and "written" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["ghn.pt"]


@pytest.mark.parametrize(("out", "written"), [("new/mine.npz", "new/mine.npz"), ("new/folder", "new/folder/ghn.npz")])
def test_converts_exactly(run, tmp_path, out, written):
    state = write_checkpoint(tmp_path / "ghn.pt", SMALL, {"epoch": None})
    printed = run("ghn.pt", f"--out={out}", "--dataset=cifar10")
    assert f"written: {written}\n" in printed and "not recorded" in printed
    ghn = ghn_jax.load(written)
    assert ghn.config == SMALL
    jax.tree.map(np.testing.assert_array_equal, ghn.params, conversion.params_from_torch(state, SMALL))
    digest = hashlib.sha256((tmp_path / "ghn.pt").read_bytes()).hexdigest()
    assert pretrained.read_about(written)[1] == {
        **{"dataset": "cifar10", "converted_from": "ghn.pt", "sha256": digest, "epochs": None},
    }
    assert [path.name for path in (tmp_path / written).parent.iterdir()] == [pathlib.Path(written).name]


def test_nothing_is_replaced_unasked(run, tmp_path):
    write_checkpoint(tmp_path / "ghn.pt", SMALL)
    (tmp_path / "mine.npz").write_text("mine")
    with pytest.raises(SystemExit, match="--out=mine.npz exists; --overwrite replaces it"):
        run("ghn.pt", "--out=mine.npz")
    assert (tmp_path / "mine.npz").read_text() == "mine"
    run("ghn.pt", "--out=mine.npz", "--overwrite")
    assert ghn_jax.load("mine.npz").config == SMALL


def test_errors_are_one_line_and_write_nothing(run, tmp_path):
    write_checkpoint(tmp_path / "other.pt", SMALL, {"state_dict": {}})
    (tmp_path / "text.pt").write_text("text")
    (tmp_path / "half.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:200])
    before = sorted(tmp_path.iterdir())
    cases = {"other": "missing", "text": "no file of weights", "half": "no file of weights", "nothing": "no file at"}
    for name, message in cases.items():
        with pytest.raises(SystemExit) as stopped:
            run(f"{name}.pt", "--out=new/mine.npz")
        assert message in stopped.value.code and "\n" not in stopped.value.code  # a text: exit status 1
    write_checkpoint(tmp_path / "other.pt", SMALL)
    with pytest.raises(SystemExit, match="Not a directory|File exists"):
        run("other.pt", "--out=text.pt/mine.npz")
    assert sorted(tmp_path.iterdir()) == before


@needs_reference
def test_the_reference_checkpoint(run, tmp_path):
    assert "1,620,764 in 31 arrays" in run(str(REFERENCE / "ghn2_cifar10.pt"), "--out=.")
    _, params = conversion.load_npz(REFERENCE / "ghn2_cifar10.npz")
    jax.tree.map(np.testing.assert_array_equal, ghn_jax.load("ghn2_cifar10.npz").params, params)
