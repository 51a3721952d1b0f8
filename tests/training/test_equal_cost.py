"""Recipes of training compared at equal cost."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import scripts
from small_runs import PLAIN, small_config

from ghn_jax import images
from ghn_jax.cli.common import CommandError
from ghn_jax.evaluation import json_lines
from ghn_jax.ghn.config import ConfigError
from ghn_jax.networks.network import make_network
from ghn_jax.training import equal_cost, validation
from ghn_jax.training.equal_cost import Course
from ghn_jax.training.loop import Outcome


@pytest.fixture
def judged_by_small_networks(monkeypatch):
    task = images.load("digits").task
    networks = [make_network(n, dataclasses.replace(PLAIN, n_cells=1, C=8, fc_dim=16), task) for n in range(2)]
    monkeypatch.setattr(validation, "val_targets", lambda config, task: networks[: config.val_networks])


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


def test_recipes_of_a_command_line(tmp_path):
    base = small_config(tmp_path, val_networks=2)
    recipes = equal_cost.parse_recipes(base, ["as it is", "other:optimizer=muon,average=0.9,own_images=true,start=x"])
    assert list(recipes) == ["as it is", "other"] and recipes["as it is"] == base
    assert recipes["other"] == dataclasses.replace(base, optimizer="muon", average=0.9, own_images=True, start="x")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected NAME"),
        ("../a", "expected NAME"),
        ("a", "every name once"),
        ("b:muon", "FIELD=VALUE"),
        ("b:steps=7", "steps=7"),
        ("b:max_multiply_adds=7", "the same for all"),
        ("b:optimiser=muon", "did you mean 'optimizer'"),
        ("b:average=2", "average"),
    ],
)
def test_texts_that_are_no_recipe(tmp_path, text, named):
    with pytest.raises(ConfigError, match=named):
        equal_cost.parse_recipes(small_config(tmp_path, val_networks=2), ["a", text])


def test_a_run_gets_the_steps_that_its_minutes_pay_for(
    tmp_path, monkeypatch, small_hypernetwork, small_networks, judged_by_small_networks, digits
):
    """A run itself: its steps, when it is judged, by which networks; the second call trains and judges nothing."""
    base = small_config(tmp_path, val_networks=2, val_images=32, max_minutes=1e-6)  # a limit that does not count
    recipes = equal_cost.parse_recipes(base, ["muon:optimizer=muon,average=0.5"])
    monkeypatch.setattr(equal_cost, "step_costs", lambda recipes, dataset: {"muon": 3.0})
    told = []

    def compare(recipes=recipes):
        return equal_cost.compare(
            recipes, digits, tmp_path / "out", cpu_minutes=0.2, times=2, begins=told.append
        )["muon"]  # fmt: skip

    (course,) = compare()
    assert course.steps == 4 and "muon, seed 0: 4 steps of 3.000 CPU-seconds" in told  # of 12 CPU-seconds
    np.testing.assert_allclose(course.minutes, [0.1, 0.2])
    assert course.accuracies.shape == (2, 2) and np.all(course.accuracies >= 0)

    monkeypatch.setattr(equal_cost, "step_costs", lambda recipes, dataset: pytest.fail("measured again"))
    monkeypatch.setattr(equal_cost, "train", lambda config, dataset: pytest.fail("trained again"))
    np.testing.assert_array_equal(compare()[0].accuracies, course.accuracies)
    for change, named in (
        ({"average": 0.6}, "average was 0.5, is 0.6"),
        ({"val_images": 16}, "val_images was 32, is 16"),
    ):
        with pytest.raises(ConfigError, match=f"another recipe muon: {named}"):
            compare({"muon": dataclasses.replace(recipes["muon"], **change)})
    with pytest.raises(ConfigError, match="val_networks=0"):
        compare({"blind": dataclasses.replace(base, val_networks=0)})


def test_a_recipe_that_comes_later_costs_what_it_would_have_cost_then(tmp_path, monkeypatch):
    """The machine has become twice as slow since."""
    base = small_config(tmp_path, val_networks=2)
    measured = []

    def step_costs(recipes, dataset):
        measured.append(list(recipes))
        return {name: cost * len(measured) for name, cost in (("a", 3.0), ("b", 5.0)) if name in recipes}

    monkeypatch.setattr(equal_cost, "step_costs", step_costs)
    for recipes in ({"a": base}, {"a": base, "b": base}):
        costs = equal_cost._known_costs(recipes, None, tmp_path, print)
    assert costs == {"a": 3.0, "b": 5.0} and measured == [["a"], ["a", "b"]]


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"a": 3}', '{"a": {"cpu_seconds": 0, "config": {}}}', '{"a": {"cpu_seconds": 1}}']
)
def test_damaged_costs(tmp_path, content):
    (tmp_path / equal_cost.COSTS).write_text(content)
    with pytest.raises(ConfigError, match="expected what steps of recipes cost"):
        equal_cost._known_costs({"a": small_config(tmp_path, val_networks=2)}, None, tmp_path, print)


def test_costs_are_of_steps_without_compiling(tmp_path, monkeypatch, small_hypernetwork, small_networks, digits):
    """On a clock that every step moves on by 5 seconds a network: once for each, though all are made twice."""
    clock = itertools.count()
    monkeypatch.setattr(equal_cost, "MEASURED", 4)
    monkeypatch.setattr(equal_cost.time, "process_time", lambda: 5.0 * next(clock))
    made = []
    original = equal_cost.Engine.step

    def step(self, state, inputs, images, labels):
        made.append(len(inputs.targets))
        for _ in inputs.targets:
            next(clock)
        return original(self, state, inputs, images, labels)

    monkeypatch.setattr(equal_cost.Engine, "step", step)
    recipes = {"two": small_config(tmp_path), "one": dataclasses.replace(small_config(tmp_path), meta_batch=1)}
    costs = equal_cost.step_costs(recipes, digits)
    assert made[:6] == [2, 2, 1, 1, 1, 1]  # compiles
    assert made[6:] == [2, 1, 1, 2, 1, 1]  # in turns, two networks each; 5 seconds of reading the clock in every turn
    assert costs == {"two": 15.0, "one": 7.5}


def test_table_by_hand():
    first = Course(np.array([1.0, 2.0]), np.array([[0.1, 0.1], [0.2, 0.4]]), 10)
    second = Course(np.array([1.0, 2.0]), np.array([[0.1, 0.1], [0.4, 0.5]]), 12)
    third = Course(np.array([1.0, 2.0]), np.array([[0.1, 0.1], [0.2, 0.5]]), 13)
    lines = equal_cost.table({"a": [first], "b": [second, third]}).splitlines()
    assert lines[2:] == ["| a | 10 | 30.0 +- 10.0 |  |", "| b | 12 | 40.0 +- 10.0 | +10.0 +- 0.0 |"]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_command(tmp_path, monkeypatch, capsys):
    """The command alone: its runs leave what runs leave."""
    trained = []

    def train(config, dataset):
        assert dataset.name == config.dataset == "digits"
        trained.append(config)
        Path(config.workdir).mkdir()
        for share in (*config.val_at, 1):
            row = {"step": round(share * config.steps), "accuracies": [0.25, 0.125 * share]}
            json_lines.append(Path(config.workdir) / "validation.jsonl", row)
        return Outcome(Path(config.workdir), config.steps, config.steps, 1.0, 0, None, None)

    monkeypatch.setattr(equal_cost, "train", train)
    monkeypatch.setattr(equal_cost, "step_costs", lambda recipes, dataset: dict.fromkeys(recipes, 6.0))
    script = scripts.load("experiments/compare_recipes.py")
    out = tmp_path / "out"
    script.main(
        ["today", "cosine:schedule=cosine", "--config=configs/smoke.py", "--cpu_minutes=0.4", "--times=2"]
        + ["--val_networks=2", "--val_images=16", "--seeds", "3", "4", f"--out={out}"]
    )
    assert [(run.schedule, run.seed, run.steps, run.val_at, run.val_networks, run.val_images) for run in trained] == [
        ("steps", 3, 4, (0.5,), 2, 16), ("cosine", 3, 4, (0.5,), 2, 16),
        ("steps", 4, 4, (0.5,), 2, 16), ("cosine", 4, 4, (0.5,), 2, 16),
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "cosine, seed 3: 4 steps of 6.000 CPU-seconds" in printed
    text = (out / "recipes.md").read_text()
    assert text in printed and "| cosine | 4 | 18.8 +- 6.2 | +0.0 +- 0.0 |" in text
    assert (out / "recipes.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(CommandError, match="every seed once"):
        script.main(["today", "--config=configs/smoke.py", "--seeds", "1", "1", f"--out={out}"])
