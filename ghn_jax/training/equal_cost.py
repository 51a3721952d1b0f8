"""Recipes of training compared at equal cost: each gets the same CPU-minutes of steps, and the same networks judge it.

A schedule has to know its end before it begins.  So the CPU-seconds of a step are measured first, for all recipes in
turns and with every program compiled, and each recipe is given as many steps as they pay for.  Compiling and judging
are not paid for: the first belongs to the first run on a machine, the second to nobody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax.checks import files
from ghn_jax.checks.fields import Real, Rule, Several, Whole
from ghn_jax.errors import extra
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.results import summary
from ghn_jax.ghn.config import ConfigError
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Dataset
from ghn_jax.training import parallel, teacher
from ghn_jax.training.config import MAY_CHANGE, TrainConfig, differences, from_fields
from ghn_jax.training.engine import Engine
from ghn_jax.training.loop import train
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.step import init_state
from ghn_jax.training.watch import VALIDATION

MEASURED = 48
"""Networks whose steps are measured, at least."""

COSTS = "costs.json"
"""In the folder of a comparison: CPU-seconds of a step of every recipe, with what they were measured for."""

SAME = ("dataset", "fixed_width", "max_multiply_adds", "val_networks", "val_images")
"""Fields that say what a run is judged by; no recipe may change them."""

SET = ("seed", "steps", "workdir", "max_minutes", "val_minutes", "val_at")
"""Fields that the comparison sets."""

Recipes = Mapping[str, TrainConfig]
"""Runs by name."""


class Course(NamedTuple):
    """How a recipe went with one seed.

    Attributes:
      minutes: CPU-minutes of steps at which it was judged.
      accuracies: of every network that judged it (0..1), [times, networks].
      steps: in all.
    """

    minutes: np.ndarray
    accuracies: np.ndarray
    steps: int


def parse_recipes(base: TrainConfig, texts: Sequence[str]) -> dict[str, TrainConfig]:
    """Recipes as a command line gives them.

    Args:
      base: what they change.
      texts: "NAME" for the run as it is, or "NAME:FIELD=VALUE,FIELD=VALUE", values as in JSON; what is no JSON is a
        string.

    Raises:
      ConfigError: a text of another form, a name twice, a field that there is not or that may not change.

    >>> from ghn_jax.training.config import TrainConfig
    >>> recipes = parse_recipes(TrainConfig(val_networks=2), ["today", "matrices:optimizer=muon,weight_decay=0.01"])
    >>> recipes["matrices"].optimizer, recipes["matrices"].weight_decay, recipes["today"].optimizer
    ('muon', 0.01, 'adam')
    """
    found: dict[str, TrainConfig] = {}
    for text in texts:
        name, _, changes = text.partition(":")
        if not name or name in found or name != Path(name).name or name.startswith("."):
            raise ConfigError(f"recipe {text!r}: expected NAME or NAME:FIELD=VALUE,..., every name once")
        fields = dict(vars(base))
        for change in changes.split(",") if changes else ():
            field, equals, value = change.partition("=")
            if not equals or field in (*SAME, *SET):
                raise ConfigError(
                    f"recipe {text!r}: expected FIELD=VALUE and none of {', '.join(SAME)}, which are the same for all, "
                    f"nor of {', '.join(SET)}, which the comparison sets; got {change!r}"
                )
            with contextlib.suppress(ValueError):
                value = files.parse_json(value)
            fields[field] = value
        found[name] = from_fields(fields)
    return found


def step_costs(recipes: Recipes, dataset: Dataset) -> dict[str, float]:
    """CPU-seconds of a step of every recipe, once its programs are compiled.

    Recipes take turns, some networks each, so that what slows the machine down for a while slows all of them down.
    """
    with contextlib.ExitStack() as stack:
        rehearsals = {name: _Rehearsal(config, dataset, stack) for name, config in recipes.items()}
        at_once = max(config.meta_batch for config in recipes.values())
        seconds = dict.fromkeys(recipes, 0.0)
        for first in range(0, MEASURED, at_once):
            for name, rehearsal in rehearsals.items():
                began = time.process_time()
                rehearsal.train(first, min(first + at_once, MEASURED))
                seconds[name] += time.process_time() - began
    return {name: seconds[name] / len(rehearsal.prepared) for name, rehearsal in rehearsals.items()}


class _Rehearsal:
    """The first steps of a run, made once to compile them: one after another, so that each finds what others kept."""

    def __init__(self, config: TrainConfig, dataset: Dataset, stack: contextlib.ExitStack):
        self._config = config
        ghn, optimizer = config.hypernetwork(dataset.task), make_optimizer(config)
        self._engine = stack.enter_context(contextlib.closing(Engine(config, ghn, optimizer)))
        params = GHN.init(ghn, seed=0).params
        self._state = parallel.replicate(init_state(params, optimizer, average=config.average is not None))
        drawn = itertools.islice(meta_batches(config, dataset.task), -(-MEASURED // config.meta_batch))
        self.prepared = [self._engine.prepare(self._state, one.targets) for one in drawn]
        self._batch_of = teacher.batches(config, dataset, self._engine.programs, teacher.of_run(config, dataset.task))
        self.train(0, MEASURED)

    def train(self, first: int, last: int) -> None:
        """Makes the steps whose first network is one of these."""
        config = self._config
        for step, inputs in enumerate(self.prepared):
            if first <= step * config.meta_batch < last:
                batch = self._batch_of(step)
                self._state, metrics = self._engine.step(self._state, inputs, batch.images, batch.labels)
                jax.block_until_ready(metrics)


def compare(
    recipes: Recipes,
    dataset: Dataset,
    out: str | os.PathLike,
    *,
    cpu_minutes: float,
    seeds: Sequence[int] = (0,),
    times: int = 4,
    begins: Callable[[str], None] = print,
) -> dict[str, list[Course]]:
    """Trains every recipe with every seed, or goes on with what an earlier call has begun.

    Args:
      recipes: by name, see `parse_recipes`.
      dataset: the images.
      out: folder of the runs, and of what a step of each costs.
      cpu_minutes: of steps, for every run.
      seeds: of the networks drawn, the images and new weights; runs of one seed meet the same networks.
      times: how often a run is judged, the last time at its end.
      begins: is told of every run before it begins.

    Returns:
      For every recipe a course for every seed.

    Raises:
      ConfigError: no network to judge by; costs that were measured for other recipes, or a damaged file of them; what
        `train` raises.
      OSError: files that cannot be written.
    """
    out = Path(out)
    if any(not config.val_networks for config in recipes.values()):
        raise ConfigError("config.val_networks=0: expected networks to judge the recipes by")
    costs = _known_costs(recipes, dataset, out, begins)
    found: dict[str, list[Course]] = {name: [] for name in recipes}
    for seed in seeds:
        for name, config in recipes.items():
            cost = costs[name]
            steps = max(times, round(60 * cpu_minutes / cost))
            run = dataclasses.replace(
                config, seed=seed, steps=steps, workdir=str(out / f"{name}_{seed}"), max_minutes=None,
                val_minutes=1e6, val_at=tuple(part / times for part in range(1, times)),
            )  # fmt: skip
            begins(f"{name}, seed {seed}: {steps:,} steps of {cost:.3f} CPU-seconds")
            course = _course(Path(run.workdir), cost)
            if course is None or course.steps < steps:
                if train(run, dataset).signal is not None:
                    raise KeyboardInterrupt
                course = _course(Path(run.workdir), cost)
            assert course is not None and course.steps == steps
            found[name].append(course)
    return found


def _known_costs(recipes: Recipes, dataset: Dataset, out: Path, begins: Callable[[str], None]) -> dict[str, float]:
    """The costs in a folder, or new ones, which are written there.

    New recipes take turns with one whose cost is known: theirs are what it would have been at that time.
    """
    out.mkdir(parents=True, exist_ok=True)
    stored = _read_costs(out / COSTS, recipes) if (out / COSTS).exists() else {}
    if new := [name for name in recipes if name not in stored]:
        begins(f"measuring what a step costs: {', '.join(new)}")
        known = [name for name in recipes if name in stored][:1]
        found = step_costs({name: recipes[name] for name in (*known, *new)}, dataset)
        scale = stored[known[0]]["cpu_seconds"] / found[known[0]] if known else 1.0
        for name in new:
            stored[name] = {"cpu_seconds": scale * found[name], "config": dataclasses.asdict(recipes[name])}
        with files.replacing(out / COSTS) as temporary:
            temporary.write_text(json.dumps(stored, indent=1))
    return {name: stored[name]["cpu_seconds"] for name in recipes}


def _read_costs(path: Path, recipes: Recipes) -> dict[str, Any]:
    """What is known of recipes, which must be those that it was measured for, judged by the same networks and images.

    Raises:
      ConfigError: they are not, or the file holds something else.
    """
    try:
        stored = files.parse_json(files.read_regular(path))
        for known in stored.values():
            Real(0, 1e30, with_low=False).take(known["cpu_seconds"])
            dict.items(known["config"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ConfigError(f"{path}: expected what steps of recipes cost, choose another folder ({error})") from error
    for name in stored.keys() & recipes.keys():
        was, now = stored[name]["config"], recipes[name]
        different = differences(now, was)
        different += [
            f"{field} was {was.get(field)!r}, is {getattr(now, field)!r}"
            for field in SAME
            if field in MAY_CHANGE and was.get(field) != getattr(now, field)
        ]
        if different:
            raise ConfigError(f"{path} is of another recipe {name}: {'; '.join(different)}; choose another folder")
    return stored


def _course(workdir: Path, cost: float) -> Course | None:
    """What a run has made so far, None if it was never judged."""
    if not (workdir / VALIDATION).exists():
        return None
    kinds: dict[str, Rule] = {"step": Whole(0, 1 << 53), "accuracies": Several(Real(0, 1), 1, 1 << 20)}
    rows = {row["step"]: row["accuracies"] for row in json_lines.read(workdir / VALIDATION, **kinds)}
    at = sorted(step for step in rows if len(rows[step]) == len(rows[max(rows)]))
    return Course(np.array(at) * cost / 60, np.array([rows[step] for step in at]), at[-1]) if at else None


def table(found: Mapping[str, Sequence[Course]]) -> str:
    """Last accuracies in percent, and their differences from those of the first recipe network by network, as Markdown.

    Standard errors are over networks; those of a difference are smaller, since both have judged the same ones.
    """
    lines = ["| recipe | steps | top-1 | gain over the first |", "|---|---|---|---|"]
    first = None
    for name, courses in found.items():
        last = 100 * np.mean([course.accuracies[-1] for course in courses], axis=0)
        first = last if first is None else first
        mean, gain = summary(last), summary(last - first)
        steps = f"{round(np.mean([course.steps for course in courses])):,}"
        spread = "" if last is first else f"{gain['mean']:+.1f} +- {gain['standard_error']:.1f}"
        lines.append(f"| {name} | {steps} | {mean['mean']:.1f} +- {mean['standard_error']:.1f} | {spread} |")
    return "\n".join(lines) + "\n"


def plot(path: str | os.PathLike, found: Mapping[str, Sequence[Course]]) -> None:
    """Draws mean accuracy over CPU-minutes, a line for every recipe, means over seeds."""
    with extra("plot"):
        import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, courses) in enumerate(found.items()):
        minutes = np.mean([course.minutes for course in courses], axis=0)
        accuracy = 100 * np.mean([course.accuracies.mean(axis=1) for course in courses], axis=0)
        line = ("-", "--")[number // 10 % 2]
        axes.plot(minutes, accuracy, marker=".", label=name, color=f"C{number % 10}", linestyle=line)
    axes.set(xlabel="CPU-minutes of steps", ylabel="top-1 on unseen networks, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)
