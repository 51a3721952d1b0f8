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
import runpy
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ghn_jax
from ghn_jax.checks import files
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
    config, progress = known["train_config"], checkpoint.describe(run).progress
    known["minutes"] = round(progress["minutes"], 1)
    known["generator_version"] = progress["generator_version"]
    known["command"] = command(config_file, config)
    return _with_start(known)


def _with_start(known: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run, with the hypernetwork that it started from, and where that came from."""
    config = known["train_config"]
    known["architectures_seen"] = known["steps"] * config["meta_batch"]
    if config["start"] != "random":
        before = ghn_jax.provenance(config["start"])
        if "train_config" in before and "architectures_seen" not in before:  # a run, not one that has been packed
            before = _with_start(before)
        for name in ("steps", "architectures_seen"):
            known[name] += before.get(name, 0)
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
    if not isinstance(measured, dict) or not {"what", "accuracy"} <= set(measured):
        raise CommandError(f"--accuracy={text}: {path} is no file of experiments/evaluate_splits.py")
    if title not in measured["accuracy"]:
        raise CommandError(f"--accuracy={text}: {path} has {', '.join(measured['accuracy'])}")
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
