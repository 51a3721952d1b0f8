"""Properties from embeddings: the regression finds what is there and nothing else, and the tables say so."""

import numpy as np
import pytest

from ghn_jax.graphs.graph import NODE_ID, Graph
from ghn_jax.studies import properties
from ghn_jax.studies.properties import NEVER, Networks, StudyError

RNG = np.random.default_rng(0)
VECTORS = {f"{split}/{number}": RNG.standard_normal(4) for split in ("val", "test") for number in range(30)}


def values(split, function):
    return {name: float(function(vector)) for name, vector in VECTORS.items() if name.startswith(split)}


def smooth(vector):
    return 70 + 5 * vector[0] + 3 * np.sin(vector[1])


def test_a_smooth_property_is_found():
    found = properties.predict(VECTORS, values("val", smooth), values("test", smooth), repetitions=2)
    assert len(found.taus) == 2 and min(found.taus) > 0.7
    assert list(found.predicted) == list(found.measured) == [f"test/{number}" for number in range(30)]
    errors = [found.predicted[name] - found.measured[name] for name in found.measured]
    assert np.sqrt(np.mean(np.square(errors))) < 2.5


def test_noise_is_not():
    noise = dict(zip(VECTORS, RNG.standard_normal(len(VECTORS)), strict=True))
    fitted = {name: noise[name] for name in values("val", smooth)}
    judged = {name: noise[name] for name in values("test", smooth)}
    assert abs(properties.predict(VECTORS, fitted, judged, repetitions=1).taus[0]) < 0.35


def test_comparison_table_and_picture(tmp_path):
    accuracy = {**values("val", smooth), **values("test", smooth)}
    known = Networks(
        {"accuracy": accuracy}, {"itself": dict(accuracy), "opposite": {n: -v for n, v in accuracy.items()}}
    )
    found = properties.compare({"vectors": VECTORS}, known, "val", "test", repetitions=2)
    assert found["accuracy"]["itself"].taus == (1.0,) and found["accuracy"]["opposite"].taus == (-1.0,)
    lines = properties.table(found).splitlines()
    assert lines[0] == "|  | accuracy |" and lines[3:] == ["| itself | 1.00 |", "| opposite | -1.00 |"]
    assert lines[2].startswith("| vectors | 0.") and "+-" in lines[2]
    properties.plot(tmp_path / "scatter.png", found, "vectors")
    assert (tmp_path / "scatter.png").stat().st_size > 5000
    with pytest.raises(StudyError, match="no network of wide has a accuracy: expected some"):
        properties.compare({"vectors": VECTORS}, known, "val", "wide")


def test_bad_input():
    val, test = values("val", smooth), values("test", smooth)
    fewer = {name: vector for name, vector in VECTORS.items() if name not in ("val/3", "test/7")}
    with pytest.raises(StudyError, match=r"2 of 60 networks have no embedding \(val/3, test/7\)"):
        properties.predict(fewer, val, test)
    with pytest.raises(StudyError, match=r"1 of 3 networks have no time \(c\)"):
        properties.matched({"a": [0], "b": [0], "c": [0]}, {"a": 1, "b": 2}, "time")
    with pytest.raises(StudyError, match="1 networks, the first val/3, are fitted to and judged"):
        properties.predict(VECTORS, val, {**test, "val/3": 1.0})
    few = dict(list(val.items())[:4])
    with pytest.raises(
        StudyError, match="4 networks to fit accuracy to: expected at least 10, two for each of 5 folds"
    ):
        properties.predict(VECTORS, few, test, "accuracy")
    with pytest.raises(StudyError, match="no network was trained from He initialization"):
        properties.collect([], {}, 0.7)


def test_convergence_by_hand():
    accuracy = [0.0, 0.2, 0.4, 0.8, 1.0]
    assert properties.convergence(accuracy, 0.6, window=2) == 4 / 5
    assert properties.convergence(accuracy, 0.2, window=1) == 2 / 5
    assert properties.convergence(accuracy, 0.95, window=2) == NEVER


def test_rows_become_properties_and_baselines():
    row = {"split": "val", "number": 3, "parameters": 10, "multiply_adds": 20, "train_accuracy": [0.5] * 20}
    he = row | {"start": "he", "accuracy": {"0": 0.1, "5": 0.4, "20": 0.75}, "noisy_accuracy": {"20": 0.5}}
    predicted = row | {"start": "predicted", "accuracy": {"0": 0.6, "20": 0.7}, "noisy_accuracy": {}}
    found = properties.collect([he, predicted], {"val/3": 0.002}, reach=0.5)
    assert {what: of["val/3"] for what, of in found.properties.items()} == {
        **{"accuracy": 75.0, "noisy_accuracy": 50.0, "convergence": 0.5, "time": 2.0}
    }
    assert {title: of["val/3"] for title, of in found.baselines.items()} == {
        "parameters": 10,
        "multiply-adds": 20,
        "accuracy after 5 steps": 0.4,
        "accuracy of predicted parameters": 0.6,
    }


def test_counts_of_operations():
    types = np.array([NODE_ID["input"], NODE_ID["conv"], NODE_ID["conv"]])
    counts = properties.operation_counts(Graph(types, np.zeros((3, 4), np.int32), np.zeros((3, 3), np.int32), ()))
    assert counts.sum() == 3 and counts[NODE_ID["conv"]] == 2 and counts.shape == (15,)
