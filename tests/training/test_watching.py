"""What a person sees of a run: curves, and accuracy on held-out architectures."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import scripts
from small_runs import CELL, SMALL

from ghn_jax import images
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation import accuracy
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, Architecture
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.training import validation
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.validation import val_targets

ROOT = scripts.ROOT
TARGETS = [make_network(n, Architecture(CELL, n_cells=n, C=12, stem_type=1), CIFAR10) for n in (1, 2)]
RUN = TrainConfig(dataset="digits", fixed_width=32, max_multiply_adds=8_000_000, val_networks=3, val_images=64)


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_curves_of_runs(tmp_path):
    """Runs of different length, one with validations, one that has not begun."""
    for name, steps in (("a", 120), ("b", 3), ("c", 0)):
        (tmp_path / name).mkdir()
        rows = [{"step": i, "minutes": i, "loss": 2.3 - i / 100, "accuracy": 0.1 + i / 500} for i in range(1, steps)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {"step": 60, "minutes": 7, "accuracy": 0.2, "standard_error": None}
    (tmp_path / "a" / "validation.jsonl").write_text(json.dumps(row) + "\n")
    result = run_script(
        "experiments/plot_run.py", *(str(tmp_path / name) for name in "abc"), "--against=minutes",
        f"--out={tmp_path / 'runs.png'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    missing = run_script("experiments/plot_run.py", str(tmp_path))
    assert missing.returncode == 1 and "is not the workdir of a run" in missing.stderr


def test_validation_networks_are_those_of_the_run():
    config = RUN
    targets = val_targets(config, CIFAR10)
    assert len(targets) == 3 and all(t.architecture.C == 32 for t in targets)
    assert all(t.program.multiply_adds <= 8_000_000 for t in targets)
    for target in targets:
        assert dataclasses.replace(sample_architecture("val", target.number), C=32) == target.architecture


def test_validation_measures_what_evaluation_measures(monkeypatch):
    """The same networks, parameters and images, one by one."""
    ghn = GHN.init(SMALL, seed=0)
    monkeypatch.setattr(validation, "val_targets", lambda config, task: list(TARGETS))
    dataset = images.load("digits")
    result = validation.Validation(RUN, SMALL, dataset)(ghn.params)
    known = [
        accuracy.accuracy(
            accuracy.as_a_whole(target.program, predict_params(target.graph, ghn)), dataset.val, dataset, 64
        )
        for target in TARGETS
    ]
    assert result["accuracies"] == known
    assert result["accuracy"] == pytest.approx(np.mean(known)) and result["best"] == max(known)
