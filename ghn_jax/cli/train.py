"""Trains a graph hypernetwork.

    ghn-jax train --config=configs/cifar.py --config.workdir=runs/cifar

Every field of a configuration can be changed on the command line: --config.steps=1000 --config.seed=1
--config.data_dir=~/data --config.meta_batch=4.  `ghn_jax.training.config.TrainConfig` explains them.

Killed or interrupted, the same command goes on from the last checkpoint in the workdir.

All devices of the machine are used.  With several machines, start the same command on each:

    ghn-jax train --config=configs/cifar.py --coordinator=HOST:1234 --num_processes=2 --process=0
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from ml_collections import config_flags

import ghn_jax
from ghn_jax.checks import files
from ghn_jax.cli.common import COUNT, INDEX, CommandError, cut, make_parser
from ghn_jax.cli.interrupts import ends_at_once
from ghn_jax.runtime import keep_freed_memory, use_compilation_cache
from ghn_jax.training import parallel
from ghn_jax.training.config import config_dict, from_fields
from ghn_jax.training.loop import Outcome, train
from ghn_jax.weights import checkpoint

_MOST_BYTES = 1 << 24


def parse_args(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the command line, and those that are for the configuration."""
    parser = make_parser(__doc__ or "", "train")
    parser.add_argument("--config", metavar="FILE", help="a configuration, such as configs/cifar.py")
    parser.add_argument("--coordinator", help="host:port of process 0, if several processes train together")
    parser.add_argument("--num_processes", type=COUNT, default=1, help="how many there are, one a machine")
    parser.add_argument("--process", type=INDEX, default=0, help="which of them this is, from 0 on")
    args, rest = parser.parse_known_args(arguments)
    if args.coordinator is None and (args.num_processes, args.process) != (1, 0):
        parser.error(
            "--num_processes and --process: expected --coordinator=HOST:PORT too, without it one process trains"
        )
    if args.coordinator is not None and not re.fullmatch(
        r"[^\s:]+:[0-9]{1,5}|\[[^\s\]]+\]:[0-9]{1,5}", args.coordinator
    ):
        parser.error(f"--coordinator={cut(args.coordinator)}: expected HOST:PORT")
    if args.process >= args.num_processes:
        parser.error(f"--process={args.process}: expected 0 to {args.num_processes - 1}, less than --num_processes")
    return args, rest


def read_config(path: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of a run.

    Args:
      path: of a file with a function `get_config`.
      overrides: fields that the command line gives, such as "--config.steps=1000".

    Raises:
      CommandError: no such file, one that makes no configuration, or an option that is none.
      ConfigError: a field that there is not.
    """
    if path is None:
        raise CommandError(f"which run? Give --config={known()}")
    path = shipped(path)
    if os.path.lexists(path):
        try:
            files.open_regular(path, _MOST_BYTES).close()  # what is no file is not even begun to be read
        except OSError as error:
            raise CommandError(f"--config={path}: expected a configuration, such as {known()} ({error})") from None
    unset, rest = _unset(overrides)
    words = ["ghn-jax train", f"--config={path}", *rest]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    try:
        surplus = values(words)[1:]
        fields = dict(config.value) | dict.fromkeys(unset)
    except OSError:
        raise CommandError(f"--config={cut(path)}: there is no such file, expected {known()}") from None
    except (AttributeError, KeyError, TypeError) as error:
        named = {word.removeprefix("--config.").partition("=")[0] for word in overrides if word.startswith("--config.")}
        from_fields(dict.fromkeys(named - set(config_dict())))  # raises, naming one that there is not
        raise CommandError(f"--config={path}: {error}") from error
    except flags.Error as error:
        raise CommandError(str(error).strip().splitlines()[-1]) from error  # without the traceback of a file
    except Exception as error:  # the file of a user may raise anything
        what = f"{type(error).__name__}: {error}"
        raise CommandError(f"--config={path}: expected a configuration, such as {known()} ({what})") from error
    if surplus:
        raise CommandError(f"unknown arguments {' '.join(surplus)}")
    return fields


def _unset(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The fields that the command line sets to None, as `--config.fixed_width=None` does, and its other words.

    A flag has the type that the value in the file has, and that of a number knows no None.
    """
    given = [word.partition("=")[0] for word in dict.fromkeys(overrides) if word.startswith("--config.")]
    if repeated := sorted({name for name in given if given.count(name) > 1}):
        raise CommandError(f"{', '.join(repeated)}: given twice, expected one value")
    nones = [word for word in overrides if word.startswith("--config.") and word.endswith("=None")]
    rest = [word for word in overrides if word not in nones]
    return sorted({word.removeprefix("--config.").removesuffix("=None") for word in nones}), rest


def shipped(path: str) -> str:
    """The configuration at `path`; if there is none, the one of this name that comes with the package.

    An installed package has them in itself, a clone beside itself.
    """
    wanted = Path(path)
    if wanted.exists() or wanted.parent not in (Path("configs"), Path(".")):
        return path
    return next((str(folder / wanted.name) for folder in _folders() if (folder / wanted.name).is_file()), path)


def known() -> str:
    """The configurations that come with the package, for messages."""
    names = sorted({file.name for folder in _folders() for file in folder.glob("[a-z]*.py")} - {"cifar.py"})
    return f"configs/cifar.py (or {', '.join(names)})"


def _folders() -> tuple[Path, Path]:
    package = Path(ghn_jax.__file__).parent
    return package / "configs", package.parent / "configs"


def set_up_process() -> None:
    """What a process that trains wants of absl, of the allocator and of JAX."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # Orbax reports every step of a save
    keep_freed_memory()
    use_compilation_cache()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax train ARGUMENTS`; exits with 128 + the number of a signal that ended the run."""
    with ends_at_once():  # until there is something to save; then `training.signals` listens
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    args, overrides = parse_args(arguments)
    fields = read_config(args.config, overrides)
    set_up_process()
    parallel.connect(args.coordinator, args.num_processes, args.process)
    config = from_fields(fields)
    print(f"training {config.ghn} on {config.dataset}, {jax.device_count()} {jax.default_backend()} device(s)")
    try:
        outcome = train(config)
    except OSError as error:
        raise CommandError(f"{error}{_what_is_safe(config.workdir)}") from error
    if parallel.is_first():
        print(outcome_text(outcome))
    sys.exit(0 if outcome.signal is None else 128 + outcome.signal)


def _what_is_safe(workdir: str) -> str:
    """Lines on the space that is left and on the newest checkpoint, which is read for that, if a run has begun."""
    folder = Path(workdir) / checkpoint.FOLDER
    if not folder.is_dir():
        return ""
    step = checkpoint.newest_intact_step(folder)
    good = "There is no complete checkpoint" if step is None else f"The checkpoint of step {step} is good"
    free = shutil.disk_usage(folder).free / 2**20
    ahead = "goes on from it" if step else "begins"
    return f"\n{good}; {free:,.1f} MiB are free in {folder}. When that is mended, the same command {ahead}"


def outcome_text(outcome: Outcome) -> str:
    """How the run ended and what to do next."""
    made = f"{outcome.step} of {outcome.steps} steps in {outcome.minutes:.1f} minutes"
    lines = [f"\n{made}; {outcome.skipped} skipped as not finite"]
    if outcome.accuracy is not None:
        lines.append(f"top-1 {outcome.accuracy:.1%} on unseen val networks")
    lines.append(f"in {outcome.workdir}: checkpoints/, metrics.jsonl, training.png")
    if outcome.step < outcome.steps:
        lines.append("to go on: the same command" + (", with a larger --config.max_minutes" if outcome.over else ""))
    lines.append(f"next: ghn-jax evaluate --checkpoint={outcome.workdir} --split=val --predefined")
    return "\n".join(lines)
