"""Packs a trained hypernetwork into one file with where it comes from, like those that come with the package.

    ghn-jax pack runs/fashion_mnist --config=configs/fashion_mnist.py --out=ghn2_fashion_mnist.npz \\
        --licence=MIT --accuracy=splits/splits.json:GHN-2

`ghn_jax.load` reads the file, and `ghn_jax.push_to_hub` makes a model card of what it says.  `--accuracy` is a file of
experiments/evaluate_splits.py and a title in it.  A run that started from another hypernetwork counts its steps too, if
what the run's `config.start` says is still there.  The command of the run is stored as its configuration file and what
differs from it.
"""

import argparse
import json
import os
import runpy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ghn_jax
from ghn_jax.checks import files
from ghn_jax.checks.fields import Real, Rule, Text, Whole, taken
from ghn_jax.cli.common import CommandError, make_parser, refuse_existing
from ghn_jax.training.config import MAY_CHANGE
from ghn_jax.weights import checkpoint, pretrained

_MOST_BYTES = 1 << 24
"""Of a file of accuracies."""


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "pack")
    parser.add_argument("run", type=Path, help="workdir of a run, or a checkpoint in it")
    parser.add_argument("--config", type=Path, required=True, help="configuration file that the run was started with")
    parser.add_argument("--out", type=Path, required=True, help="file to write, ending in .npz")
    parser.add_argument("--accuracy", metavar="FILE:TITLE", help="measured accuracies")
    parser.add_argument("--licence", help="of the weights")
    parser.add_argument("--hardware", help="that it was trained on")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    parser.add_argument("--exact", action="store_true", help="float32 instead of half precision")
    return parser.parse_args(arguments)


def command(config_file: Path, trained: dict[str, Any]) -> str:
    """The command that repeats a run: its configuration file, and the fields that it had otherwise."""
    try:
        fields = json.loads(runpy.run_path(str(config_file))["get_config"]().to_json())
    except (OSError, KeyError, SyntaxError) as error:
        raise CommandError(f"--config={config_file}: expected a configuration file of a run ({error!r})") from error
    words = ["python experiments/train.py", f"--config={config_file.as_posix()}"]
    for name in sorted(trained.keys() - MAY_CHANGE):
        if trained[name] != fields.get(name):
            value = tuple(trained[name]) if isinstance(trained[name], list) else trained[name]
            words.append(f"--config.{name}={shlex.quote(str(value))}")
    return " ".join(words)


def run_provenance(run: Path, config_file: Path) -> dict[str, Any]:
    """Where the newest checkpoint of a run comes from, what it started from included."""
    known = ghn_jax.provenance(run)
    progress = checkpoint.describe(run).progress
    known["minutes"] = round(_stored(progress, "minutes", Real(0, 1e12), run), 1)
    known["generator_version"] = _stored(progress, "generator_version", _NUMBER, run)
    known["command"] = command(config_file, known["train_config"])
    return _with_start(known, run)


_NUMBER = Whole(0, 1 << 62)
_MOST_STARTS = 100


def _stored(values: Mapping[str, Any], name: str, rule: Rule, what: str | os.PathLike[str]) -> Any:
    """A value that a run or a file says of itself.  Raises CommandError for one that cannot be."""
    return taken(values.get(name), rule, CommandError, f"{os.fspath(what)}: {name}")


def _with_start(known: dict[str, Any], what: str | os.PathLike[str], before_it: int = 0) -> dict[str, Any]:
    """What is known of a run, with the hypernetwork that it started from, and where that came from.

    Raises:
      CommandError: what is stored of them cannot be, or they started from each other.
    """
    config = known["train_config"]
    known["steps"] = _stored(known, "steps", _NUMBER, what)
    known["architectures_seen"] = known["steps"] * _stored(config, "meta_batch", _NUMBER, what)
    start = _stored(config, "start", Text(), what)
    if before_it == _MOST_STARTS:
        raise CommandError(f"{os.fspath(what)} started from {start!r} after {before_it} others: expected fewer")
    if start != "random":
        before = ghn_jax.provenance(start)
        # A run, not one that has been packed.
        if isinstance(before.get("train_config"), dict) and "architectures_seen" not in before:
            before = _with_start(before, start, before_it + 1)
        for name in ("steps", "architectures_seen"):
            known[name] += _stored({name: 0, **before}, name, _NUMBER, start)
        known["started_from"] = before
    return known


def stored_accuracy(text: str) -> dict[str, Any]:
    """The figures of one title in a file of experiments/evaluate_splits.py."""
    path, _, title = text.rpartition(":")
    try:
        measured = files.parse_json(files.read_regular(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise CommandError(
            f"--accuracy={text}: expected FILE:TITLE, a file of experiments/evaluate_splits.py ({error})"
        ) from error
    by_title = measured.get("accuracy") if isinstance(measured, dict) else None
    if not isinstance(by_title, dict) or not isinstance(measured.get("what"), str):
        raise CommandError(f"--accuracy={text}: {path} is no file of experiments/evaluate_splits.py")
    if not isinstance(by_title.get(title), dict):
        raise CommandError(f"--accuracy={text}: {path} has {', '.join(by_title)[:400]}")
    return {"what": measured["what"], **measured["accuracy"][title]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax pack ARGUMENTS`."""
    args = parse_args(arguments)
    refuse_existing(args.out, args.overwrite)
    known = run_provenance(args.run, args.config)
    known |= {name: getattr(args, name) for name in ("licence", "hardware") if getattr(args, name)}
    if args.accuracy:
        known["accuracy"] = stored_accuracy(args.accuracy)
    pretrained.write(args.out, ghn_jax.load(args.run), known, np.float32 if args.exact else np.float16)
    print(f"written: {args.out}, {args.out.stat().st_size / 2**20:.1f} MiB, {known['steps']:,} steps")
