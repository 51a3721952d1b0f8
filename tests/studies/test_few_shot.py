"""Few-shot training: which images, which starts, and that tables say what was measured."""

import dataclasses
import json

import numpy as np
import pytest
import scripts
from small_runs import SMALL, TWO_OPERATIONS

from ghn_jax import images
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Split
from ghn_jax.networks.architecture import Architecture, to_json
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.studies import few_shot
from ghn_jax.studies.train_networks import StudyError


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


@pytest.fixture(scope="module")
def network(digits):
    return make_network(0, Architecture(TWO_OPERATIONS, n_cells=1, C=8, fc_dim=16), digits.task)


def test_the_first_images_of_each_class_or_others(digits):
    few = few_shot.few_shot(digits, 3)
    assert np.bincount(few.train.labels).tolist() == [3] * 10 and few.test is digits.test
    labels = digits.train.labels
    for label in range(10):
        first = digits.train.images[labels == label][:3]
        np.testing.assert_array_equal(few.train.images[few.train.labels == label], first)
    other = few_shot.few_shot(digits, 3, seed=1)
    assert np.bincount(other.train.labels).tolist() == [3] * 10
    assert not np.array_equal(other.train.images, few.train.images)
    np.testing.assert_array_equal(other.train.images, few_shot.few_shot(digits, 3, seed=1).train.images)
    assert few_shot.few_shot(digits, None) is digits
    with pytest.raises(StudyError, match=r"class \d of digits has \d+ training images, expected 5000"):
        few_shot.few_shot(digits, 5000)


def test_starts(network):
    ghn = GHN.init(SMALL, 0)
    predicted, random = predict_params(network.graph, ghn), he_init(network.program, 4)
    starts = {start: few_shot.start_of(network, start, ghn, 4) for start in few_shot.FEW_SHOT_STARTS}
    *body, weight, bias = predicted
    for name in body:
        np.testing.assert_array_equal(starts["body"][name], predicted[name])
    for name in (weight, bias):
        np.testing.assert_array_equal(starts["body"][name], random[name])
    np.testing.assert_array_equal(starts["he"][weight], random[weight])
    np.testing.assert_array_equal(starts["predicted"][weight], predicted[weight])
    assert starts["orthogonal"].keys() == starts["noise"].keys() == predicted.keys()
    with pytest.raises(StudyError, match="start='imagenet': expected one of predicted, he"):
        few_shot.start_of(network, "imagenet", ghn, 0)


def test_measured_once_and_the_best_rate_is_taken(digits, network, tmp_path, monkeypatch):
    calls = []

    class Tuner:
        def __init__(self, protocol):
            self.rate = protocol.learning_rate

        def __call__(self, program, params, dataset, at, test_images, seed):
            calls.append((self.rate, len(dataset.test.labels), len(dataset.train.labels)))
            return {step: self.rate + step / 1000 for step in at}

    monkeypatch.setattr(few_shot, "FineTuner", Tuner)
    monkeypatch.setattr(few_shot, "TUNED_ON", 50)
    ghn, path = GHN.init(SMALL, 0), tmp_path / "few_shot.jsonl"

    def measure(**options):
        calls.clear()
        return few_shot.measure(
            ghn, {"a": network}, digits, path, per_class=[2, 4], epochs=5, seeds=[0, 1], starts=["he"], **options
        )

    rows = measure(rates=[0.1, 0.3, 0.2])
    assert [(row["per_class"], row["seed"], row["learning_rate"]) for row in rows] == [
        *((2, 0, 0.3), (2, 1, 0.3), (4, 0, 0.3), (4, 1, 0.3)),
    ]
    assert calls[:4] == [(0.1, 50, 20), (0.3, 50, 20), (0.2, 50, 20), (0.3, len(digits.test.labels), 20)]
    assert rows[0]["accuracy"] == {str(epoch): 0.3 + epoch / 1000 for epoch in range(6)}
    assert measure(rates=[0.1, 0.3, 0.2]) == rows and not calls
    measure(rates=[0.1])
    assert len(calls) == 4
    ghn = GHN.init(SMALL, 1)  # He initialization is none of its predictions
    assert measure(rates=[0.1, 0.3, 0.2]) == rows and not calls
    whole = few_shot.measure(
        ghn, {"a": network}, digits, path, per_class=[2, None], epochs=5, seeds=[0], starts=["he"], rates=[0.1]
    )
    total = len(digits.train.labels)
    assert [row["per_class"] for row in whole] == [2, None] and calls[-1] == (0.1, len(digits.test.labels), total)
    assert few_shot.table(whole).splitlines()[0] == "| network | start | 2 a class | all |"
    few_shot.plot(tmp_path / "whole.png", whole, "a")
    rows[1]["accuracy"]["5"] += 0.02
    assert few_shot.table(rows).splitlines()[2] == "| a | he | 31.5 +- 1.0 | 30.5 +- 0.0 |"
    few_shot.plot(tmp_path / "curves.png", rows, "a")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    monkeypatch.setattr(few_shot, "TUNED_ON", 100_000)
    with pytest.raises(StudyError, match="validation images: expected 100000 to choose among learning rates 0.1, 0.2"):
        measure(rates=[0.1, 0.2])


def test_script_learns(tmp_path, capsys, monkeypatch):
    script = scripts.load("experiments/few_shot.py")
    (tmp_path / "mine.json").write_text(json.dumps(to_json(Architecture(TWO_OPERATIONS, n_cells=1, C=8, fc_dim=16))))
    data = images.load("digits")
    data = dataclasses.replace(data, test=Split(data.test.images[:128], data.test.labels[:128]))
    monkeypatch.setattr(script, "load_setting", lambda *of: (GHN.init(SMALL, 0), data.task, data, {}))
    script.main(
        [
            *("--arch", str(tmp_path / "mine.json"), "--per_class", "16", "--seeds", "0", "--starts", "he"),
            *("--epochs=20", "--optimizer=adamw", "--rates", "0.01", f"--out={tmp_path}"),
        ]
    )
    (row,) = (json.loads(line) for line in (tmp_path / "few_shot.jsonl").read_text().splitlines())
    assert row["accuracy"]["20"] > row["accuracy"]["0"] + 0.08
    assert "| mine | he |" in capsys.readouterr().out and (tmp_path / "few_shot.png").exists()
    with pytest.raises(SystemExit):
        script.main(["--arch", "resnet50", "--per_class", "0"])
