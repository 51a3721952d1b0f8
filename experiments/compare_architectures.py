"""Compares architectures by their embeddings: the nearest of some, and a map of splits in two dimensions.

    python experiments/compare_architectures.py --splits test deep dense wide bnfree --num=90 \\
        --nearest resnet50 vit test/0 --out=architectures

Embeddings are added to `embeddings.jsonl` one by one: the same command goes on after an interruption.  `map.png` and
`nearest.md` are written; --properties takes a file of `experiments/train_networks.py`, and says how much more networks
differ in accuracy the further apart they are.
"""

import ghn_jax.cli.script

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, add_hypernetwork, load_hypernetwork, make_parser, refuse_foreign
from ghn_jax.deepnets.sampler import SPLITS, split_size
from ghn_jax.evaluation import json_lines
from ghn_jax.networks.architecture import NAMED_ARCHITECTURES
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import compare_architectures, properties
from ghn_jax.studies.train_networks import MEASURED_FIELDS


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    add_hypernetwork(parser)
    parser.add_argument("--splits", nargs="+", default=["test"], choices=sorted(SPLITS))
    parser.add_argument("--num", type=COUNT, default=100, help="networks of every split (%(default)s)")
    parser.add_argument("--nearest", nargs="+", default=["resnet50"], help="networks whose nearest are listed")
    parser.add_argument("--count", type=COUNT, default=5, help="how many are listed")
    parser.add_argument("--properties", type=Path, help="networks.jsonl of networks that were trained")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    args = parser.parse_args(arguments)
    if args.num > (most := min(map(split_size, args.splits))):
        parser.error(f"--num={args.num}: expected at most {most}, the networks of a split")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    refuse_foreign(args.out, "embeddings.jsonl", "nearest.md", "map.png")
    use_compilation_cache()
    ghn, task = load_hypernetwork(args.checkpoint)
    names = [f"{split}/{number}" for split in args.splits for number in range(args.num)]
    names += [name for name in (*NAMED_ARCHITECTURES, *args.nearest) if name not in names]
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "embeddings.jsonl"
    found = compare_architectures.embeddings_of(dict.fromkeys(names), ghn, path, args.checkpoint, task)
    lines = ["| network | nearest, with distance |", "| --- | --- |"]
    for name in args.nearest:
        listed = compare_architectures.nearest(found, name, args.count)
        lines.append(f"| {name} | {', '.join(f'{other} ({distance:.1f})' for other, distance in listed)} |")
    text = "\n".join(lines) + "\n"
    if args.properties:
        rows = list(json_lines.read(args.properties, **MEASURED_FIELDS))
        for what, values in properties.collect(rows, {}, reach=0.7).properties.items():
            mine = compare_architectures.embeddings_of(values, ghn, path, args.checkpoint, task)
            rank = compare_architectures.similarity(mine, values)
            text += f"\nDistance and difference in {what.replace('_', ' ')}, {len(mine)} networks: {rank:.2f}\n"
    with replacing(args.out / "nearest.md") as temporary:
        temporary.write_text(text)
    with replacing(args.out / "map.png") as temporary:
        compare_architectures.plot(temporary, found, f"{len(found)} networks, embedded by {args.checkpoint}")
    print(f"{text}\nwritten: {args.out}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
