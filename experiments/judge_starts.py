"""Measures how often `ghn_jax.best_start` is right about networks that were trained from both starts.

    python experiments/judge_starts.py sgd/networks.jsonl --dataset=fashion_mnist

The file is one of `experiments/train_networks.py` with --checkpoint.
"""

import ghn_jax.cli.script

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from ghn_jax.checks.fields import Whole
from ghn_jax.cli.common import COUNT, add_hypernetwork, add_images, load_setting, make_parser, of
from ghn_jax.evaluation import json_lines
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import judge_starts
from ghn_jax.studies.train_networks import RESULT


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("networks", type=Path, help="networks.jsonl")
    add_hypernetwork(parser)
    add_images(parser)
    parser.add_argument("--batches", type=of(Whole(2, 1 << 20)), default=8, help="to try a start on (%(default)s)")
    parser.add_argument("--batch_size", type=COUNT, default=32)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    use_compilation_cache()
    ghn, _, dataset, _ = load_setting(args.checkpoint, args.dataset, args.data_dir)
    rows = json_lines.read(args.networks, **RESULT)
    found = judge_starts.judge(rows, dataset, ghn, args.batches, args.batch_size)
    print(f"After {args.batches} batches of {args.batch_size} images; accuracies in %\n\n{judge_starts.table(found)}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
