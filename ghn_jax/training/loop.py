"""A training run from its configuration to a checkpoint, watched by a person."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from ghn_jax import checkpoint, images, pretrained
from ghn_jax.architecture import Task
from ghn_jax.checkpoint import Description
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.images import Batch, Dataset
from ghn_jax.predict import GHN
from ghn_jax.training import parallel
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.engine import Engine, Prepared
from ghn_jax.training.inputs import shares
from ghn_jax.training.plot import plot_training
from ghn_jax.training.prefetch import prefetch
from ghn_jax.training.step import Metrics, TrainState, init_state, make_optimizer
from ghn_jax.training.survey import survey
from ghn_jax.training.targets import meta_batches

CHECKPOINT_MINUTES = 5
"""A checkpoint is written at least this often."""

MAX_SKIPPED = 5
"""So many steps in a row without an update end a run."""

BATCHES_AHEAD = 2
"""Batches of images that are made ahead; one of 256 ImageNet images takes 147 MiB."""


class NonFiniteLossError(FloatingPointError):
    """Losses or gradients that are not finite, step after step; the state before them is still good."""


def train(config: TrainConfig) -> Path:
    """Trains a hypernetwork; returns the folder of its checkpoint, `workdir/checkpoint`.

    Next to it go `metrics.jsonl` (a line for every step) and `training.png`.  Ctrl-C ends the run with a checkpoint.
    A step with a loss or gradient that is not finite changes nothing and is counted; `MAX_SKIPPED` of them in a row
    end the run, with the checkpoint of the last good step.

    Raises:
      ImageError: the data set is not there, or has a damaged photograph.
      CheckpointError, ConfigError: see `start_params`; processes that disagree on the configuration.
      MachineError: devices that do not divide the meta-batch, or a meta-batch larger than memory allows.
      NonFiniteLossError: naming steps and architectures.
    """
    dataset = images.load(config.dataset, config.data_dir)
    images.steps_per_epoch(dataset, config.batch_size)  # an error now rather than at the first step
    task = dataset.task
    hypernet = config.hypernetwork(task)
    parallel.check_same_everywhere(json.dumps(dataclasses.asdict(config), sort_keys=True))
    shares([0.0] * config.meta_batch, parallel.num_devices())
    params = start_params(config, hypernet)
    workdir = Path(config.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(config)
    ahead = survey(config, task)
    engine = Engine(config, hypernet, optimizer, ahead, task.image_size)
    print(
        f"{sum(len(table.signatures) for table in ahead.tables.values())} operations, "
        f"{ahead.bounds.memory_bytes / 2**20:.0f} MiB for activations; compiling takes a minute or two the first time"
    )
    run = _Run(config, task, hypernet, workdir, parallel.replicate(init_state(params, optimizer)))
    first = parallel.is_first()
    path = workdir / "metrics.jsonl" if first else os.devnull
    with open(path, "w") as metrics, tqdm(total=config.steps, unit="step", disable=not first) as bar:
        try:
            run.steps(engine, dataset, metrics, bar)
        except KeyboardInterrupt:
            bar.write("interrupted; the checkpoint holds what was learned")
        finally:
            run.save()
    if first:
        plot_training(path, workdir / "training.png")
    return run.checkpoint


def start_params(config: TrainConfig, hypernet: HypernetConfig) -> Any:
    """The weights that training starts from.

    Raises:
      CheckpointError: no checkpoint at `config.start`.
      ConfigError: it holds another hypernetwork than `hypernet`.
    """
    if config.start == "random":
        return GHN.init(hypernet, config.seed).params
    ghn = pretrained.load() if config.start == "pretrained" else checkpoint.load_ghn(config.start)
    if ghn.config != hypernet:
        raise ConfigError(f"config.start={config.start!r} is {ghn.config}, expected {hypernet}")
    return ghn.params


class _Step(NamedTuple):
    """A step and what is known of it besides its metrics."""

    prepared: Prepared
    metrics: Metrics
    began: float
    waited: float
    passed_over: int


@dataclasses.dataclass
class _Run:
    """The moving parts of a run."""

    config: TrainConfig
    task: Task
    hypernet: HypernetConfig
    workdir: Path
    state: TrainState
    started: float = dataclasses.field(default_factory=time.monotonic)
    skipped_in_a_row: int = 0
    smooth_loss: float | None = None
    smooth_accuracy: float = 0.0

    @property
    def checkpoint(self) -> Path:
        return self.workdir / "checkpoint"

    def steps(self, engine: Engine, dataset: Dataset, metrics, bar: tqdm) -> None:
        """Updates until the steps or the time are used up."""
        config = self.config
        saved = time.monotonic()
        with (
            contextlib.closing(prefetch(self._prepared(engine))) as meta_batches,
            contextlib.closing(prefetch(self._batches(dataset), BATCHES_AHEAD)) as batches,
        ):
            for step in range(config.steps):
                began = time.monotonic()
                prepared, batch = next(meta_batches), next(batches)
                waited = time.monotonic() - began
                self.state, result = engine.step(self.state, prepared, batch.images, batch.labels)
                self._report(step, _Step(prepared, result, began, waited, engine.passed_over), metrics, bar)
                now = time.monotonic()
                over = config.max_minutes is not None and now - self.started > 60 * config.max_minutes
                over, due = parallel.decided_by_first(over, now - saved > 60 * CHECKPOINT_MINUTES)
                if over:
                    bar.write(f"stopped after config.max_minutes={config.max_minutes:g}, {step + 1} steps")
                    break
                if due:
                    self.save()
                    saved = now

    def _prepared(self, engine: Engine) -> Iterator[Prepared]:
        """Meta-batches as arrays, whose steps are being compiled."""
        for targets in meta_batches(self.config, self.task, engine.accepts):
            prepared = engine.prepare(targets)
            engine.compile(self.state, prepared)
            yield prepared

    def _batches(self, dataset: Dataset) -> Iterator[Batch]:
        """The images of every step."""
        for step in range(self.config.steps):
            yield images.train_batch(dataset, self.config.batch_size, self.config.seed, step)

    def _report(self, step: int, made: _Step, metrics, bar: tqdm) -> None:
        """Writes a line of metrics; ends the run after too many skipped steps."""
        prepared, result = made.prepared, parallel.first_copy(made.metrics)
        losses = result.losses.reshape(-1)
        loss, accuracy = float(np.mean(losses)), float(np.mean(result.correct)) / self.config.batch_size
        numbers = [target.number for target in prepared.targets]
        now = time.monotonic()
        fields = {
            "step": step + 1,
            "minutes": round((now - self.started) / 60, 4),
            "seconds": round(now - made.began, 4),
            "waiting": round(made.waited, 4),
            "networks_per_second": round(len(numbers) / (now - made.began), 4),
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": float(result.grad_norm),
            "applied": bool(result.applied),
            "passed_over": made.passed_over,
            "balance": round(prepared.balance, 4),
            "memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "architectures": numbers,
            "nodes": sum(target.graph.num_nodes for target in prepared.targets),
            "losses": [float(f"{loss:.5g}") for loss in losses],
        }
        metrics.write(json.dumps(fields) + "\n")
        metrics.flush()
        if not result.applied:
            self.skipped_in_a_row += 1
            bar.write(f"step {step + 1} skipped: losses {losses.tolist()} of train architectures {numbers}")
            if self.skipped_in_a_row == MAX_SKIPPED:
                raise NonFiniteLossError(
                    f"step {step + 1}: losses or gradients were not finite for {MAX_SKIPPED} steps in a row; the last "
                    f"train architectures were {numbers}"
                )
            return
        self.skipped_in_a_row = 0
        self.smooth_loss = loss if self.smooth_loss is None else 0.95 * self.smooth_loss + 0.05 * loss
        self.smooth_accuracy += (accuracy - self.smooth_accuracy) * max(0.05, 1 / (step + 1))
        bar.set_postfix(loss=f"{self.smooth_loss:.3f}", accuracy=f"{self.smooth_accuracy:.1%}", refresh=False)
        bar.update()

    def save(self) -> None:
        """Writes the checkpoint."""
        state = parallel.first_copy(self.state)
        description = Description(self.hypernet, self.task, int(state.step), dataclasses.asdict(self.config))
        arrays = {"params": state.params, "opt_state": jax.tree.leaves(state.opt_state)}
        checkpoint.save(self.checkpoint, description, arrays)
