"""Predicts properties of networks from embeddings of their graphs, and compares predictors by Kendall's tau.

    python experiments/predict_properties.py sgd/networks.jsonl --times=sgd/times.json --out=properties \\
        GHN-2=ghn2_fashion_mnist GHN-1=ghn1_fashion_mnist MLP=mlp_fashion_mnist

The networks, and their properties, are those of `experiments/train_networks.py` and `experiments/time_networks.py`, or
the published ones of CIFAR-10:

    python experiments/predict_properties.py results_cifar10.json --deepnets=deepnets1m_eval.hdf5 --out=properties \\
        GHN-2=ghn2_cifar10.pt

A support vector regression is fitted to those of one split and judged on another one.  An untrained GHN-2 and the
counts of operations are always compared.  `properties.md`, `properties.json` and a scatter plot of the first
hypernetwork are written.
"""

import ghn_jax.cli.script

# isort: split
import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ghn_jax.checks.fields import Real
from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import make_parser, of, refuse_existing
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation import json_lines
from ghn_jax.ghn.config import ghn2
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.prediction.embed import embed
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.studies import evaluate_splits, properties, published_results
from ghn_jax.studies.properties import Networks
from ghn_jax.studies.train_networks import MEASURED_FIELDS
from ghn_jax.weights import loading


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "")
    parser.add_argument("networks", type=Path, help="networks.jsonl, or results_cifar10.json with --deepnets")
    parser.add_argument("hypernetworks", nargs="+", metavar="TITLE=WHAT", help="a title and what ghn_jax.load takes")
    parser.add_argument("--deepnets", type=Path, help="the published deepnets1m_eval.hdf5")
    parser.add_argument("--times", type=Path, help="seconds an image, by network")
    parser.add_argument("--zero_shot", metavar="TITLE:FILE", help="a hypernetwork in a file of evaluate_splits.py")
    parser.add_argument("--reach", type=of(Real(0, 1)), default=0.7, help="accuracy of convergence (%(default)s)")
    parser.add_argument("--fit", default="val", help="split that is fitted to (%(default)s)")
    parser.add_argument("--judge", default="test", help="split that tau is of (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    args = parser.parse_args(arguments)
    if args.zero_shot is not None and ":" not in args.zero_shot:
        parser.error(f"--zero_shot={args.zero_shot}: expected a title and a file with a colon between them")
    return args


def trained(args: argparse.Namespace) -> tuple[Networks, dict[str, Graph]]:
    """Networks that were trained here, and their graphs."""
    rows = [row for row in json_lines.read(args.networks, **MEASURED_FIELDS) if row["split"] in (args.fit, args.judge)]
    known = properties.collect(rows, properties.read_times(args.times) if args.times else {}, args.reach)
    if args.zero_shot:
        title, _, path = args.zero_shot.partition(":")
        found = evaluate_splits.rows(path)
        known.baselines["accuracy of predicted parameters"] = properties.zero_shot(found, title)
    names = {name: name.split("/") for name in known.properties["accuracy"]}
    return known, {name: build_graph(sample_architecture(split, int(i))) for name, (split, i) in names.items()}


def published(args: argparse.Namespace) -> tuple[Networks, dict[str, Graph]]:
    """The published networks, checked by index and number of parameters, and their graphs."""
    from ghn_jax.deepnets.files.reading import DeepNetsFile

    results = published_results.read(args.networks)
    with DeepNetsFile(args.deepnets) as file:
        splits = {split: file[split] for split in (args.fit, args.judge)}
        counts = {
            name: [split.entry(i)["num_params"]["cifar10"] for i in range(len(split))] for name, split in splits.items()
        }
        published_results.check_results(results, counts)
        graphs = {f"{name}/{i}": split.graph(i) for name, split in splits.items() for i in range(len(split))}
    return published_results.networks(results, list(splits)), graphs


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    for ending in ("md", "json", "png"):
        refuse_existing(args.out / f"properties.{ending}", args.overwrite)
    use_compilation_cache()
    ghns = loading.load_titled(args.hypernetworks, 10) | {"untrained GHN-2": GHN.init(ghn2(), seed=0)}
    known, graphs = published(args) if args.deepnets else trained(args)
    embeddings = {title: {name: embed(graph, ghn) for name, graph in graphs.items()} for title, ghn in ghns.items()}
    embeddings["counts of operations"] = {name: properties.operation_counts(graph) for name, graph in graphs.items()}
    found = properties.compare(embeddings, known, args.fit, args.judge)
    text = properties.table(found)
    args.out.mkdir(parents=True, exist_ok=True)
    taus = {what: {title: one.taus for title, one in titles.items()} for what, titles in found.items()}
    for ending, content in {"md": text, "json": json.dumps(taus, indent=1) + "\n"}.items():
        with replacing(args.out / f"properties.{ending}") as temporary:
            temporary.write_text(content)
    with replacing(args.out / "properties.png") as temporary:
        properties.plot(temporary, found, next(iter(ghns)))
    print(f"Kendall's tau on {args.judge}, mean +- deviation of five repetitions\n\n{text}\nwritten: {args.out}")


if __name__ == "__main__":
    ghn_jax.cli.script.run(main)
