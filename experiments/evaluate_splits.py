"""Compares hypernetworks on the test splits of DeepNets-1M: mean, standard error and best top-1 accuracy.

    python experiments/evaluate_splits.py --dataset=fashion_mnist GHN-2=ghn2_fashion_mnist GHN-1=runs/ghn1 --out=splits

Every hypernetwork is a title and whatever `ghn_jax.load` takes.  All predict the same networks: test (500), wide, deep,
dense and bnfree (100 each), ResNet-50 and ViT; beside them stands He initialization.  Each network classifies its own
stretch of the test images, so that a mean is over all of them (ResNet-50 and ViT at least 1,024).  Results are added to
`networks.jsonl` one by one: the same command goes on after an interruption.
"""

import ghn_jax.cli.script

# isort: split
import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ghn_jax.checks.fields import Real
from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, add_several, load_several, make_parser, of, refuse_foreign
from ghn_jax.evaluation.accuracy import BATCH_SIZE
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import evaluate_splits
from ghn_jax.studies.evaluate_splits import EVALUATED_SPLITS, HE


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    add_several(parser)
    parser.add_argument("--num_images", type=COUNT, default=128, help="images for every network")
    parser.add_argument("--splits", nargs="+", default=EVALUATED_SPLITS, choices=EVALUATED_SPLITS)
    parser.add_argument("--num", type=COUNT, help="at most so many networks of every split")
    parser.add_argument("--noise", type=of(Real(0, 1)), default=0.0, help="deviation of noise on images scaled to 0..1")
    parser.add_argument("--out", required=True, type=Path, help="folder for results")
    args = parser.parse_args(arguments)
    if args.num_images % BATCH_SIZE:
        parser.error(f"--num_images={args.num_images}: expected a multiple of {BATCH_SIZE}")
    if any(entry.startswith(f"{HE}=") for entry in args.hypernetworks):
        parser.error(f"{HE!r} is the title of He initialization: expected another")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    refuse_foreign(args.out, "networks.jsonl", "splits.md", "splits.json", "splits.png")
    use_compilation_cache()
    ghns, dataset = load_several(args.hypernetworks, args.dataset, args.data_dir)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "networks.jsonl"
    evaluate_splits.measure(ghns, dataset, path, args.num_images, args.splits, args.num, args.noise)
    titles = [*ghns, HE]
    found = evaluate_splits.collect(path, titles)
    text = evaluate_splits.table(found, titles)
    figures = evaluate_splits.figures(found, titles, args.num_images, args.dataset)
    with replacing(args.out / "splits.md") as temporary:
        temporary.write_text(text)
    with replacing(args.out / "splits.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
    with replacing(args.out / "splits.png") as temporary:
        evaluate_splits.plot(temporary, found, titles, args.dataset)
    noisy = f" with noise {args.noise}" if args.noise else ""
    about = f"{args.num_images} test images{noisy} a network"
    print(f"\nTop-1 accuracy in %, mean +- standard error, best; {about}\n\n{text}")
    print(f"written: {args.out}/networks.jsonl, splits.md, splits.json, splits.png")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
