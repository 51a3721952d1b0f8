"""Searches a split of DeepNets-1M for the network of the best predicted accuracy, and trains it beside random ones.

    python experiments/search.py sgd/networks.jsonl --dataset=cifar10 --num=1000 --best=3 --random=10 --out=search

    python experiments/search.py sgd/networks.jsonl --dataset=cifar10 --num=1000 --protocol=darts --out=search

The regression is fitted to the networks of a file of `experiments/train_networks.py`; give the options of that command
again, so that the chosen networks are trained in the same way.  Or train them as DARTS does: 600 epochs, cutout (16 of
32 pixels), paths of cells dropped (up to 0.2), an auxiliary head (0.4).
"""

import ghn_jax.cli.script

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from ghn_jax import images
from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, add_hypernetwork, load_hypernetwork, make_parser, refuse_foreign
from ghn_jax.evaluation import json_lines
from ghn_jax.evaluation.fine_tuning import Protocol, Regularization
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import properties, search, train_networks
from ghn_jax.studies.train_networks import FROM_HE, Measurement, NetworkId

EPOCHS = {"sgd": 50, "darts": 600}
"""Of each protocol."""


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("networks", type=Path, help="networks.jsonl")
    add_hypernetwork(parser)
    parser.add_argument("--dataset", required=True, help="images to classify")
    parser.add_argument("--data_dir", help="where its files are")
    parser.add_argument("--image_size", type=COUNT, help="images are scaled down to this")
    parser.add_argument("--split", default="search", help="split that is searched (%(default)s)")
    parser.add_argument("--num", type=COUNT, default=1000, help="its first so many networks (%(default)s)")
    parser.add_argument("--max_multiply_adds", type=COUNT, help="only networks of at most so many an image")
    parser.add_argument("--best", type=COUNT, default=3, help="networks of the best predicted accuracy to train")
    parser.add_argument("--random", type=COUNT, default=5, help="networks drawn at random to train")
    parser.add_argument("--protocol", default="sgd", choices=EPOCHS, help="how they are trained (%(default)s)")
    parser.add_argument("--steps", type=COUNT, help=f"of the schedule; without, epochs: {EPOCHS}")
    parser.add_argument("--batch_size", type=COUNT, default=96)
    parser.add_argument("--test_images", type=COUNT, help="accuracy on the first so many test images")
    parser.add_argument("--pool", type=COUNT, default=4, help="networks that are trained together (%(default)s)")
    parser.add_argument("--workers", type=COUNT, default=1, help="of which so many take their step at the same time")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    args = parser.parse_args(arguments)
    if max(args.best, args.random) > args.num:
        parser.error(f"--best={args.best} --random={args.random}: expected at most --num={args.num}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    refuse_foreign(args.out, "networks.jsonl", "search.md")
    use_compilation_cache()
    ghn, _ = load_hypernetwork(args.checkpoint)
    dataset = images.load(args.dataset, args.data_dir)
    dataset = train_networks.scaled_down(dataset, args.image_size) if args.image_size else dataset
    rows = list(json_lines.read(args.networks, **train_networks.MEASURED_FIELDS))
    measured = properties.collect(rows, {}, reach=1.0).properties["accuracy"]
    fitted = list(dict.fromkeys(NetworkId(row["split"], row["number"]) for row in rows if row["start"] == FROM_HE))
    entries = train_networks.first_networks([args.split], args.num, dataset, args.max_multiply_adds)
    candidates = search.look_at(entries, ghn, dataset)
    of_measured = search.look_at(fitted, ghn, dataset)
    chosen = search.choose(candidates, measured, of_measured, best=args.best, random=args.random)
    steps = args.steps or EPOCHS[args.protocol] * images.steps_per_epoch(dataset, args.batch_size)
    darts = Regularization(cutout=dataset.image_size // 2) if args.protocol == "darts" else None
    protocol = Protocol(steps, args.batch_size, regularization=darts)
    plan = Measurement(protocol, (steps,), test_images=args.test_images)
    args.out.mkdir(parents=True, exist_ok=True)
    trained = train_networks.train(
        list(dict.fromkeys(entry for group in chosen.values() for entry in group)),
        dataset, plan, args.out / "networks.jsonl", pool=args.pool, workers=args.workers,
    )  # fmt: skip
    text = search.table(chosen, trained)
    with replacing(args.out / "search.md") as temporary:
        temporary.write_text(text)
    print(f"The best of {args.num} networks of {args.split}, fitted to {len(measured)} networks\n\n{text}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
