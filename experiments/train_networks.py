"""Trains many networks of DeepNets-1M by SGD: the ground truth for predicting properties of networks.

    python experiments/train_networks.py --dataset=cifar10 --splits val test --num=150 --out=sgd
    python experiments/train_networks.py --dataset=fashion_mnist --num=60 --max_multiply_adds=20000000 --steps=100 \\
        --measure_at 0 25 100 --batch_size=32 --test_images=512 --checkpoint=ghn2_fashion_mnist --out=sgd

By default as in the paper: SGD with momentum 0.9, a rate that falls from 0.025 to 0 along a cosine, batches of 96,
weight decay 3e-4, clipping to 5, 50 epochs.  With --checkpoint every network is also trained from the parameters that
this hypernetwork predicts, with the same batches.  A pool of networks takes every step together; rows are added to
`networks.jsonl` a pool at a time, and the same command goes on after an interruption.
"""

import ghn_jax.cli.script

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ghn_jax import images
from ghn_jax.cli.common import COUNT, INDEX, load_hypernetwork, make_parser, of
from ghn_jax.deepnets.sampler import SPLITS
from ghn_jax.evaluation.fine_tuning import NETWORK_OPTIMIZERS, RATE, Protocol
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import train_networks
from ghn_jax.studies.train_networks import Measurement

EPOCHS = (1, 5, 10, 20, 30, 40, 50)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--dataset", required=True, help="images to classify")
    parser.add_argument("--data_dir", help="where its files are")
    parser.add_argument("--splits", nargs="+", default=["val", "test"], choices=sorted(SPLITS))
    parser.add_argument("--num", type=COUNT, default=150, help="networks of every split (%(default)s)")
    parser.add_argument("--image_size", type=COUNT, help="images are scaled down to this")
    parser.add_argument("--max_multiply_adds", type=COUNT, help="only networks of at most so many an image")
    parser.add_argument("--checkpoint", help="also train from what this hypernetwork predicts")
    parser.add_argument("--steps", type=COUNT, help="of the schedule; 50 epochs without")
    parser.add_argument("--measure_at", type=INDEX, nargs="+", help=f"steps; after {EPOCHS} epochs without")
    parser.add_argument("--batch_size", type=COUNT, default=96)
    parser.add_argument("--optimizer", default="sgd", choices=NETWORK_OPTIMIZERS)
    parser.add_argument("--learning_rate", type=of(RATE), default=0.025)
    parser.add_argument("--weight_decay", type=of(RATE), default=3e-4)
    parser.add_argument("--train_images", type=COUNT, help="only the first so many training images make an epoch")
    parser.add_argument("--test_images", type=COUNT, help="accuracy on the first so many test images")
    parser.add_argument("--pool", type=COUNT, default=4, help="networks that are trained together (%(default)s)")
    parser.add_argument("--workers", type=COUNT, default=1, help="of which so many take their step at the same time")
    parser.add_argument("--out", type=Path, default=Path("sgd"), help="folder for results (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    use_compilation_cache()
    dataset = images.load(args.dataset, args.data_dir)
    if args.image_size:
        dataset = train_networks.scaled_down(dataset, args.image_size)
    ghn = load_hypernetwork(args.checkpoint)[0] if args.checkpoint else None
    epoch = min(args.train_images or len(dataset.train.labels), len(dataset.train.labels)) // args.batch_size
    steps = args.steps or EPOCHS[-1] * epoch
    measure_at = args.measure_at or [0, *(n * epoch for n in EPOCHS if n * epoch <= steps)]
    protocol = Protocol(steps, args.batch_size, args.optimizer, args.learning_rate, args.weight_decay)
    plan = Measurement(protocol, tuple(measure_at), args.train_images, args.test_images)
    chosen = train_networks.first_networks(args.splits, args.num, dataset, args.max_multiply_adds)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "networks.jsonl"
    with tqdm(total=len(chosen) * (2 if ghn else 1), unit="training") as bar:
        rows = train_networks.train(
            chosen, dataset, plan, path, ghn=ghn, checkpoint=args.checkpoint or "",
            pool=args.pool, workers=args.workers, finished=bar.update,
        )  # fmt: skip
    print(f"{len(rows)} trainings in {path}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
