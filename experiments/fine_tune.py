"""Trains networks from predicted parameters, beside the same training from He initialisation.

    python experiments/fine_tune.py --arch=resnet50 --epochs 1 5
    python experiments/fine_tune.py --split=test --num=20 --starts he --epochs 5 --out=results/sgd
    python experiments/fine_tune.py --arch=7 --split=test --epochs 1 5 --train_images=6400

SGD with momentum and a cosine schedule (`ghn_jax/fine_tuning.py`).  Results are added to `fine_tuning.jsonl` network by
network: the same command goes on after an interruption.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ghn_jax
from ghn_jax import images
from ghn_jax.deepnets import lookup
from ghn_jax.deepnets.sampler import SPLITS
from ghn_jax.evaluation.fine_tuning import BATCH_SIZE, FineTuner
from ghn_jax.images import ImageError, Split
from ghn_jax.networks.architecture import ArchitectureError
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.training.watch import read
from ghn_jax.weights import loading, pretrained

STARTS = ("predicted", "he")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=pretrained.DEFAULT.stem, help="what ghn_jax.load takes (%(default)s)")
    parser.add_argument("--arch", help=f"one architecture: {lookup.HELP}")
    parser.add_argument("--split", default="test", choices=sorted(SPLITS), help="split of DeepNets-1M (%(default)s)")
    parser.add_argument("--num", type=int, default=20, help="number of architectures without --arch")
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[1, 5], help="accuracy is measured after these, and at 0"
    )
    parser.add_argument("--starts", nargs="+", default=STARTS, choices=STARTS)
    parser.add_argument("--train_images", type=int, help="only the first so many training images make an epoch")
    parser.add_argument("--test_images", type=int, help="accuracy on the first so many test images")
    parser.add_argument("--dataset", help="another data set than the hypernetwork was trained on")
    parser.add_argument("--data_dir", help="where its files are")
    parser.add_argument("--out", type=Path, default=Path("fine_tuning"), help="folder for results (%(default)s)")
    args = parser.parse_args()
    if min(args.epochs) < 1 or args.num < 1:
        parser.error("--epochs and --num: expected at least 1")
    return args


def main() -> None:
    args = parse_args()
    use_compilation_cache()
    try:
        ghn = ghn_jax.load(args.checkpoint)
        task = loading.task(args.checkpoint, ghn.config)
        name = args.dataset or ghn_jax.provenance(args.checkpoint).get("dataset")
        if name is None:
            sys.exit(f"{args.checkpoint} does not say what it was trained on: give --dataset")
        dataset = images.load(name, args.data_dir)
        chosen = [args.arch] if args.arch else map(str, range(args.num))
        found = [lookup.find_architecture(text, args.split, task.large_images) for text in chosen]
        if args.train_images is not None:
            train = Split(dataset.train.images[: args.train_images], dataset.train.labels[: args.train_images])
            dataset = dataclasses.replace(dataset, train=train)
        an_epoch = images.steps_per_epoch(dataset, BATCH_SIZE)
    except (ghn_jax.CheckpointError, ArchitectureError, ImageError) as error:
        sys.exit(str(error))
    if dataset.task != task:
        sys.exit(f"{name} is for {dataset.task}, the hypernetwork predicts networks for {task}")
    epochs = sorted({0, *args.epochs})
    steps = max(epochs) * an_epoch
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "fine_tuning.jsonl"
    about = {
        "dataset": name,
        "steps": steps,
        "train_images": len(dataset.train.labels),
        "test_images": args.test_images,
    }
    rows = [row for row in read(path) if row.items() >= about.items()] if path.exists() else []
    done = {(row["architecture"], row["start"]) for row in rows}
    targets = {one.name: make_network(one.number, one.architecture, task) for one in found}
    missing = [(title, start) for title in targets for start in args.starts if (title, start) not in done]
    tuner = FineTuner(steps)
    with open(path, "a") as out, tqdm(total=len(missing) * steps, unit="step") as bar:
        for title, start in missing:
            target = targets[title]
            params = (
                predict_params(target.graph, ghn) if start == "predicted" else he_init(target.program, target.number)
            )
            bar.set_description(f"{title}, {start}")

            def made_step(loss):
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()

            measured = tuner(
                target.program, params, dataset, [e * an_epoch for e in epochs], args.test_images, made_step=made_step
            )
            accuracies = {str(epoch): measured[epoch * an_epoch] for epoch in epochs}
            rows.append({**about, "architecture": title, "start": start, "accuracy": accuracies})
            out.write(json.dumps(rows[-1]) + "\n")
            out.flush()
    print(f"\nTop-1 accuracy on test images of {name}; an epoch has {an_epoch} steps of {BATCH_SIZE} images\n")
    print(table([row for row in rows if row["architecture"] in targets and row["start"] in args.starts], epochs))
    print(f"\nwritten: {path}")


def table(rows: list[dict], epochs: list[int]) -> str:
    """A line for every network and start, and the means over networks."""
    lines = [f"{'architecture':14}{'start':>10}" + "".join(f"{f'epoch {epoch}':>10}" for epoch in epochs)]
    for row in rows:
        cells = "".join(f"{100 * row['accuracy'][str(epoch)]:9.1f}%" for epoch in epochs)
        lines.append(f"{row['architecture']:14}{row['start']:>10}{cells}")
    for start in dict.fromkeys(row["start"] for row in rows):
        chosen = [row["accuracy"] for row in rows if row["start"] == start]
        if len(chosen) > 1:
            means = "".join(f"{100 * np.mean([a[str(epoch)] for a in chosen]):9.1f}%" for epoch in epochs)
            lines.append(f"{f'mean of {len(chosen)}':14}{start:>10}{means}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
