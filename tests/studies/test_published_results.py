"""Published results: what is read, what is left out as faulty, and that other networks are refused."""

import json

import pytest

from ghn_jax.studies import published_results
from ghn_jax.studies.train_networks import StudyError


def entry(params, **more):
    accuracies = {
        "test_acc": 92.4,
        "val_acc": 92.6,
        "val_acc_noise": 40.7,
        "ghn1_test_acc": 47.7,
        "ghn2_test_acc": 55.4,
    }
    return {"params": params, "time": 8.1, "converge_time": 0.5, "mlp_test_acc": 41.2, **accuracies, **more}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_read_check_and_use(write):
    found = published_results.read(
        write({"val": {"0": entry(100), "1": entry(200, val_acc=80.0)}, "test": {"0": entry(7)}})
    )
    assert found["val"][1]["val_acc"] == 80.0
    published_results.check_results(found, {"val": [100, 200], "test": [7]})
    with pytest.raises(
        StudyError, match="val/1 has 201 parameters, in the published results 200: expected the networks"
    ):
        published_results.check_results(found, {"val": [100, 201]})
    with pytest.raises(StudyError, match="val: 2 published results for 3 networks"):
        published_results.check_results(found, {"val": [100, 200, 300]})
    known = published_results.networks(found)
    assert known.properties["accuracy"] == {"val/0": 92.6, "val/1": 80.0, "test/0": 92.6}
    assert known.properties["convergence"]["test/0"] == 0.5 and known.properties["noisy_accuracy"]["val/0"] == 40.7
    assert known.baselines["parameters"]["val/1"] == 200 and known.baselines["accuracy of the MLP"]["val/0"] == 41.2
    with pytest.raises(StudyError, match="no published results of search"):
        published_results.networks(found, ["search"])


def test_faulty_lists_of_the_extended_file_are_left_out(write):
    extended = entry(100, val_acc=[50.0, 90.0], test_acc=[49.0, 91.0], val_acc_noise=[30.0, 40.0])
    found = published_results.read(write({"val": {"0": extended}, "wide": {"0": extended}}))
    assert found["val"][0] == extended
    assert set(found["wide"][0]) == {"params", "time", "test_acc", "ghn1_test_acc", "ghn2_test_acc"}
    assert published_results.networks(found, ["val"]).properties["accuracy"] == {"val/0": 90.0}
    with pytest.raises(StudyError, match="wide/0 has no val_acc"):
        published_results.networks(found, ["wide"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as published results"),
        ({}, "expected splits, such as val, test, wide"),
        ({"training": {}}, "expected splits"),
        ({"val": [1]}, "val: expected splits"),
        ({"val": {"first": entry(1)}}, "'first': expected a number"),
        ({"val": {"9" * 5000: entry(1)}}, "expected a number"),
        ({"val": {"0": entry(1), "00": entry(2)}}, "'00': expected a number"),
        ('{"val": {"0": {"params": 1}, "0": {"params": 2}}}', "it has '0' twice"),
        ({"val": {"0": {"time": 1.0}}}, "expected a number, and an entry with integer 'params'"),
    ],
)
def test_other_files(write, content, message):
    with pytest.raises(StudyError, match=message):
        published_results.read(write(content))


def test_no_file(tmp_path):
    with pytest.raises(StudyError, match="cannot be read as published results"):
        published_results.read(tmp_path / "nothing.json")


@pytest.mark.parametrize("value", [[], "12", None, {}, True, float("nan"), 10**400, [[1]], [50.0, "x"]])
def test_values_that_are_no_numbers(value, write):
    found = published_results.read(write({"val": {"0": entry(1, val_acc=value)}}))
    with pytest.raises(StudyError, match="val/0, val_acc=.*: expected 1 entries, each a number"):
        published_results.networks(found, ["val"])
