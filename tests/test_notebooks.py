"""Committed notebooks are those of their sources, were run, and have no error in them; `make notebooks` runs them."""

import ast
import os
from pathlib import Path

import pytest
import scripts

import ghn_jax
from ghn_jax.images import fashion_mnist, fetching

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
build = scripts.load("notebooks/build.py")


@pytest.mark.parametrize("name", build.NAMES)
def test_notebooks_agree_with_their_sources(name):
    assert build.disagreement(name) is None


@pytest.mark.parametrize("name", build.NAMES)
def test_outputs_are_of_a_run_without_errors_and_say_on_what(name):
    stored = nbformat.read(build.FOLDER / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in stored.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "device(s): " in text and "CPU cores" in text
    assert "/root" not in str(outputs) and "/home" not in str(outputs)


def test_links_to_colab_wait_for_the_address_of_the_repository(monkeypatch):
    assert "http" not in build.badge("predict")
    monkeypatch.setattr(build, "REPOSITORY", "owner/name")
    assert "colab.research.google.com/github/owner/name/blob/main/notebooks/predict.ipynb" in build.badge("predict")


@pytest.mark.parametrize("name", ["predict", "your_model", "train_on_tpu", "paper"])
def test_without_images_or_network_a_notebook_says_what_to_do_and_goes_on_with_the_digits(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    offline = "http://localhost:9/"  # where nothing listens
    monkeypatch.setattr(fetching.fetch_fashion_mnist, "__defaults__", (offline,))
    (cell,) = (cell.source for cell in build.notebook(name).cells if "except ghn_jax.ImageError" in cell.source)
    statements = ast.parse(cell).body
    last = next(number for number, statement in enumerate(statements) if isinstance(statement, ast.Try))
    names = {"ghn_jax": ghn_jax, "os": os, "Path": Path}
    exec(compile(ast.Module(statements[: last + 1], []), f"{name}.ipynb", "exec"), names)
    said = capsys.readouterr().out
    assert names["data"].name == "digits"
    assert "apt-get install dataset-fashion-mnist" in said and "Going on with the digits" in said
    assert ("cannot be fetched" in said) == (name == "train_on_tpu")  # the others fetch nothing
