"""A training run from its configuration to its checkpoints, watched by a person, and going on after interruptions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ghn_jax import images
from ghn_jax.checks import fields, files
from ghn_jax.checks.fields import Maybe, Real, Text, Whole
from ghn_jax.deepnets.sampler import GENERATOR_VERSION
from ghn_jax.errors import GHNError, extra
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.images import Batch, Dataset
from ghn_jax.networks.architecture import Task
from ghn_jax.runtime import own_settings
from ghn_jax.training import parallel, teacher
from ghn_jax.training.config import TrainConfig, differences
from ghn_jax.training.engine import Engine, Prepared
from ghn_jax.training.inputs import shares
from ghn_jax.training.memory import check_first_networks
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.plot import plot_runs
from ghn_jax.training.prefetch import prefetch
from ghn_jax.training.signals import Stop, asked_to_stop
from ghn_jax.training.step import Metrics, TrainState, init_state
from ghn_jax.training.teacher import Teacher
from ghn_jax.training.validation import Validation
from ghn_jax.training.watch import METRICS, VALIDATION, Watch
from ghn_jax.weights import checkpoint, loading, run_checkpoints
from ghn_jax.weights.checkpoint import Description
from ghn_jax.weights.errors import CheckpointError
from ghn_jax.weights.other_classes import with_classes
from ghn_jax.weights.run_checkpoints import Checkpoints

MAX_SKIPPED = 5
"""So many steps in a row without an update end a run."""

LOCK = "training.lock"
"""In the folder of a run: which process trains there."""

PICTURE = "training.png"
"""In the folder of a run: its course."""

STEPS_OF_PACE = 10
"""After so many steps a run says how long it will take."""

BATCHES_AHEAD = 2
"""Batches of images that are made ahead; one of 256 ImageNet images takes 147 MiB."""


class NonFiniteLossError(GHNError, FloatingPointError):
    """Losses or gradients that are not finite, step after step; the last checkpoint is still good."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is, besides the arrays; random keys and images follow from the seed and the step alone.

    Attributes:
      step: steps made.
      minutes: time they took.
      position: in the stream of architectures, of the next one to be drawn.
      skipped: steps without an update.
      skipped_in_a_row: of those, the last ones.
      generator_version: of the stream of architectures.
      teacher: fingerprint of the network that the run learns from, None without.
    """

    step: int = 0
    minutes: float = 0.0
    position: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    generator_version: int = GENERATOR_VERSION
    teacher: str | None = None

    def __post_init__(self):
        count = Whole(0, 1 << 62)
        counts = ("step", "position", "skipped", "skipped_in_a_row", "generator_version")
        fields.check(
            self, CheckpointError, minutes=Real(0, 1e12), teacher=Maybe(Text(100)), **dict.fromkeys(counts, count)
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Progress:
        """What `to_json` gave.

        Raises:
          CheckpointError: it gave something else.
        """
        return fields.construct(cls, stored, CheckpointError)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      workdir: of the run.
      step: steps made in all.
      steps: steps of the whole run.
      minutes: time they took.
      skipped: steps without an update.
      accuracy: the last validation accuracy (0..1), None if there was none.
      signal: number of the signal that ended it, None if it ended by itself.
    """

    workdir: Path
    step: int
    steps: int
    minutes: float
    skipped: int
    accuracy: float | None
    signal: int | None

    @property
    def over(self) -> bool:
        """Whether it ran out of its time."""
        return self.step < self.steps and self.signal is None


@own_settings()
def train(config: TrainConfig, dataset: Dataset | None = None) -> Outcome:
    """Trains a hypernetwork, or goes on with it where the run in `workdir` was interrupted.

    A run that goes on ends with the same parameters, bit for bit, as one that was never interrupted, on the same
    machine.  Checkpoints go to `workdir/checkpoints`, next to them `metrics.jsonl` (a line for every step),
    `validation.jsonl` and `training.png`.  Ctrl-C or SIGTERM end the run after the step at hand, with a checkpoint.
    A step with a loss or gradient that is not finite changes nothing and is counted; `MAX_SKIPPED` of them in a row
    end the run.

    Args:
      config: the run.
      dataset: images of your own (`images.from_arrays`); None takes the ones that `config` names.

    Raises:
      MissingExtraError: Matplotlib, or what the data set needs, is not installed.
      ImageError: the data set is not there, or has a damaged photograph.
      CheckpointError, ConfigError: see `start_params`; a run with another configuration or teacher in `workdir`; a
        checkpoint that cannot be written, or for which there is no space; processes that disagree on the configuration.
      FileError: another process trains in `workdir`, it is named.
      ExecutionError: devices that do not divide the meta-batch, or a network larger than the memory of a device.
      CompilationError: an operation that cannot be compiled for the device.
      NonFiniteLossError: naming steps and architectures.
      OSError: files that cannot be written.
    """
    with extra("plot"):  # the picture at the end; told now
        import matplotlib.figure  # noqa: F401
    if dataset is None:
        dataset = images.load(config.dataset, config.data_dir)
    images.steps_per_epoch(dataset, config.images_of_step)  # an error now rather than at the first step
    task = dataset.task
    hypernet = config.hypernetwork(task)
    taught_by = teacher.of_run(config, task)
    same = {**dataclasses.asdict(config), "fingerprint": taught_by and taught_by.fingerprint}
    parallel.check_same_everywhere(json.dumps(same, sort_keys=True))
    shares([0.0] * config.meta_batch, parallel.num_devices())
    workdir = Path(config.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with files.locked(workdir / LOCK) if parallel.is_first() else contextlib.nullcontext():
        return _train(config, dataset, hypernet, workdir, taught_by)


def _check_picture(workdir: Path) -> None:
    """Raises FileError for a picture in the place of a run's, where there was no run."""
    ours = (workdir / METRICS).exists() or checkpoint.saved_steps(workdir / checkpoint.FOLDER)
    if os.path.lexists(workdir / PICTURE) and not ours:
        raise files.FileError(
            f"{workdir / PICTURE} stays as it is: this program did not write it; choose another config.workdir"
        )


def _train(
    config: TrainConfig, dataset: Dataset, hypernet: HypernetConfig, workdir: Path, taught_by: Teacher | None
) -> Outcome:
    """Trains in a folder that no other process trains in."""
    _check_picture(workdir)
    task, optimizer = dataset.task, make_optimizer(config)
    state, progress = _start(config, hypernet, optimizer, taught_by)
    if progress.step >= config.steps:
        print(f"{workdir}: all {config.steps} steps are made already")
        return _Run(config, task, hypernet, workdir, state, progress, taught_by).outcome()
    check_first_networks(config, task)
    arrays = jax.eval_shape(_arrays, state)
    run = _Run(config, task, hypernet, workdir, parallel.replicate(state), progress, taught_by)
    del state
    with (
        contextlib.closing(Watch(workdir, progress.step, config.steps, parallel.is_first())) as watch,
        asked_to_stop(watch.bar.write) as stop,  # until the last checkpoint is complete
        contextlib.closing(Engine(config, hypernet, optimizer, watch.compiling)) as engine,
        contextlib.closing(Checkpoints(workdir / checkpoint.FOLDER, config.keep_checkpoints)) as checkpoints,
    ):
        checkpoints.check_space(arrays)
        validates = config.val_networks and parallel.is_first()
        validation = Validation(config, hypernet, dataset, engine.programs) if validates else None
        run.steps(engine, dataset, validation, checkpoints, watch, stop)
    if parallel.is_first():
        with files.replacing(workdir / PICTURE) as temporary:
            plot_runs([workdir], temporary)
    return dataclasses.replace(run.outcome(), signal=stop.signal)


def _start(
    config: TrainConfig, hypernet: HypernetConfig, optimizer, taught_by: Teacher | None
) -> tuple[TrainState, Progress]:
    """The state that a run goes on from, or begins with."""
    folder = Path(config.workdir) / checkpoint.FOLDER
    average, fingerprint = config.average is not None, None if taught_by is None else taught_by.fingerprint
    fresh = jax.eval_shape(lambda: init_state(GHN.init(hypernet, 0).params, optimizer, average=average))
    if steps := checkpoint.saved_steps(folder):  # first of all: arrays of another run would look damaged
        with contextlib.suppress(CheckpointError):  # if it is damaged itself, that is dealt with below
            _check_same_run(config, checkpoint.describe(folder / str(steps[-1])), taught_by)
    restored = run_checkpoints.restore_newest(folder, _arrays(fresh), warn=print, check=_check_progress)
    if restored is None:
        return init_state(start_params(config, hypernet), optimizer, average=average), Progress(teacher=fingerprint)
    _check_same_run(config, restored.description, taught_by)
    progress = dataclasses.replace(Progress.from_json(restored.description.progress), teacher=fingerprint)
    arrays = restored.arrays
    opt_state = jax.tree.unflatten(jax.tree.structure(fresh.opt_state), arrays["opt_state"])
    weights = (arrays["trained"], arrays["params"]) if average else (arrays["params"], None)
    print(f"{config.workdir}: going on after step {progress.step}, {progress.minutes:.1f} minutes")
    return TrainState(np.asarray(progress.step, np.int32), weights[0], opt_state, weights[1]), progress


def _check_progress(description: Description) -> None:
    """Raises CheckpointError for a checkpoint that a run cannot go on from."""
    progress = Progress.from_json(description.progress)
    if progress.step != description.step:
        raise CheckpointError(f"a checkpoint of step {description.step} says that it is of step {progress.step}")


def _check_same_run(config: TrainConfig, description: Description, taught_by: Teacher | None) -> None:
    different = differences(config, description.train_config)
    before = description.progress.get("teacher")  # runs of older versions do not say
    if taught_by is not None and before not in (None, taught_by.fingerprint):
        different.append(f"the network in teacher={config.teacher!r} was another one")
    if not isinstance(description.progress.get("position"), int):
        different.append("its networks came in the order of an older version")
    version = description.progress.get("generator_version")
    if version != GENERATOR_VERSION:
        different.append(f"generator_version was {version}, is {GENERATOR_VERSION}")
    if different:
        raise ConfigError(
            f"{config.workdir} has a run of another configuration: {'; '.join(different)}. Give the same one to go on, "
            "or another config.workdir for another run"
        )


def _arrays(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds: "params" are those to predict with, beside an average also those "trained"."""
    arrays = {"params": state.result, "opt_state": jax.tree.leaves(state.opt_state)}
    return arrays if state.average is None else {**arrays, "trained": state.params}


def start_params(config: TrainConfig, hypernet: HypernetConfig) -> Any:
    """The weights that training starts from.

    Raises:
      CheckpointError: nothing that `ghn_jax.load` reads at `config.start`.
      ConfigError: it holds another hypernetwork than `hypernet`, in more than the number of classes.
    """
    if config.start == "random":
        return GHN.init(hypernet, config.seed).params
    ghn = loading.load(config.start)
    free = {name: getattr(hypernet, name) for name in ("num_classes", "embedder_dtype")}
    if dataclasses.replace(ghn.config, **free) != hypernet:
        raise ConfigError(f"config.start={config.start!r} is {ghn.config}, expected {hypernet}")
    if (before := ghn.config.num_classes) != hypernet.num_classes:
        print(f"{config.start} predicts {before} classes: layers for {hypernet.num_classes} are new, others kept")
    return with_classes(ghn, hypernet.num_classes, config.seed).params


class _Upcoming(NamedTuple):
    """A meta-batch whose step is being compiled, and the position that follows it."""

    prepared: Prepared
    after: int


@dataclasses.dataclass
class _Run:
    """The moving parts of a run."""

    config: TrainConfig
    task: Task
    hypernet: HypernetConfig
    workdir: Path
    state: TrainState
    progress: Progress
    taught_by: Teacher | None
    accuracy: float | None = None
    smooth_loss: float | None = None
    smooth_accuracy: float | None = None

    def outcome(self) -> Outcome:
        made = self.progress
        return Outcome(
            self.workdir, made.step, self.config.steps, made.minutes, made.skipped, self.accuracy, None
        )  # fmt: skip

    def steps(
        self,
        engine: Engine,
        dataset: Dataset,
        validation: Callable[[Any], dict[str, Any]] | None,
        checkpoints: Checkpoints,
        watch: Watch,
        stop: Stop,
    ) -> None:
        """Updates until the steps or the time are used up, or somebody asks to stop; the last state is saved."""
        config = self.config
        began = time.monotonic() - 60 * self.progress.minutes
        taken: list[float] = []
        measured_at = {round(share * config.steps) for share in config.val_at}
        saved = validated = time.monotonic()
        with (
            contextlib.closing(prefetch(self._upcoming(engine))) as upcoming,
            contextlib.closing(prefetch(self._batches(dataset, engine), BATCHES_AHEAD)) as batches,
        ):
            while self.progress.step < config.steps:
                asked = time.monotonic()
                with self._saved_at_failures(checkpoints):  # of preparing, compiling or running
                    (prepared, after), batch = next(upcoming), next(batches)
                    waited = time.monotonic() - asked
                    if not taken:
                        watch.bar.write(
                            f"the first step needs {engine.programs.started:,} programs, compiled or kept on disk; "
                            "others come as new operations are met"
                        )
                    state, metrics = engine.step(self.state, prepared, batch.images, batch.labels)
                self.state = state
                metrics = parallel.first_copy(metrics)  # waits for the step
                now = time.monotonic()
                self._note(metrics, (now - began) / 60, after)
                # Of writing to a terminal or a log; where several processes save, all of them have to.
                alone = jax.process_count() == 1
                with self._saved_at_failures(checkpoints) if alone else contextlib.nullcontext():
                    self._report(watch, engine, prepared, metrics, now - asked, waited)
                    taken.append(now - asked)
                    if len(taken) == STEPS_OF_PACE:
                        watch.bar.write(pace(taken, config.steps - self.progress.step, config.max_minutes))

                over = config.max_minutes is not None and self.progress.minutes > config.max_minutes
                stopped, over, to_save, to_validate = parallel.decide(
                    bool(stop),
                    over,
                    now - saved > 60 * config.checkpoint_minutes,
                    now - validated > 60 * config.val_minutes or self.progress.step in measured_at,
                )
                if over:
                    watch.bar.write(f"config.max_minutes={config.max_minutes:g} are over")
                if over or stopped:
                    break
                if to_validate and config.val_networks and self.progress.step < config.steps:
                    self._save(checkpoints, self._validate(validation, watch, began))
                    saved = validated = time.monotonic()
                elif to_save:
                    self._save(checkpoints, None)
                    saved = time.monotonic()
        accuracy = self._validate(validation, watch, began) if config.val_networks and not stop else None
        self._save(checkpoints, accuracy)

    @contextlib.contextmanager
    def _saved_at_failures(self, checkpoints: Checkpoints) -> Iterator[None]:
        """Saves the last completed step, which the state is of, before an error ends the run."""
        try:
            yield
        except NonFiniteLossError:  # nothing was learned since the last checkpoint that is worth going on from
            raise
        except Exception as error:
            try:
                self._save(checkpoints, None)
            except CheckpointError as second:
                error.add_note(str(second))
            raise

    def _upcoming(self, engine: Engine) -> Iterator[_Upcoming]:
        left = self.config.steps - self.progress.step  # nothing is compiled for steps that are never made
        made = self.progress
        drawn = meta_batches(self.config, self.task, made.position, first_step=made.step)
        for targets, after in itertools.islice(drawn, left):
            yield _Upcoming(engine.prepare(self.state, targets), after)

    def _batches(self, dataset: Dataset, engine: Engine) -> Iterator[Batch]:
        """The images of every step to come."""
        batch_of = teacher.batches(self.config, dataset, engine.programs, self.taught_by)
        yield from map(batch_of, range(self.progress.step, self.config.steps))

    def _note(self, metrics: Metrics, minutes: float, after: int) -> None:
        """Moves on by a step."""
        made, applied = self.progress, bool(metrics.applied)
        self.progress = dataclasses.replace(
            made,
            step=made.step + 1,
            minutes=minutes,
            position=after,
            skipped=made.skipped + (not applied),
            skipped_in_a_row=0 if applied else made.skipped_in_a_row + 1,
        )

    def _report(
        self, watch: Watch, engine: Engine, prepared: Prepared, metrics: Metrics, seconds: float, waited: float
    ) -> None:
        """Writes a line of metrics; ends the run after too many skipped steps."""
        losses = metrics.losses.reshape(-1)
        loss, accuracy = float(np.mean(losses)), float(np.mean(metrics.correct)) / self.config.batch_size
        numbers = [target.number for target in prepared.targets]
        made = self.progress
        fields = {
            "step": made.step,
            "minutes": round(made.minutes, 4),
            "seconds": round(seconds, 4),
            "waiting": round(waited, 4),
            "networks_per_second": round(len(numbers) / seconds, 4),
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": float(metrics.grad_norm),
            "applied": bool(metrics.applied),
            "skipped": made.skipped,
            "programs": engine.programs.distinct,
            "balance": round(prepared.balance, 4),
            "memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "architectures": numbers,
            "nodes": sum(target.graph.num_nodes for target in prepared.targets),
            "losses": [float(f"{loss:.5g}") for loss in losses],
        }
        watch.report(METRICS, fields)
        watch.bar.update()
        if not metrics.applied:
            watch.bar.write(f"step {made.step} skipped: losses {losses.tolist()} of train architectures {numbers}")
            if made.skipped_in_a_row >= MAX_SKIPPED:
                raise NonFiniteLossError(
                    f"step {made.step}: losses or gradients were not finite for {MAX_SKIPPED} steps in a row; the last "
                    f"train architectures were {numbers}. Checkpoints in {self.workdir / checkpoint.FOLDER} are good: "
                    "start another run from them, with a lower learning rate"
                )
            return
        self.smooth_loss = _smoothed(self.smooth_loss, loss)
        self.smooth_accuracy = _smoothed(self.smooth_accuracy, accuracy)
        watch.bar.set_postfix(loss=f"{self.smooth_loss:.3f}", accuracy=f"{self.smooth_accuracy:.1%}", refresh=False)

    def _validate(self, validation: Callable[[Any], dict[str, Any]] | None, watch: Watch, began: float) -> float:
        """Mean accuracy on the held-out architectures, measured by the first process."""
        accuracy = 0.0
        if validation is not None:
            result = validation(_host_copy(self.state.result))
            accuracy = result["accuracy"]
            minutes = round((time.monotonic() - began) / 60, 4)
            watch.report(VALIDATION, {"step": self.progress.step, "minutes": minutes, **result})
            watch.bar.write(
                f"step {self.progress.step}: top-1 {accuracy:.1%} on {len(result['accuracies'])} unseen val networks, "
                f"best {result['best']:.1%}"
            )
        self.accuracy = parallel.from_first(accuracy)
        return self.accuracy

    def _save(self, checkpoints: Checkpoints, accuracy: float | None) -> None:
        """Begins to write the checkpoint of the last step."""
        checkpoints.save(
            Description(
                self.hypernet,
                self.task,
                self.progress.step,
                dataclasses.asdict(self.config),
                self.progress.to_json(),
                accuracy,
            ),
            _arrays(_host_copy(self.state)),
        )


def pace(seconds: Sequence[float], left: int, max_minutes: float | None) -> str:
    """How long the rest of a run will take, going by its first steps; those that waited for compilers are longer.

    Args:
      seconds: of each of these steps.
      left: steps that are left.
      max_minutes: of the run, None for no limit.
    """
    low, high = min(seconds) * left / 60, sum(seconds) / len(seconds) * left / 60
    made = f"{len(seconds)} steps in {sum(seconds):.0f} s: the other {left:,} take {low:.0f} to {high:.0f} minutes"
    if max_minutes is None or low < max_minutes:
        return made
    return f"{made}, more than config.max_minutes={max_minutes:g}"


def _smoothed(before: float | None, value: float) -> float:
    """A running mean over about 20 values."""
    return value if before is None else 0.95 * before + 0.05 * value


def _host_copy(tree: Any) -> Any:
    """Arrays that stay as they are while the next step reuses the memory of those on the device."""
    return jax.tree.map(np.array, parallel.first_copy(tree))
