"""Trains networks on few images of each class or on all, from predicted and from other parameters.

    python experiments/few_shot.py --arch resnet50 vit test/7 --per_class 100 --rates 0.01 0.025 0.05 --out=few_shot
    python experiments/few_shot.py --arch test/15 --per_class 10 50 100 --starts predicted he orthogonal body \\
        --epochs=10 --test_images=1024 --out=few_shot
    python experiments/few_shot.py --arch test/56 --per_class all --seeds 0 --epochs=5 --out=whole_set

As published: the first images of each class (other seeds draw), batches of 96, 50 epochs, SGD with momentum 0.9 and a
cosine schedule, weight decay 1e-3; of several rates the best on 200 validation images.  Results are added to
`few_shot.jsonl` one by one: the same command goes on after an interruption.
"""

import ghn_jax.cli.script

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, INDEX, add_hypernetwork, add_images, load_setting, make_parser, of, refuse_foreign
from ghn_jax.deepnets import lookup
from ghn_jax.evaluation.fine_tuning import NETWORK_OPTIMIZERS, RATE
from ghn_jax.networks.network import make_network
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import few_shot
from ghn_jax.studies.few_shot import FEW_SHOT_STARTS


def _count_or_all(text: str) -> int | None:
    return None if text == "all" else COUNT(text)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    add_hypernetwork(parser)
    parser.add_argument("--arch", nargs="+", required=True, help=lookup.HELP)
    parser.add_argument("--per_class", type=_count_or_all, nargs="+", default=[10, 50, 100],
                        help="training images a class, or all")  # fmt: skip
    parser.add_argument("--starts", nargs="+", default=["predicted", "he"], choices=FEW_SHOT_STARTS)
    parser.add_argument("--seeds", type=INDEX, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=COUNT, default=50)
    parser.add_argument("--optimizer", default="sgd", choices=NETWORK_OPTIMIZERS)
    parser.add_argument("--rates", type=of(RATE), nargs="+", default=[0.025], help="learning rates to choose from")
    parser.add_argument("--weight_decay", type=of(RATE), default=1e-3)
    parser.add_argument("--test_images", type=COUNT, help="accuracy on the first so many test images")
    add_images(parser)
    parser.add_argument("--out", type=Path, default=Path("few_shot"), help="folder for results (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    refuse_foreign(args.out, "few_shot.jsonl", "few_shot.md", "few_shot.png")
    use_compilation_cache()
    ghn, task, dataset, _ = load_setting(args.checkpoint, args.dataset, args.data_dir)
    found = [lookup.find_architecture(text, "test", task.large_images) for text in args.arch]
    networks = {one.name: make_network(one.number, one.architecture, task) for one in found}
    args.out.mkdir(parents=True, exist_ok=True)
    total = len(networks) * len(args.per_class) * len(args.seeds) * len(args.starts)
    with tqdm(total=total, unit="training") as bar:
        rows = few_shot.measure(
            ghn, networks, dataset, args.out / "few_shot.jsonl", per_class=args.per_class, epochs=args.epochs,
            seeds=args.seeds, starts=args.starts, optimizer=args.optimizer, rates=args.rates,
            weight_decay=args.weight_decay, test_images=args.test_images, checkpoint=args.checkpoint,
            finished=bar.update,
        )  # fmt: skip
    text = few_shot.table(rows)
    with replacing(args.out / "few_shot.md") as temporary:
        temporary.write_text(text)
    with replacing(args.out / "few_shot.png") as temporary:
        few_shot.plot(temporary, rows, f"{', '.join(networks)} on {dataset.name}, {args.optimizer}")
    print(f"\nTest accuracy in %, mean +- standard error over {len(args.seeds)} seeds\n\n{text}\nwritten: {args.out}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
