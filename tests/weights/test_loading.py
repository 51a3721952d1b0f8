"""`ghn_jax.load`: from the package, a checkpoint folder, and files."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from torch_files import random_ghn, write_checkpoint

import ghn_jax
from ghn_jax.ghn.config import HypernetConfig, ghn2
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, IMAGENET, Task
from ghn_jax.runtime import counted
from ghn_jax.weights import checkpoint, conversion, loading, pretrained, run_checkpoints
from ghn_jax.weights.errors import CheckpointError

SMALL = HypernetConfig(max_shape=(6, 4, 3, 3), num_classes=5, weight_norm=True, ve=True, layernorm=True, hid=8)


def same(ghn, other) -> None:
    assert ghn.config == other.config
    jax.tree.map(np.testing.assert_array_equal, ghn.params, other.params)


def test_list_of_what_the_package_has():
    shelf = ghn_jax.load()
    assert set(shelf) == set(pretrained.paths()) >= {"ghn2_fashion_mnist"} and len(shelf) == len(pretrained.paths())
    one = shelf["ghn2_fashion_mnist"]
    assert one.name == "ghn2_fashion_mnist" and one.config == ghn2() and one.dataset == "fashion_mnist"
    assert one.steps == pretrained.about()["steps"] and 0.1 < one.accuracy < 1
    lines = repr(shelf).splitlines()
    assert lines[0].split() == ["name", "kind", "data", "set", "steps", "accuracy"] and len(lines) == 1 + len(shelf)
    row = next(line for line in lines if line.startswith("ghn2_fashion_mnist "))
    assert row.split() == ["ghn2_fashion_mnist", "GHN-2", "fashion_mnist", f"{one.steps:,}", f"{one.accuracy:.1%}"]
    for name, shipped in shelf.items():
        assert ghn_jax.load(name).config == shipped.config and shipped.accuracy > 0.1 and shipped.provenance["licence"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        shelf["other"] = one


def test_a_provenance_with_less_in_it_is_listed_too():
    shelf = loading.Shelf({"mine": loading.Shipped("mine", SMALL, {})})
    assert repr(shelf).splitlines()[1].split() == ["mine", "GHN-2"]


def test_by_name():
    assert ghn_jax.load("ghn2_fashion_mnist") is pretrained.load()
    assert ghn_jax.provenance("ghn2_fashion_mnist") == pretrained.about()


def test_to_be_compared():
    found = loading.load_titled(["GHN-2=ghn2_fashion_mnist", "MLP=mlp_fashion_mnist"], num_classes=10)
    assert list(found) == ["GHN-2", "MLP"] and found["GHN-2"] is pretrained.load()
    same(found["MLP"], ghn_jax.load("mlp_fashion_mnist"))
    for entry in ("ghn2_fashion_mnist", "GHN-2=", "=ghn2_fashion_mnist"):
        with pytest.raises(CheckpointError, match=f"'{entry}': expected TITLE=WHAT"):
            loading.load_titled(["MLP=no_such_thing", entry], num_classes=10)
    with pytest.raises(CheckpointError, match="GHN-2 predicts networks of 10 classes, expected 1000"):
        loading.load_titled(["GHN-2=ghn2_fashion_mnist"], num_classes=1000)


def test_a_name_in_the_package_wins_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ghn2_fashion_mnist").write_text("text")
    assert ghn_jax.load("ghn2_fashion_mnist") is pretrained.load()
    with pytest.raises(CheckpointError, match="no file of weights"):
        ghn_jax.load("./ghn2_fashion_mnist")


def test_a_checkpoint_folder(tmp_path):
    ghn = random_ghn(SMALL)
    task = Task(num_classes=5, image_size=28)
    run = {"dataset": "digits", "seed": 3, "data_dir": "/home/someone/data"}
    run_checkpoints.save(tmp_path / "checkpoint", checkpoint.Description(SMALL, task, 7, run), {"params": ghn.params})
    same(ghn_jax.load(tmp_path / "checkpoint"), ghn)
    same(ghn_jax.load(str(tmp_path / "checkpoint")), ghn)
    assert loading.task(tmp_path / "checkpoint", SMALL) == task
    found = ghn_jax.provenance(tmp_path / "checkpoint")
    assert found["dataset"] == "digits" and found["steps"] == 7 and found["task"]["image_size"] == 28
    assert found["train_config"] == {"dataset": "digits", "seed": 3}


def test_our_files(tmp_path):
    ghn = random_ghn(SMALL)
    pretrained.write(tmp_path / "mine.npz", ghn, {"dataset": "digits"}, np.float32)
    same(ghn_jax.load(tmp_path / "mine.npz"), ghn)
    assert ghn_jax.provenance(tmp_path / "mine.npz") == {"dataset": "digits"}


@pytest.mark.parametrize("name", ["ghn.pt", "ghn.pth", "checkpoint"])
def test_published_files(tmp_path, name):
    state = write_checkpoint(tmp_path / name, SMALL)
    same(ghn_jax.load(tmp_path / name), GHN(SMALL, conversion.params_from_torch(state, SMALL)))
    found = ghn_jax.provenance(tmp_path / name)
    assert found["converted_from"] == name and found["epochs"] == 300 and len(found["sha256"]) == 64


def test_tasks_of_files(tmp_path):
    pretrained.write(tmp_path / "mine.npz", random_ghn(SMALL), {})
    assert loading.task(tmp_path / "mine.npz", SMALL) == Task(num_classes=5)
    assert loading.task("ghn2_fashion_mnist", ghn2()) == CIFAR10
    assert loading.task("ghn2_fashion_mnist", ghn2(IMAGENET)) == IMAGENET


def test_what_is_not_there(tmp_path):
    write_checkpoint(tmp_path / "ghn2_cifar10.pt", SMALL)
    close = tmp_path / "ghn2_cifar10.pt"
    with pytest.raises(CheckpointError, match=f"there is no '{tmp_path}/ghn2_cifar10.tp'.*close to it: {close}"):
        ghn_jax.load(tmp_path / "ghn2_cifar10.tp")
    with pytest.raises(CheckpointError, match="there is no 'ghn2_fashon_mnist': expected.*close.*: ghn2_fashion_mnist"):
        ghn_jax.load("ghn2_fashon_mnist")
    with pytest.raises(CheckpointError, match="there is no '/nowhere/x/y': expected.*in the package: .*ghn2_fashion"):
        ghn_jax.provenance("/nowhere/x/y")


@pytest.mark.parametrize("what", [3, "", b"bytes", ghn2, "a" * 5000, "a\0b", "a/" * 3000, ["list"]])
def test_what_nothing_can_be_called(what):
    with pytest.raises(CheckpointError, match="expected the name of a hypernetwork in the package, a checkpoint"):
        ghn_jax.load(what)


def test_other_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}"):
        ghn_jax.load(tmp_path)
    (tmp_path / "README.md").write_text("# Text")
    with pytest.raises(CheckpointError, match="README.md is damaged, or no file of weights"):
        ghn_jax.load(tmp_path / "README.md")


def test_nothing_of_pytorch_or_the_hub_is_imported():
    """Loading a published file needs neither, and importing the package still loads nothing."""
    code = (
        "import sys, ghn_jax; assert 'jax' not in sys.modules; from ghn_jax import load, push_to_hub, from_hub;"
        "assert not {'torch', 'huggingface_hub'} & set(sys.modules); assert 'load' in dir(ghn_jax)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_compiles_nothing(tmp_path):
    """Neither weights of the package nor those of other formats, nor parameters of another type than the network's."""
    network = ghn_jax.ResNet(depths=(1,), width=24)  # of shapes that no other test has
    graph = ghn_jax.build_graph(network)
    ghn = GHN.init(HypernetConfig(max_shape=(24, 24, 3, 3), weight_norm=True, ve=True, layernorm=True, hid=24), 0)
    params = {tensor.name: np.ones(tensor.shape, np.float16) for tensor in graph.tensors}
    names = [tmp_path / name for name in ("ghn.npz", "ghn.safetensors", "params.npz", "params.safetensors", "params")]
    for path in names[:2]:
        ghn_jax.save(ghn, path)
    for path in names[2:]:
        ghn_jax.save(params, path)
    with counted() as compilations:
        for path in names[:2]:
            same(ghn_jax.load(path), ghn)
        for path in names[2:]:
            assert ghn_jax.load_params(path, graph)[graph.tensors[0].name].dtype == np.float32
            assert ghn_jax.load_params(path)[graph.tensors[0].name].dtype == np.float16
    assert not compilations
