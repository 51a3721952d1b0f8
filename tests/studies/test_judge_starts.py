"""The judge of starts: what counts as right, and that the choice is that of `best_start`."""

import json

import pytest
import scripts

from ghn_jax import images
from ghn_jax.evaluation.best_start import best_start
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import Architecture, Genotype
from ghn_jax.studies import judge_starts
from ghn_jax.studies.judge_starts import Judged
from ghn_jax.studies.train_networks import StudyError
from ghn_jax.weights import pretrained

EDGES = (("conv_1x1", 0), ("none", 1))
NETWORK = Architecture(Genotype(EDGES, (2,), EDGES, (2,)), n_cells=1, C=8, fc_dim=16)
GHN_SMALL = GHN.init(HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8), 0)


def rows(*accuracies):
    for number, (he, predicted) in enumerate(accuracies):
        yield {"split": "val", "number": number, "start": "he", "accuracy": {"10": he}}
        if predicted is not None:
            yield {"split": "val", "number": number, "start": "predicted", "accuracy": {"0": 0.9, "10": predicted}}


def test_table():
    found = [
        Judged("val/0", "he", {"he": 0.5, "predicted": 0.75}),
        Judged("deep/0", "he", {"he": 0.6, "predicted": 0.5}),
    ]
    assert found[0].lost == 0.25 and not found[0].right and found[1].right
    assert judge_starts.table(found).splitlines()[2:] == [
        "| val | 1 | 0 | 75.0 | 50.0 | 50.0 | 25.0 |",
        "| deep | 1 | 1 | 50.0 | 60.0 | 60.0 | 0.0 |",
        "| all | 2 | 1 | 62.5 | 55.0 | 55.0 | 12.5 |",
    ]


def test_choices_are_those_of_best_start(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(judge_starts, "sample_architecture", lambda *of: NETWORK)
    digits = images.load("digits")
    found = judge_starts.judge(rows((0.5, 0.7), (0.6, None), (0.4, 0.2)), digits, GHN_SMALL, 2, 16)
    assert [one.name for one in found] == ["val/0", "val/2"]
    batches = [images.train_batch(digits, 16, 0, step) for step in range(2)]
    for one, number in zip(found, (0, 2), strict=True):
        start = best_start(NETWORK, batches, ghn=GHN_SMALL, starts=["predicted", "random"], seed=number)
        assert one.chosen == {"predicted": "predicted", "random": "he"}[start.name]
    assert found[1].accuracy == {"he": 0.4, "predicted": 0.2}
    with pytest.raises(StudyError, match="no network was trained from predicted and from He parameters"):
        judge_starts.judge(rows((0.6, None)), digits, GHN_SMALL)
    script = scripts.load("experiments/judge_starts.py")
    pretrained.write(tmp_path / "ghn.npz", GHN_SMALL, {"dataset": "digits"})
    path = tmp_path / "networks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows((0.5, 0.7))))
    script.main([str(path), f"--checkpoint={tmp_path / 'ghn.npz'}", "--batches=2", "--batch_size=16"])
    assert "| val | 1 | " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main([str(path), "--batches=1"])
