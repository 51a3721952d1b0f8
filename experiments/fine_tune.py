"""Trains networks from predicted parameters, beside the same training from He initialization.

    python experiments/fine_tune.py --arch=resnet50 --epochs 1 5
    python experiments/fine_tune.py --split=test --num=20 --starts he --epochs 5 --out=results/sgd
    python experiments/fine_tune.py --arch=7 --split=test --epochs 1 5 --train_images=6400

SGD with momentum and a cosine schedule (`ghn_jax/evaluation/fine_tuning.py`).  Results are added to `fine_tuning.jsonl`
network by network: the same command goes on after an interruption.
"""

import ghn_jax.cli.script

# isort: split
import argparse
from pathlib import Path

from ghn_jax.cli.common import COUNT, add_hypernetwork, add_images, load_setting, make_parser
from ghn_jax.deepnets import lookup
from ghn_jax.deepnets.sampler import SPLITS
from ghn_jax.evaluation.fine_tuning import TRAIN_BATCH_SIZE
from ghn_jax.networks.network import make_network
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import fine_tune
from ghn_jax.studies.fine_tune import FINE_TUNE_STARTS


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    add_hypernetwork(parser)
    parser.add_argument("--arch", help=f"one architecture: {lookup.HELP}")
    parser.add_argument("--split", default="test", choices=sorted(SPLITS), help="split of DeepNets-1M (%(default)s)")
    parser.add_argument("--num", type=COUNT, default=20, help="number of architectures without --arch")
    parser.add_argument(
        "--epochs", type=COUNT, nargs="+", default=[1, 5], help="accuracy is measured after these, and at 0"
    )
    parser.add_argument("--starts", nargs="+", default=FINE_TUNE_STARTS, choices=FINE_TUNE_STARTS)
    parser.add_argument("--train_images", type=COUNT, help="only the first so many training images make an epoch")
    parser.add_argument("--test_images", type=COUNT, help="accuracy on the first so many test images")
    add_images(parser)
    parser.add_argument("--out", type=Path, default=Path("fine_tuning"), help="folder for results (%(default)s)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    use_compilation_cache()
    ghn, task, dataset, _ = load_setting(args.checkpoint, args.dataset, args.data_dir)
    chosen = [args.arch] if args.arch else map(str, range(args.num))
    found = [lookup.find_architecture(text, args.split, task.large_images) for text in chosen]
    networks = {one.name: make_network(one.number, one.architecture, task) for one in found}
    dataset = fine_tune.with_train_images(dataset, args.train_images)
    epochs = sorted({0, *args.epochs})
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "fine_tuning.jsonl"
    rows = fine_tune.measure(
        ghn, networks, dataset, path, epochs,
        starts=args.starts, test_images=args.test_images, checkpoint=args.checkpoint,
    )  # fmt: skip
    steps = fine_tune.epoch_steps(dataset)
    print(
        f"\nTop-1 accuracy on test images of {dataset.name}; an epoch has {steps} steps of {TRAIN_BATCH_SIZE} images\n"
    )
    print(fine_tune.table(rows, epochs))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
