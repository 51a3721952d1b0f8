"""Many networks trained together: the same as one after the other, and only what a file does not have."""

import json

import numpy as np
import pytest
import scripts
from small_runs import SMALL, TWO_OPERATIONS

from ghn_jax import images
from ghn_jax.evaluation.accuracy import accuracy, as_a_whole
from ghn_jax.evaluation.fine_tuning import FineTuner, Protocol
from ghn_jax.execution.operations import ExecutionError
from ghn_jax.ghn.model import GHN
from ghn_jax.images import ImageError
from ghn_jax.networks.architecture import Architecture, Genotype
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.studies import train_networks
from ghn_jax.studies.train_networks import Measurement, NetworkId, StudyError
from ghn_jax.weights import pretrained

PROTOCOL = Protocol(steps=6, batch_size=16)


def architecture(split, number, large_images):
    if number >= 3:
        raise ValueError(f"architecture {number} of {split}: expected 0..2")
    return Architecture(TWO_OPERATIONS, n_cells=1 + number, C=8, fc_dim=16)


@pytest.fixture(autouse=True)
def small_split(monkeypatch):
    monkeypatch.setattr(train_networks, "sample_architecture", architecture)


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


def test_a_pool_takes_the_steps_that_each_would_take_alone(digits, tmp_path):
    path, ghn = tmp_path / "networks.jsonl", GHN.init(SMALL, 0)
    chosen = [NetworkId("val", 0), NetworkId("val", 1)]
    plan = Measurement(PROTOCOL, (0, 4), test_images=64)
    finished = []
    rows = train_networks.train(
        chosen, digits, plan, path, ghn=ghn, checkpoint="mine", pool=3, workers=2, finished=finished.append
    )
    assert finished == [3, 1]
    assert [(row["number"], row["start"], row.get("checkpoint")) for row in rows] == [
        *((0, "he", None), (0, "predicted", "mine"), (1, "he", None), (1, "predicted", "mine")),
    ]
    tuner = FineTuner(PROTOCOL)
    for row in rows:
        network = make_network(row["number"], architecture("val", row["number"], False), digits.task)
        params = (
            he_init(network.program, network.number) if row["start"] == "he" else predict_params(network.graph, ghn)
        )
        losses = []
        alone = tuner(network.program, params, digits, [0, 4], num_test_images=64, made_step=losses.append)
        assert row["accuracy"] == {str(step): alone[step] for step in ((4,) if row["start"] == "he" else (0, 4))}
        np.testing.assert_allclose(row["loss"], losses, atol=1e-3)
        assert row["parameters"] == network.program.num_params
        if row["start"] == "predicted":
            noisy = accuracy(as_a_whole(network.program, params), digits.test, digits, 64, 0.08)
            assert row["noisy_accuracy"]["0"] == pytest.approx(noisy, abs=0.02)
        assert "4" in row["noisy_accuracy"]
    assert (
        train_networks.train(chosen, digits, plan, path, ghn=ghn, checkpoint="mine", finished=finished.append) == rows
    )
    assert finished == [3, 1]


def test_only_what_was_measured_in_the_same_way_counts(digits, tmp_path):
    path, finished = tmp_path / "networks.jsonl", []

    def train(plan, *numbers, **options):
        finished.clear()
        chosen = [NetworkId("val", number) for number in numbers]
        train_networks.train(chosen, digits, plan, path, finished=finished.append, **options)
        return sum(finished)

    short = Measurement(Protocol(steps=2, batch_size=16), (2,), test_images=32)
    assert train(short, 0) == 1 and train(short, 0) == 0
    assert train(short, 0, 1) == 1
    assert train(Measurement(Protocol(steps=2, batch_size=16), (1, 2), test_images=32), 0) == 1
    assert train(Measurement(Protocol(steps=2, batch_size=16), (2,), test_images=48), 0) == 1
    assert train(Measurement(Protocol(steps=2, batch_size=16, optimizer="adamw"), (2,), test_images=32), 0) == 1
    path.write_text(path.read_text()[:-9])  # cut off
    assert train(short, 0, 1) == 0
    assert train(Measurement(Protocol(steps=2, batch_size=16, optimizer="adamw"), (2,), test_images=32), 0) == 1


def test_networks_of_bounded_cost_in_turns(digits):
    def cost(number):
        return make_network(0, architecture("val", number, False), digits.task).program.multiply_adds

    def chosen(*arguments):
        return [tuple(entry) for entry in train_networks.first_networks(*arguments)]

    assert chosen(["val", "test"], 2, digits) == [("val", 0), ("test", 0), ("val", 1), ("test", 1)]
    assert cost(0) < cost(1) < cost(2)
    assert chosen(["val"], 2, digits, cost(1)) == [("val", 0), ("val", 1)]
    assert chosen(["val"], 1, digits, None, 2) == [("val", 2)]
    with pytest.raises(StudyError, match="val has 2 such networks, expected 3"):
        chosen(["val"], 3, digits, cost(1))


def test_smaller_images_and_networks_that_do_not_fit_them(digits, monkeypatch):
    small = train_networks.scaled_down(digits, 16)
    assert small.task.image_size == 16 and small.train.images.shape == (len(digits.train.labels), 16, 16, 3)
    block = digits.test.images[3, 4:6, 8:10].astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(small.test.images[3, 2, 4], block, atol=0.5)
    with pytest.raises(ImageError, match="cannot be scaled down to 5"):
        train_networks.scaled_down(digits, 5)
    edges = (("msa", 0), ("none", 1))
    attentive = Architecture(Genotype(edges, (2,), edges, (2,)), n_cells=1, C=8)
    monkeypatch.setattr(
        train_networks,
        "sample_architecture",
        lambda *of: attentive if of[1] == 0 else architecture(of[0], of[1], False),
    )
    assert train_networks.first_networks(["val"], 1, digits) == [NetworkId("val", 0)]
    assert train_networks.first_networks(["val"], 1, small) == [NetworkId("val", 1)]


def test_bad_fields():
    with pytest.raises(StudyError, match=r"measure_at=\(7,\): expected steps from 0 to 6"):
        Measurement(PROTOCOL, (7,))
    with pytest.raises(StudyError, match="train_images=0: expected"):
        Measurement(PROTOCOL, (1,), train_images=0)
    with pytest.raises(ExecutionError, match="optimizer='adam': expected 'sgd' or 'adamw'"):
        Protocol(steps=1, optimizer="adam")
    with pytest.raises(ExecutionError, match="learning_rate=nan"):
        Protocol(steps=1, learning_rate=float("nan"))


def test_script(tmp_path, capsys):
    script = scripts.load("experiments/train_networks.py")
    pretrained.write(tmp_path / "ghn.npz", GHN.init(SMALL, 0), {})
    script.main(
        [
            *("--dataset=digits", "--splits", "val", "--num=1", "--steps=2", "--batch_size=16", "--test_images=32"),
            *("--measure_at", "0", "2", f"--checkpoint={tmp_path / 'ghn.npz'}", f"--out={tmp_path}"),
        ]
    )
    rows = [json.loads(line) for line in (tmp_path / "networks.jsonl").read_text().splitlines()]
    assert [row["start"] for row in rows] == ["he", "predicted"] and len(rows[0]["loss"]) == 2
    assert "2 trainings in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main(["--dataset=digits", "--num=0"])
