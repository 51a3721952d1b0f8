"""Trains a graph hypernetwork.

    ghn-jax train --config=configs/cifar.py --config.workdir=runs/cifar

Every field of a configuration can be changed on the command line: --config.steps=1000 --config.seed=1
--config.data_dir=~/data --config.meta_batch=4.  `ghn_jax.training.config.TrainConfig` explains them.

Killed or interrupted, the same command goes on from the last checkpoint in the workdir.

All devices of the machine are used.  With several machines, start the same command on each:

    ghn-jax train --config=configs/cifar.py --coordinator=HOST:1234 --num_processes=2 --process=0
"""

import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from ghn_jax.execution.compiling import CompilationError
from ghn_jax.execution.operations import ExecutionError
from ghn_jax.ghn.config import ConfigError
from ghn_jax.images import ImageError
from ghn_jax.networks.architecture import ArchitectureError
from ghn_jax.runtime import keep_freed_memory, use_compilation_cache
from ghn_jax.training import parallel
from ghn_jax.training.config import from_fields
from ghn_jax.training.loop import NonFiniteLossError, Outcome, train
from ghn_jax.weights.checkpoint import CheckpointError

_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, if several processes train together.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 1, "How many there are, one a machine.")
_PROCESS = flags.DEFINE_integer("process", 0, "Which of them this is, from 0 on.")
_CONFIG = config_flags.DEFINE_config_file("config", help_string="Path of a configuration, such as configs/cifar.py.")

_EXPECTED = (
    (ArchitectureError, CheckpointError, ConfigError, ImageError)
    + (CompilationError, ExecutionError, NonFiniteLossError)
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax train ARGUMENTS`, by default with those of this process."""
    words = sys.argv[1:] if arguments is None else arguments
    if set(words) & {"-h", "--help"}:
        print(__doc__)
        return
    app.run(_main, argv=["ghn-jax train", *words])


def _main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"unknown arguments {' '.join(argv[1:])}")
    if _CONFIG.value is None:
        sys.exit("which run? Give --config=configs/cifar.py (or imagenet.py, digits.py, fashion_mnist.py, smoke.py)")
    logging.set_verbosity(logging.WARNING)  # Orbax reports every step of a save
    keep_freed_memory()
    use_compilation_cache()
    parallel.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS.value)
    try:
        config = from_fields(dict(_CONFIG.value))
        print(f"training {config.ghn} on {config.dataset}, {jax.device_count()} {jax.default_backend()} device(s)")
        outcome = train(config)
    except _EXPECTED as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error}\nThe last checkpoint is good: the same command goes on from it")
    if parallel.is_first():
        print(summary(outcome))
    sys.exit(0 if outcome.signal is None else 128 + outcome.signal)


def summary(outcome: Outcome) -> str:
    """How the run ended and what to do next."""
    made = f"{outcome.step} of {outcome.steps} steps in {outcome.minutes:.1f} minutes"
    lines = [f"\n{made}; {outcome.skipped} skipped as not finite"]
    if outcome.accuracy is not None:
        lines.append(f"top-1 {outcome.accuracy:.1%} on unseen val networks")
    lines.append(f"in {outcome.workdir}: checkpoints/, metrics.jsonl, training.png")
    if outcome.step < outcome.steps:
        lines.append("to go on: the same command" + (", with a larger --config.max_minutes" if outcome.over else ""))
    lines.append(f"next: python experiments/evaluate.py --checkpoint={outcome.workdir} --split=val --predefined")
    return "\n".join(lines)
