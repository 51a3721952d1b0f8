"""Predicts the parameters of architectures that a hypernetwork has never seen, and reports their accuracy.

    ghn-jax evaluate --arch=resnet50 --num_images=256
    ghn-jax evaluate --checkpoint=runs/digits --split=val --num=20 --predefined
    ghn-jax evaluate --checkpoint=runs/digits --arch=test/7
    ghn-jax evaluate --checkpoint=runs/digits --arch=mine.json

Beside them stands He initialization.  The table is printed; `evaluation_LABEL.json` and a picture hold it too, in the
folder of the run, or in `evaluations/CHECKPOINT`.  The same measurement replaces them, in the folder of the run also
with weights trained further; another one only if asked.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ghn_jax.checks import files
from ghn_jax.checks.fields import Real
from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, CommandError, Setting, add_hypernetwork, add_images, load_setting, make_parser, of
from ghn_jax.deepnets import lookup
from ghn_jax.deepnets.lookup import FoundArchitecture
from ghn_jax.deepnets.sampler import PREDEFINED, SPLITS, split_size
from ghn_jax.evaluation import accuracy, json_lines
from ghn_jax.evaluation.results import Result, plot, table, write_json
from ghn_jax.networks.network import make_network
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.weights import checkpoint


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "evaluate")
    add_hypernetwork(parser)
    parser.add_argument("--split", default="val", choices=sorted(SPLITS), help="split of DeepNets-1M")
    parser.add_argument("--num", type=COUNT, help="number of architectures, from index 0 on (50)")
    parser.add_argument("--arch", help=f"one architecture: {lookup.HELP}")
    parser.add_argument("--predefined", action="store_true", help="ResNet-50 and ViT too, in a table of their own")
    parser.add_argument("--image_split", default="test", choices=("val", "test"), help="images to classify")
    parser.add_argument("--num_images", type=COUNT, help="only the first so many of them (all of ImageNet: 7 GiB)")
    parser.add_argument(
        "--mode",
        default="auto",
        choices=("auto", "operations", "whole"),
        help="operation by operation, or a compiled program for every network (auto: for a single one)",
    )
    parser.add_argument(
        "--noise",
        type=of(Real(0, 1)),
        default=0.0,
        help="deviation of noise on images scaled to 0..1; the paper has 0.08",
    )
    add_images(parser)
    parser.add_argument("--out", help="folder for results (the run's, or one in evaluations/)")
    parser.add_argument("--overwrite", action="store_true", help="replace results of another measurement")
    args = parser.parse_args(arguments)
    if args.arch is not None and args.num is not None:
        parser.error(f"--num={args.num} is for a split, --arch={args.arch} is one architecture: expected one of them")
    args.num = 50 if args.num is None else args.num
    if args.num > (most := split_size(args.split)):
        parser.error(f"--num={args.num}: expected at most {most:,}, the networks of {args.split}")
    return args


def architectures(args: argparse.Namespace, large_images: bool) -> dict[str, list[FoundArchitecture]]:
    """Groups of architectures to be evaluated together, by what their results are called."""
    chosen = [args.arch] if args.arch else [str(index) for index in range(args.num)]
    found = [lookup.find_architecture(text, args.split, large_images) for text in chosen]
    groups = {found[0].name.replace("/", "_") if args.arch else args.split: found}
    return groups | ({"predefined": [lookup.find_architecture(name) for name in PREDEFINED]} if args.predefined else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax evaluate ARGUMENTS`."""
    args = parse_args(arguments)
    use_compilation_cache()
    setting = load_setting(args.checkpoint, args.dataset, args.data_dir)
    groups = architectures(args, setting.task.large_images)
    run = Path(args.checkpoint)
    own = run if (run / checkpoint.FOLDER).is_dir() else Path("evaluations", re.sub(r"[^\w.-]+", "_", run.stem))
    out = Path(args.out or own)
    files.refuse_unwritable(out / "evaluation")
    split = getattr(setting.dataset, args.image_split)
    about = {"dataset": setting.dataset.name, "image_split": args.image_split}
    about |= {"num_images": args.num_images or len(split.labels)}
    about |= {"noise": args.noise} if args.noise else {}
    about |= {json_lines.WEIGHTS: setting.ghn.fingerprint}
    if not args.overwrite:
        # In its own folder, a run that was trained further replaces what it had before.
        compared = {key: value for key, value in about.items() if out != run or key != json_lines.WEIGHTS}
        for label, group in groups.items():
            refuse_another(out / f"evaluation_{label}", compared, [one.name for one in group])
    about |= {"checkpoint": args.checkpoint, "trained": setting.provenance}
    for label, group in groups.items():
        write(out / f"evaluation_{label}", evaluate(setting, group, args), about, label)


def refuse_another(stem: Path, about: Mapping[str, Any], names: Sequence[str]) -> None:
    """Checks that results would only replace those of the same measurement.

    Raises:
      CommandError: there is something else.
    """
    path, drawn = Path(f"{stem}.json"), Path(f"{stem}.png")
    if not os.path.lexists(path):
        if os.path.lexists(drawn):
            raise CommandError(f"{drawn} exists; --overwrite replaces it, --out=FOLDER leaves it alone")
        return
    try:
        stored = files.parse_json(files.read_regular(path))
        same = [row["name"] for row in stored["architectures"]] == list(names)
        same = same and about.items() <= stored.items() and stored.get("noise") == about.get("noise")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        same = False
    if not same:
        raise CommandError(f"{path} has another measurement; --overwrite replaces it, --out=FOLDER leaves it alone")


def evaluate(setting: Setting, group: Sequence[FoundArchitecture], args: argparse.Namespace) -> list[Result]:
    """The accuracies of a group of architectures."""
    networks = [(one.name, make_network(one.number, one.architecture, setting.task)) for one in group]
    split = getattr(setting.dataset, args.image_split)
    with tqdm(total=len(networks), unit="architecture", leave=False, desc="compiling for the first") as bar:

        def show(_: Result) -> None:
            bar.set_description(refresh=False)
            bar.update()

        return accuracy.evaluate(
            setting.ghn, networks, setting.dataset, split, args.num_images, show, args.mode, args.noise
        )


def write(stem: Path, results: Sequence[Result], about: Mapping[str, Any], label: str) -> None:
    """Prints results and writes them to two files."""
    measured = "Top-1 accuracy" if results[0].predicted_top5 is None else "Top-1 and top-5 accuracy"
    noisy = f", noise {about['noise']}" if "noise" in about else ""
    print(f"\n{measured} on {about['num_images']} {about['image_split']} images of {about['dataset']}{noisy}\n")
    print(table(results))
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(f"{stem}.json", results, about)  # a suffix would take the place of what follows a point in the label
    with replacing(f"{stem}.png") as temporary:
        plot(temporary, results, f"{about['dataset']}, {len(results)} unseen architectures, {label}")
    print(f"\nwritten: {stem}.json, {stem}.png")
