"""Evaluation: accuracies by hand, He initialisation, tables and files."""

import json

import numpy as np
import pytest

import ghn_jax
from ghn_jax.evaluation import accuracy
from ghn_jax.evaluation.accuracy import ByOperation, accuracies, as_a_whole
from ghn_jax.evaluation.results import Result, plot, summary, table, write_json
from ghn_jax.images import load
from ghn_jax.networks.architecture import CIFAR10, ResNet
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import make_network
from ghn_jax.weights import pretrained

RESULTS = [Result("val/0", 1000, 0.5, 0.1), Result("val/1", 2000, 0.7, 0.2), Result("val/2", 3000, 0.3, 0.0)]


def test_summary_by_hand():
    values = summary([0.5, 0.7, 0.3])
    assert values == pytest.approx({"mean": 0.5, "standard_error": 0.2 / 3**0.5, "best": 0.7})


def test_table():
    lines = table(RESULTS).splitlines()
    assert lines[2].split() == ["val/1", "2,000", "70.0%", "20.0%"]
    assert lines[-3].split() == ["mean", "50.0%", "10.0%"]
    assert lines[-1].split() == ["best", "70.0%", "20.0%"]
    assert table(RESULTS[:1]).splitlines()[-2].split() == ["std.", "error", "-", "-"]


def test_files(tmp_path):
    write_json(tmp_path / "e.json", RESULTS, {"dataset": "digits"})
    fields = json.loads((tmp_path / "e.json").read_text())
    assert fields["dataset"] == "digits" and fields["architectures"][2]["predicted"] == 0.3
    assert fields["predicted"]["mean"] == pytest.approx(0.5)
    write_json(tmp_path / "one.json", RESULTS[:1], {})
    assert json.loads((tmp_path / "one.json").read_text())["predicted"]["standard_error"] is None
    plot(tmp_path / "e.png", RESULTS, "title")
    assert (tmp_path / "e.png").read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in tmp_path.iterdir()} == {"e.json", "one.json", "e.png"}
    assert "predicted_top5" not in fields


def test_he_init_has_the_right_scale():
    program = lower(ResNet(depths=(1, 1), width=32), CIFAR10)
    params = he_init(program, seed=0)
    kernel = params["layer2.0.conv2.weight"]
    assert kernel.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert (params["bn1.weight"] == 1).all() and (params["fc.bias"] == 0).all()
    assert (he_init(program, seed=1)["conv1.weight"] != params["conv1.weight"]).all()


def constant_class(program, chosen):
    """Parameters that are zero but for the bias of one class."""
    params = {name: np.zeros_like(values) for name, values in he_init(program, seed=0).items()}
    params["fc.bias"][chosen] = 1
    return params


@pytest.mark.parametrize("mode", ["operations", "whole"])
def test_accuracy_counts_every_image_once(mode):
    """With all weights zero but one class's bias, accuracy is that class's share, also with a partial last batch."""
    program = lower(ResNet(depths=(1,), width=8), CIFAR10)
    run_network = ByOperation(64) if mode == "operations" else as_a_whole
    logits = run_network(program, constant_class(program, 3))
    dataset = load("digits")
    for count in (100, None):
        labels = dataset.test.labels[:count]
        assert accuracy.accuracy(logits, dataset.test, dataset, count) == pytest.approx(np.mean(labels == 3))


def test_measure_accuracy():
    architecture = ResNet(depths=(1,), width=8)
    params = constant_class(lower(architecture, CIFAR10), 3)
    labels = load("digits").test.labels
    assert ghn_jax.measure_accuracy(architecture, params, "digits") == pytest.approx(np.mean(labels == 3))
    few = ghn_jax.measure_accuracy(architecture, params, "digits", num_images=70)
    assert few == pytest.approx(np.mean(labels[:70] == 3))


def test_top5_by_hand():
    """With the same logits for all images, accuracies are the shares of the first and of the first five classes."""
    dataset = load("digits")
    logits = np.array([0, 5, 0, 9, 7, 0, 6, 8, 4, 1])  # in order: 3, 7, 4, 6, 1
    labels = dataset.test.labels
    found = accuracies(lambda images: np.tile(logits, (len(images), 1)), dataset.test, dataset)
    assert found == pytest.approx((np.mean(labels == 3), np.mean(np.isin(labels, [3, 7, 4, 6, 1]))))
    equal = accuracies(lambda images: np.zeros((len(images), 10)), dataset.test, dataset)
    assert equal == pytest.approx((np.mean(labels == 0), np.mean(labels < 5)))


def test_top5_is_reported_for_many_classes(tmp_path, monkeypatch):
    results = [Result("test/0", 1000, 0.2, 0.0, 0.5, 0.01), Result("test/1", 2000, 0.4, 0.1, 0.7, 0.03)]
    lines = table(results).splitlines()
    assert lines[0].split("  ")[-1] == "He init, top-5" and "predicted, top-5" in lines[0]
    assert lines[2].split() == ["test/1", "2,000", "40.0%", "10.0%", "70.0%", "3.0%"]
    assert lines[-3].split() == ["mean", "30.0%", "5.0%", "60.0%", "2.0%"]
    assert len({len(line) for line in lines}) == 1
    write_json(tmp_path / "e.json", results, {})
    fields = json.loads((tmp_path / "e.json").read_text())
    assert fields["predicted_top5"]["best"] == 0.7 and fields["architectures"][0]["he_init_top5"] == 0.01
    plot(tmp_path / "e.png", results, "title")
    assert (tmp_path / "e.png").read_bytes()[:4] == b"\x89PNG"

    target = make_network(0, ResNet(depths=(1,), width=8), CIFAR10)
    ghn, dataset = pretrained.load(), load("digits")
    (few,) = accuracy.evaluate(ghn, [("a", target)], dataset, dataset.test, 32, lambda result: None, "operations")
    assert few.predicted_top5 is None and few.he_init_top5 is None
    monkeypatch.setattr(accuracy, "TOP5_ABOVE", 9)
    (many,) = accuracy.evaluate(ghn, [("a", target)], dataset, dataset.test, 32, lambda result: None, "operations")
    assert (many.predicted, many.he_init) == (few.predicted, few.he_init)
    assert many.predicted <= many.predicted_top5 <= 1 and many.he_init <= many.he_init_top5 <= 1


def test_modes_agree():
    programs = [lower(ResNet(depths=depths, width=8), CIFAR10) for depths in ((1,), (1, 1))]
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32)
    by_operation = ByOperation(len(images))
    for program in (*programs, programs[0]):
        params = he_init(program, seed=1)
        expected = as_a_whole(program, params)(images)
        np.testing.assert_allclose(by_operation(program, params)(images), expected, atol=1e-5 * np.abs(expected).max())
