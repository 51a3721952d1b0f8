"""A training run from its configuration to a checkpoint, watched by a person."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from ghn_jax import checkpoint, images, pretrained
from ghn_jax.architecture import Task
from ghn_jax.checkpoint import Description
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.images import Dataset
from ghn_jax.predict import GHN
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.plot import plot_training
from ghn_jax.training.prefetch import prefetch
from ghn_jax.training.step import Trainer, TrainState, init_state, make_optimizer
from ghn_jax.training.targets import Target, meta_batches

CHECKPOINT_MINUTES = 5
"""A checkpoint is written at least this often."""


def train(config: TrainConfig) -> Path:
    """Trains a hypernetwork; returns the folder of its checkpoint, `workdir/checkpoint`.

    Next to it go `metrics.jsonl` (a line for every step) and `training.png`.  Ctrl-C and a loss that is not finite
    end the run with the checkpoint of the last good step.

    Raises:
      ImageError: the data set is not there.
      CheckpointError, ConfigError: see `start_params`.
      NonFiniteLossError: see `Trainer.step`.
    """
    dataset = images.load(config.dataset, config.data_dir)
    images.steps_per_epoch(dataset, config.batch_size)  # an error now rather than at the first step
    task = Task(num_classes=dataset.num_classes, image_size=images.IMAGE_SIZE)
    workdir = Path(config.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    hypernet = config.hypernetwork(task)
    optimizer = make_optimizer(config)
    trainer = Trainer(hypernet, optimizer, config.label_smoothing, config.seed, config.network_clip_norm)
    state = init_state(start_params(config, hypernet), optimizer)
    run = _Run(config, task, hypernet, workdir, state)
    with open(workdir / "metrics.jsonl", "w") as metrics, tqdm(total=config.steps, unit="step") as bar:
        try:
            run.steps(trainer, dataset, metrics, bar)
        except KeyboardInterrupt:
            bar.write(f"interrupted after step {int(run.state.step)}; the checkpoint holds what was learned")
        finally:
            run.save()
    plot_training(workdir / "metrics.jsonl", workdir / "training.png")
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


@dataclasses.dataclass
class _Run:
    """The moving parts of a run."""

    config: TrainConfig
    task: Task
    hypernet: HypernetConfig
    workdir: Path
    state: TrainState

    @property
    def checkpoint(self) -> Path:
        return self.workdir / "checkpoint"

    def steps(self, trainer: Trainer, dataset: Dataset, metrics, bar: tqdm) -> None:
        """Updates until the steps or the time are used up."""
        config = self.config
        start = saved = time.monotonic()
        targets = prefetch(self._prepared(trainer))
        smooth_loss, smooth_accuracy = None, 0.0
        for step in range(config.steps):
            began = time.monotonic()
            meta_batch = next(targets)
            prepared = time.monotonic()
            batch = images.train_batch(dataset, config.batch_size, config.seed, step)
            self.state, result = trainer.step(self.state, meta_batch, batch.images, batch.labels)
            now = time.monotonic()
            smooth_loss = result.loss if smooth_loss is None else 0.95 * smooth_loss + 0.05 * result.loss
            smooth_accuracy += (result.accuracy - smooth_accuracy) * max(0.05, 1 / (step + 1))
            fields = {
                "step": step + 1,
                "minutes": round((now - start) / 60, 4),
                "seconds": round(now - began, 4),
                "waiting": round(prepared - began, 4),
                "loss": result.loss,
                "accuracy": result.accuracy,
                "grad_norm": result.grad_norm,
                "architectures": [target.number for target in meta_batch],
                "nodes": sum(target.graph.num_nodes for target in meta_batch),
                "losses": [float(f"{loss:.5g}") for loss in result.losses],
            }
            metrics.write(json.dumps(fields) + "\n")
            metrics.flush()
            bar.set_postfix(loss=f"{smooth_loss:.3f}", accuracy=f"{smooth_accuracy:.1%}", refresh=False)
            bar.update()
            if config.max_minutes is not None and now - start > 60 * config.max_minutes:
                bar.write(f"stopped after config.max_minutes={config.max_minutes:g}, {step + 1} steps")
                break
            if now - saved > 60 * CHECKPOINT_MINUTES:
                self.save()
                saved = now

    def _prepared(self, trainer: Trainer) -> Iterator[tuple[Target, ...]]:
        """Meta-batches whose instructions are compiled."""
        for targets in meta_batches(self.config, self.task):
            trainer.compile(targets, self.config.batch_size)
            yield targets

    def save(self) -> None:
        """Writes the checkpoint."""
        fields = dataclasses.asdict(self.config)
        description = Description(self.hypernet, self.task, int(self.state.step), fields)
        arrays = {"params": self.state.params, "opt_state": jax.tree.leaves(self.state.opt_state)}
        checkpoint.save(self.checkpoint, description, arrays)
