"""Fits the forecast of what a prediction is worth to measured networks, and states its error on splits held out.

    python experiments/fit_forecast.py --features=forecast/features.jsonl --out=forecast \\
        --zero_shot ghn2_fashion_mnist:GHN-2:results/fashion_mnist_cpu/networks.jsonl \\
        --zero_shot ghn2_cifar10:GHN-2:results/cifar10_cpu/networks.jsonl \\
        --trained ghn2_fashion_mnist:results/sgd_fashion_mnist/networks.jsonl

--zero_shot is a hypernetwork, its title, and a file of `experiments/evaluate_splits.py`; --trained a hypernetwork and a
file of `experiments/train_networks.py`; --models one and a file of `benchmarks/forecast_models.py`, whose models judge
and are not fitted to.  Features of networks are added to --features, so the same command goes on after an interruption.
`forecast.json` is what the package reads (`ghn_jax/prediction/data`), `forecast.md` the error.
"""

import ghn_jax.cli.script

# isort: split
import argparse
import collections
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import ghn_jax
from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import COUNT, make_parser, refuse_existing
from ghn_jax.evaluation import json_lines
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import evaluate_splits, fit_forecast, train_networks
from ghn_jax.studies.fit_forecast import Example

CHANCE = 0.1


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--zero_shot", action="append", required=True, metavar="WHAT:TITLE:FILE")
    parser.add_argument("--trained", action="append", required=True, metavar="WHAT:FILE")
    parser.add_argument("--models", action="append", default=[], metavar="WHAT:FILE")
    parser.add_argument("--most", type=COUNT, default=100, help="networks of every split (%(default)s)")
    parser.add_argument("--features", type=Path, required=True, help="a file of features, which grows")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    args = parser.parse_args(arguments)
    for option, parts in (("zero_shot", 3), ("trained", 2), ("models", 2)):
        for text in getattr(args, option):
            if len(text.split(":")) != parts:
                parser.error(f"--{option}={text}: expected {parts} parts with colons between them")
    known = {text.split(":")[0] for text in args.zero_shot}
    for text in args.models:
        if text.split(":")[0] not in known:
            parser.error(
                f"--models={text}: expected one of the hypernetworks of --zero_shot, {', '.join(sorted(known))}"
            )
    return args


def examples_of(args: argparse.Namespace) -> list[Example]:
    """Those of all hypernetworks."""
    accuracies, references = collections.defaultdict(dict), {}
    for what, title, path in (text.split(":") for text in args.zero_shot):
        rows = [row for row in evaluate_splits.rows(path) if title in row["accuracy"]]
        references[what] = np.mean([row["accuracy"][title] for row in rows if row["split"] == "test"])
        chosen = {(row["split"], row["number"]): row["accuracy"][title] for row in rows if row["number"] < args.most}
        accuracies[what] |= chosen
    helps = collections.defaultdict(dict)
    for what, path in (text.split(":") for text in args.trained):
        rows = list(json_lines.read(path, **train_networks.RESULT))
        helps[what] |= fit_forecast.helped(rows)
        for row in rows:
            if row.get("checkpoint") == what:
                accuracies[what].setdefault((row["split"], row["number"]), row["accuracy"]["0"])
    examples = []
    for what, found in accuracies.items():
        networks = dict.fromkeys([*found, *helps.get(what, {})])
        features = fit_forecast.features_of_networks(networks, {what: ghn_jax.load(what)}, args.features)
        mine = {(split, number): features[split, number, what] for split, number in networks}
        examples += fit_forecast.examples_of(found, helps.get(what, {}), mine, references[what], CHANCE)
    for what, path in (text.split(":") for text in args.models):
        examples += fit_forecast.examples_of_models(Path(path), what, ghn_jax.load(what), references[what], CHANCE)
    return examples


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    for ending in ("md", "json"):
        refuse_existing(args.out / f"forecast.{ending}", args.overwrite)
    use_compilation_cache()
    args.out.mkdir(parents=True, exist_ok=True)
    examples = examples_of(args)
    accuracy = fit_forecast.leave_one_group_out(examples, fit_forecast.fit_trees)
    text = fit_forecast.table(examples, accuracy)
    fitted = [example for example in examples if example.group != fit_forecast.MODELS]
    with replacing(args.out / "forecast.md") as temporary:
        temporary.write_text(text)
    ghns = [ghn_jax.load(what) for what in dict.fromkeys(text.split(":")[0] for text in args.zero_shot)]
    with replacing(args.out / "forecast.json") as temporary:
        temporary.write_text(json.dumps(fit_forecast.stored(fit_forecast.fit(fitted), ghns)) + "\n")
    print(f"{len(examples)} examples, each judged by a fit to the other splits\n\n{text}\nwritten: {args.out}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
