"""The scripts that measure times and predict properties, on networks of a few layers."""

import itertools
import json

import pytest
import scripts
from small_runs import SMALL, TWO_OPERATIONS

from ghn_jax.deepnets.files.reading import DeepNetsFile
from ghn_jax.deepnets.files.writing import stored_network, write_file
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, Architecture
from ghn_jax.networks.network import make_network
from ghn_jax.studies import inference_time
from ghn_jax.studies.train_networks import StudyError
from ghn_jax.weights import pretrained


def architecture(split, number, large_images=False):
    return Architecture(TWO_OPERATIONS, n_cells=1 + number % 12, C=8, fc_dim=16)


def rows(splits):
    for split, number in itertools.product(splits, range(12)):
        accuracy = {"5": 0.3 + number / 50, "20": 0.3 + number / 20}
        yield {
            **{"split": split, "number": number, "start": "he", "parameters": number, "multiply_adds": number},
            **{"accuracy": accuracy, "noisy_accuracy": {"20": 0.4}, "train_accuracy": [0.08 * number] * 20},
        }


def test_every_network_has_its_turn_and_the_least_counts():
    networks = {name: make_network(0, architecture("val", name == "b"), CIFAR10) for name in "ab"}
    took = iter([50, 60, 4, 2, 3, 8])  # the first of each does not count
    now = itertools.accumulate(itertools.chain.from_iterable((0, next(took)) for _ in range(6)))
    assert inference_time.measure(networks, 2, rounds=2, clock=lambda: next(now)) == {"a": 1.5, "b": 1.0}


def test_times(tmp_path, monkeypatch, capsys):
    script = scripts.load("experiments/time_networks.py")
    monkeypatch.setattr(script, "sample_architecture", architecture)
    (tmp_path / "networks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in list(rows(["val"]))[:2]))
    script.main([str(tmp_path / "networks.jsonl"), "--batch_size=2", "--rounds=1", f"--out={tmp_path / 'times.json'}"])
    times = json.loads((tmp_path / "times.json").read_text())
    assert set(times) == {"val/0", "val/1"} and min(times.values()) > 0
    assert "2 networks" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "networks.jsonl"), "--rounds=0", f"--out={tmp_path / 'times.json'}"])


def test_properties(tmp_path, monkeypatch, capsys):
    script = scripts.load("experiments/predict_properties.py")
    monkeypatch.setattr(script, "sample_architecture", architecture)
    monkeypatch.setattr(script.properties, "GRID", {"C": (10,), "gamma": ("auto",), "epsilon": (0.1,)})
    monkeypatch.setattr(script, "ghn2", lambda: SMALL)
    pretrained.write(tmp_path / "ghn.npz", GHN.init(SMALL, 0), {})
    (tmp_path / "networks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(["val", "test"])))
    times = {f"{split}/{number}": 0.001 * (12 - number) for split in ("val", "test") for number in range(12)}
    (tmp_path / "times.json").write_text(json.dumps(times))
    zero_shot = [
        {"split": "test", "number": n, "images": 64, "accuracy": {"GHN-2": 1 - n / 99} if n < 8 else {}}
        for n in range(12)
    ]
    (tmp_path / "splits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in zero_shot))
    words = [
        *(str(tmp_path / "networks.jsonl"), f"--times={tmp_path / 'times.json'}", f"--out={tmp_path}"),
        f"GHN-2={tmp_path / 'ghn.npz'}",
    ]
    script.main([*words, f"--zero_shot=GHN-2:{tmp_path / 'splits.jsonl'}"])
    taus = json.loads((tmp_path / "properties.json").read_text())
    assert list(taus) == ["accuracy", "noisy_accuracy", "convergence", "time"]
    assert taus["accuracy"]["parameters"] == pytest.approx([1]) and taus["time"]["parameters"] == pytest.approx([-1])
    assert taus["accuracy"]["accuracy of predicted parameters"] == pytest.approx([-1])  # of the eight that have one
    assert len(taus["accuracy"]["GHN-2"]) == len(taus["accuracy"]["untrained GHN-2"]) == 5
    assert max(taus["accuracy"]["counts of operations"]) > 0.8
    assert (tmp_path / "properties.png").stat().st_size > 5000
    assert "| GHN-2 |" in capsys.readouterr().out
    with pytest.raises(StudyError, match="no network was measured with 'GHN-9'"):
        script.main([*words, "--overwrite", f"--zero_shot=GHN-9:{tmp_path / 'splits.jsonl'}"])
    with pytest.raises(SystemExit):
        script.main([*words, "--zero_shot=splits.jsonl"])
    assert "--zero_shot=splits.jsonl: expected a title and a file" in capsys.readouterr().err


def test_published_networks(tmp_path, monkeypatch, capsys):
    """A file in the form of the original's, with results made up for it."""
    script = scripts.load("experiments/predict_properties.py")
    monkeypatch.setattr(script.properties, "GRID", {"C": (10,), "gamma": ("auto",), "epsilon": (0.1,)})
    monkeypatch.setattr(script.properties, "FOLDS", 2)
    monkeypatch.setattr(script, "ghn2", lambda: SMALL)
    path = tmp_path / "deepnets1m_eval.hdf5"
    write_file(path, {split: [stored_network(split, i) for i in range(4)] for split in ("val", "test")})
    results = {}
    with DeepNetsFile(path) as file:
        for split in file.splits:
            counts = [file[split].entry(index)["num_params"]["cifar10"] for index in range(len(file[split]))]
            results[split] = {
                str(index): {"params": count, "time": 1.0 + index, "converge_time": 0.5}
                | {"val_acc": 50 + count / 1e6, "val_acc_noise": 40.0 + index, "ghn2_test_acc": 30 + count / 1e6}
                for index, count in enumerate(counts)
            }
    (tmp_path / "results.json").write_text(json.dumps(results))
    pretrained.write(tmp_path / "ghn.npz", GHN.init(SMALL, 0), {})
    arguments = [str(tmp_path / "results.json"), f"--deepnets={path}", f"GHN-2={tmp_path / 'ghn.npz'}"]
    script.main([*arguments, f"--out={tmp_path}"])
    taus = json.loads((tmp_path / "properties.json").read_text())
    assert taus["accuracy"]["parameters"] == taus["accuracy"]["accuracy of GHN-2"] == pytest.approx([1])
    assert "convergence" in capsys.readouterr().out
    results["val"]["1"]["params"] += 1
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(StudyError, match="val/1 has .* parameters, in the published results"):
        script.main([*arguments, f"--out={tmp_path}", "--overwrite"])
