"""Compares hypernetworks on the test splits of DeepNets-1M: mean, standard error and best top-1 accuracy.

    python experiments/evaluate_splits.py --dataset=fashion_mnist GHN-2=ghn2_fashion_mnist GHN-1=runs/ghn1 --out=splits

Every hypernetwork is a title and whatever `ghn_jax.load` takes.  All predict the same networks: test (500), wide, deep,
dense and bnfree (100 each), ResNet-50 and ViT; beside them stands He initialisation.  Each network classifies its own
stretch of the test images, so that a mean is over all of them (ResNet-50 and ViT at least 1,024); accuracies use batch
statistics of 64 images, as in the paper.  Results are added to `networks.jsonl` one by one: the same command goes on
after an interruption.
"""

import argparse
import collections
import json
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
from tqdm import tqdm

from ghn_jax import images
from ghn_jax.deepnets.sampler import PREDEFINED, sample_architecture
from ghn_jax.evaluation.accuracy import BATCH_SIZE, ByOperation, accuracy
from ghn_jax.evaluation.results import summary
from ghn_jax.images import ImageError, Split
from ghn_jax.networks.architecture import AnyArchitecture, named
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.network import make_network
from ghn_jax.prediction.predict import predict_params
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.training.watch import read
from ghn_jax.weights.checkpoint import CheckpointError
from ghn_jax.weights.loading import load_titled

NUM = {"test": 500, "wide": 100, "deep": 100, "dense": 100, "bnfree": 100}
HE = "He init"

PREDEFINED_IMAGES = 1024
"""Images at least for ResNet-50 and ViT, each of which is a column of its own."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypernetworks", nargs="+", metavar="TITLE=WHAT", help="a title and what ghn_jax.load takes")
    parser.add_argument("--dataset", required=True, help="images to classify")
    parser.add_argument("--data_dir", help="where its files are")
    parser.add_argument("--num_images", type=int, default=128, help="images for every network")
    parser.add_argument("--splits", nargs="+", default=[*NUM, "predefined"], choices=[*NUM, "predefined"])
    parser.add_argument("--num", type=int, help="at most so many networks of every split")
    parser.add_argument("--out", required=True, type=Path, help="folder for results")
    args = parser.parse_args()
    if args.num_images < BATCH_SIZE or args.num_images % BATCH_SIZE:
        parser.error(f"--num_images={args.num_images}: expected a multiple of {BATCH_SIZE}")
    if any(entry.startswith(f"{HE}=") for entry in args.hypernetworks):
        parser.error(f"{HE!r} is the title of He initialisation: expected another")
    return args


def networks_of(split: str, most: int | None, large_images: bool) -> list[tuple[int, AnyArchitecture]]:
    """Numbers and architectures of a split."""
    if split == "predefined":
        return [(number, named(name)) for number, name in enumerate(PREDEFINED)]
    count = NUM[split] if most is None else min(most, NUM[split])
    return [(number, sample_architecture(split, number, large_images)) for number in range(count)]


def images_of(split: str, num_images: int) -> int:
    """How many images a network of `split` classifies."""
    return max(num_images, PREDEFINED_IMAGES) if split == "predefined" else num_images


def own_images(split: Split, number: int, count: int) -> Split:
    """The stretch of images of network `number`; past the end it goes on at the beginning."""
    chosen = (number * count + np.arange(count)) % len(split.labels)
    return Split(split.images[chosen], split.labels[chosen])


def measure(ghns: dict, dataset, args: argparse.Namespace, path: Path) -> None:
    """Adds what `path` does not have yet."""
    done = collections.defaultdict(set)
    if path.exists():
        for row in read(path):
            if row["images"] != images_of(row["split"], args.num_images):
                sys.exit(f"{path} has accuracies on {row['images']} images, other than --num_images={args.num_images}")
            done[row["split"], row["number"]].update(row["accuracy"])
    with open(path, "a") as out:
        for split in args.splits:
            missing = [
                (number, architecture)
                for number, architecture in networks_of(split, args.num, dataset.task.large_images)
                if not done[split, number] >= {*ghns, HE}
            ]
            if not missing:
                continue
            targets = [make_network(number, architecture, dataset.task) for number, architecture in missing]
            run_network = ByOperation(BATCH_SIZE)
            num_images = images_of(split, args.num_images)
            for target in tqdm(targets, desc=split, unit="network"):
                own = own_images(dataset.test, target.number, num_images)
                accuracies = {}
                for title in [*ghns, HE]:
                    if title in done[split, target.number]:
                        continue
                    if title == HE:
                        params = he_init(target.program, target.number)
                    else:
                        params = predict_params(target.graph, ghns[title])
                    accuracies[title] = accuracy(run_network(target.program, params), own, dataset)
                row = {"split": split, "number": target.number, "parameters": target.program.num_params}
                row["images"] = num_images
                out.write(json.dumps({**row, "accuracy": accuracies}) + "\n")
                out.flush()


def collect(path: Path, titles: list[str]) -> dict[str, dict[str, list[float]]]:
    """Accuracies of every split and hypernetwork; a column of its own for each predefined network."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in read(path):
        column = PREDEFINED[row["number"]] if row["split"] == "predefined" else row["split"]
        for title, value in row["accuracy"].items():
            if title in titles:
                found.setdefault(column, {}).setdefault(title, []).append(value)
    return found


def figures(found: dict[str, dict[str, list[float]]], titles: list[str], args: argparse.Namespace) -> dict:
    """Mean, standard error, best and number of networks, by title and split; experiments/pack.py stores them."""

    def of(values: list[float]) -> dict[str, float]:
        s = summary(values)
        if len(values) == 1:
            return {"mean": s["mean"]}
        return {name: s[name] for name in ("mean", "standard_error", "best")} | {"networks": len(values)}

    what = (
        f"top-1 accuracy of predicted networks never trained on, {args.num_images} test images of {args.dataset} for "
        f"each (ResNet-50 and ViT at least {PREDEFINED_IMAGES:,}), with the statistics of batches of {BATCH_SIZE}"
    )
    accuracies = {
        title: {column: of(values[title]) for column, values in found.items() if title in values} for title in titles
    }
    return {"what": what, "accuracy": accuracies}


def markdown(found: dict[str, dict[str, list[float]]], titles: list[str]) -> str:
    """The table: mean, standard error and best, in percent."""

    def cell(values: list[float] | None) -> str:
        if not values:
            return ""
        s = summary(values)
        if len(values) == 1:
            return f"{100 * s['mean']:.1f}"
        return f"{100 * s['mean']:.1f} +- {100 * s['standard_error']:.1f}, {100 * s['best']:.1f}"

    counts = {column: len(next(iter(values.values()))) for column, values in found.items()}
    header = ["", *(f"{column} ({count})" if count > 1 else column for column, count in counts.items())]
    lines = [header, ["---"] * len(header)]
    lines += [[title, *(cell(values.get(title)) for values in found.values())] for title in titles]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(path: Path, found: dict[str, dict[str, list[float]]], titles: list[str], dataset: str) -> None:
    """Bars of the means with standard errors, and the best as points."""
    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(titles)
    for place, title in enumerate(titles):
        summaries = [summary(values[title]) for values in found.values() if title in values]
        positions = [number + place * width for number, values in enumerate(found.values()) if title in values]
        means, errors = ([100 * np.nan_to_num(s[key]) for s in summaries] for key in ("mean", "standard_error"))
        color = "0.6" if title == HE else f"C{place}"
        axes.bar(positions, means, width, yerr=errors, color=color, label=title)
        axes.plot(positions, [100 * s["best"] for s in summaries], "k.", markersize=4)
    axes.set_xticks(np.arange(len(found)) + 0.4 - width / 2, list(found))
    axes.set(ylabel="top-1 accuracy, %", ylim=(0, 100), title=f"{dataset}: mean and best of networks never trained on")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_args()
    use_compilation_cache()
    try:
        dataset = images.load(args.dataset, args.data_dir)
        ghns = load_titled(args.hypernetworks, dataset.num_classes)
    except (CheckpointError, ImageError) as error:
        sys.exit(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    measure(ghns, dataset, args, args.out / "networks.jsonl")
    titles = [*ghns, HE]
    found = collect(args.out / "networks.jsonl", titles)
    text = markdown(found, titles)
    (args.out / "splits.md").write_text(text)
    (args.out / "splits.json").write_text(json.dumps(figures(found, titles, args), indent=1) + "\n")
    plot(args.out / "splits.png", found, titles, args.dataset)
    print(f"\nTop-1 accuracy in %, mean +- standard error, best; {args.num_images} test images a network\n\n{text}")
    print(f"written: {args.out}/networks.jsonl, splits.md, splits.json, splits.png")


if __name__ == "__main__":
    main()
