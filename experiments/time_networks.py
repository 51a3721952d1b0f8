"""Measures how long networks of DeepNets-1M take for an image, in turns, on one core.

    python experiments/time_networks.py sgd/networks.jsonl --out=sgd/times.json

The networks are those in a file of `experiments/train_networks.py`.  The process keeps to one core and counts the time
that it has it, so that other work on the machine makes little difference.
"""

import ghn_jax.cli.script

# isort: split
import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, make_parser, refuse_existing
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation import json_lines
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.network import make_network
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import inference_time
from ghn_jax.studies.train_networks import RESULT, StudyError


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("networks", type=Path, help="networks.jsonl")
    parser.add_argument("--batch_size", type=COUNT, default=64, help="images at once (%(default)s)")
    parser.add_argument("--rounds", type=COUNT, default=5, help="turns of every network, of which the least counts")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    refuse_existing(args.out, args.overwrite)
    use_compilation_cache()
    named = {
        f"{row['split']}/{row['number']}": (row["split"], row["number"])
        for row in json_lines.read(args.networks, **RESULT)
    }
    networks = {
        name: make_network(number, sample_architecture(split, number), CIFAR10)
        for name, (split, number) in named.items()
    }
    if not networks:
        raise StudyError(f"{args.networks} has no networks: expected rows of train_networks")
    seconds = inference_time.measure(networks, args.batch_size, args.rounds)
    with replacing(args.out) as temporary:
        temporary.write_text(json.dumps(seconds, indent=1) + "\n")
    print(
        f"{len(seconds)} networks, {1e3 * min(seconds.values()):.2f} to {1e3 * max(seconds.values()):.2f} ms an image"
    )


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX starts its threads
    ghn_jax.cli.script.run(main)
