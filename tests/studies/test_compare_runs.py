"""The comparison of two training runs, network by network."""

import json
from pathlib import Path

import pytest
import scripts

from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.errors import GHNError
from ghn_jax.evaluation.json_lines import METRICS
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.studies import compare_runs
from ghn_jax.training.loop import Progress
from ghn_jax.weights import checkpoint, run_checkpoints

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)


def lines(*steps):
    """Metrics of steps: networks and their losses."""
    return [
        {"step": step, "architectures": list(losses), "losses": list(losses.values())}
        for step, losses in enumerate(steps, start=1)
    ]


def test_networks_that_both_runs_met():
    first = lines({1: 9.0}, {2: 0.5, 3: 0.7}, {4: float("nan")}, {5: 1.0})
    second = lines({1: 8.0}, {3: 0.4, 7: 0.1}, {4: 1.0}, {6: 1.0}, {5: 2.0})
    assert compare_runs.pairs(first, second, from_step=1) == [(1, 9.0, 8.0), (3, 0.7, 0.4)]
    assert compare_runs.pairs(first, second, from_step=2) == [(3, 0.7, 0.4)]


def test_means_by_hand():
    normalised, plain = (
        next(a for a in (sample_architecture("train", n) for n in range(200)) if bool(a.norm) is norm)
        for norm in (True, False)
    )
    met = [compare_runs.Pair(0, 1.0, 1.5), compare_runs.Pair(1, 2.0, 1.9), compare_runs.Pair(2, 50.0, 2.0)]
    rows = {row.kind: row for row in compare_runs.compare_kinds(met, [normalised, normalised, plain])}
    assert rows["all"] == ("all", 3, 2.0, 1.9, pytest.approx(0.2), pytest.approx(0.755 / 3**0.5, rel=1e-3))
    assert rows["batch norm"] == ("batch norm", 2, 1.5, 1.7, pytest.approx(-0.2), pytest.approx(0.3))
    assert rows["no normalisation"].mean == 1.0  # 3 - 2: a loss of 50 counts as 3
    assert sum(row.count for kind, row in rows.items() if kind.endswith("cells")) == 3


def test_foreign_lines_cost_themselves(run, capsys):
    good, bad = run("a", 1.25), run("b", 1.5)
    (row, *_) = lines({7: 1.0, 8: 1.0})
    foreign = [{"a": 1}, row | {"losses": [1.0]}, row | {"losses": ["x", "y"]}, row | {"losses": [None, 1.0]}]
    foreign += [row | {"architectures": bad} for bad in ("ab", [[1], [2]], [-1, 7], [1.5, 2], [True, 7])]
    foreign += [row | {"step": bad} for bad in ("1", [1], 1.5, True)] + [row | {"losses": [10**400, 1.0]}]
    with (Path(bad) / METRICS).open("a") as file:
        file.write("".join(json.dumps(one) + "\n" for one in foreign))
    (found, *_) = compare_runs.compare(Path(good), Path(bad))
    assert (found.count, found.first, found.second) == (2, 1.25, 1.5)


def test_runs_that_do_not_say_what_they_are_of(run, monkeypatch):
    first, second = run("a", 1.25), run("b", 1.5)
    empty = checkpoint.Description(SMALL, CIFAR10, 1, {})
    monkeypatch.setattr(checkpoint, "describe", lambda _: empty)
    with pytest.raises(compare_runs.ComparisonError, match="the runs have seed=None and None"):
        compare_runs.compare(Path(first), Path(second))


@pytest.fixture
def run(tmp_path):
    """Makes a folder as experiments/train.py leaves it."""

    def make(name: str, losses: float, seed: int = 1) -> str:
        config = {"seed": seed, "dataset": "digits", "batch_size": 8}
        description = checkpoint.Description(SMALL, CIFAR10, 1, config, Progress(1).to_json())
        run_checkpoints.save(tmp_path / name, description, {"params": GHN.init(SMALL, 0).params})
        rows = lines({7: losses, 8: losses})
        (tmp_path / name / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return make


def test_two_runs(run, capsys):
    first, second, third = run("a", 1.25), run("b", 1.5), run("c", 1.5, seed=2)
    scripts.load("experiments/compare_runs.py").main([first, second])
    assert "| all | 2 | 1.250 | 1.500 | -0.250 +- 0.000 |" in capsys.readouterr().out
    for arguments, message in (
        ((first, third), "seed=1 and 2"),
        ((first, second, 2), "no network at the same step from step 2 on"),
        ((first, "nowhere"), "nowhere"),
    ):
        with pytest.raises(GHNError, match=message):
            compare_runs.compare(*map(Path, arguments[:2]), *arguments[2:])
