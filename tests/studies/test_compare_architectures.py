"""Architectures compared by embeddings, against distances and components that are known."""

import json

import numpy as np
import pytest
import scripts

import ghn_jax
from ghn_jax.networks.architecture import ArchitectureError
from ghn_jax.studies import compare_architectures
from ghn_jax.studies.train_networks import StudyError

LINE = {f"test/{number}": np.array([number, -2.0 * number, 5.0]) for number in range(6)}


def test_nearest():
    found = compare_architectures.nearest(LINE, "test/1", 3)
    assert {name for name, _ in found[:2]} == {"test/0", "test/2"} and found[2][0] == "test/3"
    unit = np.sqrt(2) / np.arange(6).std()
    assert [distance for _, distance in found] == pytest.approx([unit, unit, 2 * unit])
    with pytest.raises(StudyError, match="'resnet50' is none of the 6 networks compared"):
        compare_architectures.nearest(LINE, "resnet50", 3)


def test_map_of_a_line_has_one_dimension():
    found = compare_architectures.project(LINE)
    assert found.shares == pytest.approx((1.0, 0.0), abs=1e-9)
    steps = np.diff(found.places[:, 0])
    np.testing.assert_allclose(steps, np.full(5, steps[0]), rtol=1e-9)
    np.testing.assert_allclose(found.places[:, 1], 0, atol=1e-9)
    with pytest.raises(StudyError, match="2 networks: expected at least 3"):
        compare_architectures.project({"a": np.ones(2), "b": np.ones(2)})


def test_similarity():
    along = {name: float(vector[0]) for name, vector in LINE.items()}
    assert compare_architectures.similarity(LINE, along) == pytest.approx(1)
    apart = {"test/0": 0.0, "test/1": 9.0, "test/4": 8.0, "test/5": 1.0}
    assert compare_architectures.similarity(LINE, apart) < 0
    assert compare_architectures.similarity(LINE, dict.fromkeys(LINE, 3.0)) == 0
    with pytest.raises(StudyError, match="1 networks have an embedding and the property"):
        compare_architectures.similarity(LINE, {"test/0": 1.0, "val/0": 1.0})


def test_script(tmp_path, capsys):
    script = scripts.load("experiments/compare_architectures.py")
    rows = [
        {"split": "val", "number": number, "start": "he", "parameters": 1, "multiply_adds": 1}
        | {"accuracy": {"5": 0.1, "20": 0.1 * number}, "noisy_accuracy": {"20": 0.1 * number}}
        | {"train_accuracy": [0.05 * number] * 20}
        for number in (0, 2, 4)
    ]
    (tmp_path / "networks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--splits", "val", "--num=4", "--nearest", "val/1", "--count=2", f"--out={tmp_path}"]
    script.main([*arguments, f"--properties={tmp_path / 'networks.jsonl'}"])
    output = capsys.readouterr().out
    assert "| val/1 | " in output and "Distance and difference in accuracy, 3 networks: " in output
    assert (tmp_path / "map.png").stat().st_size > 5000
    lines = (tmp_path / "embeddings.jsonl").read_text().splitlines()
    names = [json.loads(line)["network"] for line in lines]
    assert names[:4] == ["val/0", "val/1", "val/2", "val/3"] and names[-1] == "val/4" and "resnet50" in names[4:-1]
    graph = ghn_jax.build_graph(ghn_jax.find_architecture("val/2").architecture)
    np.testing.assert_allclose(json.loads(lines[2])["embedding"], ghn_jax.embed(graph), atol=1e-6)
    script.main(arguments)
    assert (tmp_path / "embeddings.jsonl").read_text().splitlines() == lines
    with pytest.raises(ArchitectureError):
        script.main(["--splits", "val", "--num=1", "--nearest", "val/9999", f"--out={tmp_path}"])
