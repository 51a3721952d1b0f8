"""The examples run as they stand."""

import runpy
import sys

import pytest
import scripts

EXAMPLES = scripts.ROOT / "examples"


def run(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_linen(monkeypatch, capsys):
    run("predict_linen.py", monkeypatch)
    assert "11 parameter tensors, 94,762 elements, 13 nodes: seen 11 tensors (100.0%)" in capsys.readouterr().out


def test_nnx(monkeypatch, capsys):
    try:
        import flax.nnx  # noqa: F401
    except Exception as error:  # some versions of flax.nnx cannot be imported with some of jax
        pytest.skip(f"flax.nnx: {error}")
    run("predict_nnx.py", monkeypatch)
    assert "16 parameter tensors, 113,610 elements, 18 nodes: seen 16 tensors (100.0%)" in capsys.readouterr().out


@pytest.mark.slow
def test_fine_tuning(monkeypatch, capsys):
    run("fine_tune.py", monkeypatch, "--dataset=digits", "--steps=2", "--every=1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].split() == ["steps", "predicted", "initialised"]
    assert [line.split()[0] for line in lines[-3:]] == ["0", "1", "2"]
