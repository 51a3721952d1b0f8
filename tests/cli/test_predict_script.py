"""`ghn-jax predict`, as a user runs it."""

import sys

import jax
import numpy as np
import pytest

import ghn_jax
from ghn_jax.cli.main import main
from ghn_jax.prediction.predict import predict_params

MODELS = """
from flax import linen as nn
import jax, jax.numpy as jnp


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10, param_dtype=jnp.bfloat16)(nn.relu(nn.Conv(8, (3, 3))(x)).mean((1, 2)))


def linen():
    return Net()


def module():
    from flax import nnx

    return nnx.Linear(4, 10, rngs=nnx.Rngs(0))


def function():
    return lambda params, x: jnp.tanh(x) @ params["a"]["b"], {"a": {"b": jax.ShapeDtypeStruct((4, 10), jnp.float32)}}


def broken():
    raise OSError("no such disk")
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with `my_models.py`; returns what it prints."""
    (tmp_path / "my_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_models", raising=False)

    def call(*arguments):
        main(["predict", *arguments])
        return capsys.readouterr().out

    return call


def test_a_linen_model(run, tmp_path):
    out = run("--model=my_models:linen", "--input=2,32,32,3", "--arg=train=false", "--out=new/params.npz")
    assert "Conv_0/kernel   3x3x3x8  conv  seen" in out
    assert "4 parameter tensors, 314 elements, 6 nodes" in out
    assert ", 314 parameters\nwritten: new/params.npz\n" in out
    import my_models

    sample = np.ones((2, 32, 32, 3), np.float32)
    expected = predict_params(ghn_jax.trace(my_models.Net(), sample, train=False))
    with np.load(tmp_path / "new" / "params.npz") as archive:
        assert sorted(archive.files) == ["Conv_0/bias", "Conv_0/kernel", "Dense_0/bias", "Dense_0/kernel"]
        np.testing.assert_array_equal(archive["Conv_0/kernel"], expected["Conv_0"]["kernel"])
        assert archive["Dense_0/kernel"].dtype == np.float32  # bfloat16 in the model
        np.testing.assert_array_equal(archive["Dense_0/kernel"], expected["Dense_0"]["kernel"].astype(np.float32))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["params.npz"]


def test_other_models_and_orbax(run, tmp_path):
    try:
        import flax.nnx  # noqa: F401
    except Exception as error:
        pytest.skip(f"flax.nnx: {error}")
    from orbax.checkpoint import v1 as ocp

    run("--model=my_models:module", "--input=2,4", "--out=module")
    run("--model=my_models:function", "--input=2,4", "--out=function")
    like = {"kernel": jax.ShapeDtypeStruct((4, 10), np.float32), "bias": jax.ShapeDtypeStruct((10,), np.float32)}
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), like)
    stored = ocp.load(tmp_path / "module", like)
    other = ocp.load(tmp_path / "function", {"a": {"b": like["kernel"]}})["a"]["b"]
    assert np.isfinite(stored["kernel"]).all() and other.shape == (4, 10)
    with pytest.raises(SystemExit, match="--out=module exists; --overwrite replaces it"):
        run("--model=my_models:module", "--input=2,4", "--out=module")
    run("--model=my_models:module", "--input=2,4", "--out=module", "--overwrite")
    assert np.isfinite(ocp.load(tmp_path / "module", like)["bias"]).all()


@pytest.mark.parametrize("architecture", ["vit", "test/3"])
def test_architectures(run, tmp_path, architecture):
    out = run(f"--arch={architecture}", "--out=params.npz")
    assert "extrapolating" not in out and "initialised" not in out
    with np.load(tmp_path / "params.npz") as archive:
        assert "classifier.0.weight" in archive.files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=my_models", "--input=1"], "--model=my_models: expected package.module:factory"),
        (["--model=no_such:thing", "--input=1"], "--model=no_such:thing: No module named 'no_such'"),
        (["--model=my_models:thing", "--input=1"], "module 'my_models' has no attribute 'thing'"),
        (["--model=my_models:broken", "--input=1"], "the factory fails: OSError: no such disk"),
        (["--model=my_models:linen", "--input=1,a"], "--input=1,a: expected positive sizes"),
        (["--model=my_models:linen", "--input=1,0"], "--input=1,0: expected positive sizes"),
        (["--model=my_models:linen", "--input=1:int33"], "--input=1:int33: expected positive sizes"),
        (["--model=my_models:linen", "--input=1,8,8,3"], r"Net.init\(float32\[1,8,8,3\]\) fails: .*'train'"),
        (["--model=my_models:function", "--input=2,4", "--arg=1"], "--arg=1: expected name=value"),
        (["--model=my_models:function", "--input=2,5"], r"<lambda>\(float32\[2,5\]\) fails"),
        (["--arch=resnet5000"], "no architecture 'resnet5000': expected an index of the split, a JSON file, or"),
        (["--arch=test/500"], "index 500: split 'test' has architectures 0 to 499"),
        (["--arch=tests/1"], "no architecture 'tests/1': expected .*split/index, as test/7"),
        (["--arch=vit", "--checkpoint=nowhere"], "there is no 'nowhere': expected the name of"),
    ],
)
def test_bad_input(run, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(*arguments, "--out=params.npz")
    assert not (tmp_path / "params.npz").exists()


@pytest.mark.parametrize("arguments", [["--model=my_models:linen"], ["--arch=vit", "--input=1"], []])
def test_contradictory_arguments(run, arguments):
    with pytest.raises(SystemExit):
        run(*arguments)
