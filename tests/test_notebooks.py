"""Committed notebooks are those of their sources, were run, and have no error in them; `make notebooks` runs them."""

import pytest
import scripts

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
