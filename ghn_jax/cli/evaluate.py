"""Predicts the parameters of architectures that a hypernetwork has never seen, and reports their accuracy.

ghn-jax evaluate --arch=resnet50 --num_images=256
ghn-jax evaluate --checkpoint=runs/digits --split=val --num=20 --predefined
ghn-jax evaluate --checkpoint=runs/digits --split=test --arch=7
ghn-jax evaluate --checkpoint=runs/digits --arch=mine.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ghn_jax.cli.common import add_hypernetwork, add_images, load_setting, make_parser
from ghn_jax.deepnets import lookup
from ghn_jax.deepnets.sampler import PREDEFINED, SPLITS, sample_architecture
from ghn_jax.evaluation import accuracy
from ghn_jax.evaluation.results import Result, plot, table, write_json
from ghn_jax.networks.architecture import named
from ghn_jax.networks.network import make_network
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.weights import checkpoint


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "evaluate")
    add_hypernetwork(parser)
    parser.add_argument("--split", default="val", choices=sorted(SPLITS), help="split of DeepNets-1M")
    parser.add_argument("--num", type=int, default=50, help="number of architectures, from index 0 on")
    parser.add_argument("--arch", help=f"one architecture: {lookup.HELP}")
    parser.add_argument("--predefined", action="store_true", help="ResNet-50 and ViT too, in a table of their own")
    parser.add_argument("--image_split", default="test", choices=("val", "test"), help="images to classify")
    parser.add_argument("--num_images", type=int, help="only the first so many of them (all of ImageNet: 7 GiB)")
    parser.add_argument(
        "--mode",
        default="auto",
        choices=("auto", "operations", "whole"),
        help="operation by operation, or a compiled program for every network (auto: for a single one)",
    )
    add_images(parser)
    parser.add_argument("--out", help="folder for results (the run's, or evaluations/)")
    args = parser.parse_args(arguments)
    if args.num < 1 or (args.num_images is not None and args.num_images < 1):
        parser.error("--num and --num_images: expected at least 1")
    return args


def architectures(args: argparse.Namespace, large_images: bool):
    """Pairs of a name and an architecture: those asked for, and the predefined ones."""
    if args.arch is None:
        chosen = [(f"{args.split}/{i}", i, sample_architecture(args.split, i, large_images)) for i in range(args.num)]
    else:
        chosen = [lookup.find_architecture(args.arch, args.split, large_images)]
    return chosen, [(name, 0, named(name)) for name in PREDEFINED] if args.predefined else []


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    use_compilation_cache()
    ghn, task, dataset, trained = load_setting(args.checkpoint, args.dataset, args.data_dir)
    chosen, predefined = architectures(args, task.large_images)
    run = Path(args.checkpoint)
    out = Path(args.out or (run if (run / checkpoint.FOLDER).is_dir() else "evaluations"))
    out.mkdir(parents=True, exist_ok=True)
    split = getattr(dataset, args.image_split)
    about = {
        "dataset": dataset.name,
        "image_split": args.image_split,
        "num_images": args.num_images or len(split.labels),
    }
    about |= {"checkpoint": args.checkpoint, "trained": trained}
    chosen_label = args.split if args.arch is None else chosen[0][0].replace("/", "_")
    for label, group in ((chosen_label, chosen), ("predefined", predefined)):
        if not group:
            continue
        targets = [(name, make_network(number, architecture, task)) for name, number, architecture in group]
        with tqdm(total=len(targets), unit="architecture", leave=False) as bar:

            def show(_: Result, bar: tqdm = bar) -> None:
                bar.update()

            results = accuracy.evaluate(ghn, targets, dataset, split, args.num_images, show, args.mode)
        measured = "Top-1 accuracy" if results[0].predicted_top5 is None else "Top-1 and top-5 accuracy"
        print(f"\n{measured} on {about['num_images']} {args.image_split} images of {dataset.name}\n")
        print(table(results))
        stem = out / f"evaluation_{label}"
        write_json(stem.with_suffix(".json"), results, about)
        plot(stem.with_suffix(".png"), results, f"{dataset.name}, {len(results)} unseen architectures, {label}")
        print(f"\nwritten: {stem}.json, {stem}.png")
