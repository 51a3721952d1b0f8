"""Statistics of a split of DeepNets-1M: nodes, parameters, degrees, shortest paths and types of nodes.

    ghn-jax deepnets describe --split=train --num=2000
    ghn-jax deepnets describe --split=val --file=data/deepnets1m_eval.hdf5
    ghn-jax deepnets describe --num=2000 --compare=data/deepnets1m_eval.hdf5 --compare_split=val

Prints a table and draws the distributions.  Networks are drawn as they are needed, or read from a published file.  With
--compare, a two-sample test (Kolmogorov and Smirnov) for every figure says how well the two agree; all networks have 32
channels then.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import CommandError, make_parser, picture_path, refuse_existing
from ghn_jax.deepnets.files.reading import DeepNetsFile
from ghn_jax.deepnets.sampler import ALL_SPLITS, sample_architecture, split_size
from ghn_jax.deepnets.statistics import QUANTITIES, NetworkStatistics, network_statistics, table, type_shares
from ghn_jax.errors import extra
from ghn_jax.graphs.drawing import STYLES
from ghn_jax.graphs.graph import NODE_TYPES
from ghn_jax.networks.architecture import CIFAR10, Architecture
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program_graph import graph_of

DEFAULT_NUM = 1000
COLORS = ("tab:blue", "tab:orange")


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "deepnets describe")
    parser.add_argument("--split", default="train", choices=sorted(ALL_SPLITS))
    parser.add_argument("--num", type=int, help=f"architectures, from index 0 on (the split, at most {DEFAULT_NUM:,})")
    parser.add_argument("--file", type=Path, help="a published HDF5 file to read them from")
    parser.add_argument("--compare", type=Path, help="a published HDF5 file to compare with")
    parser.add_argument("--compare_split", help="the split of that file (the same)")
    parser.add_argument("--out", type=picture_path, help="picture of the distributions (deepnets_SPLIT.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    args = parser.parse_args(arguments)
    if args.compare_split is not None and args.compare is None:
        parser.error(f"--compare_split={args.compare_split}: expected --compare too, the file that it is of")
    if args.num is not None and args.num < 1:
        parser.error(f"--num={args.num}: expected at least 1")
    return args


def describe(
    size: int, num: int | None, architecture_at: Callable, label: str, channels: int | None
) -> list[NetworkStatistics]:
    """The figures of the first `num` networks (None: all, or `DEFAULT_NUM`), with these channels (None: their own)."""
    count = min(size, DEFAULT_NUM) if num is None else num
    if count > size:
        raise CommandError(f"--num={num}: {label} has {size} architectures")
    found = []
    for index in tqdm(range(count), desc=label, unit="net", leave=False):
        architecture = architecture_at(index)
        if channels is not None and isinstance(architecture, Architecture):
            architecture = dataclasses.replace(architecture, C=channels)
        program = lower(architecture, CIFAR10)
        found.append(network_statistics(architecture, graph_of(program), program.num_params_with_unused))
    return found


def from_file(path: Path, split: str, num: int | None, channels: int | None) -> list[NetworkStatistics]:
    """The figures of networks in a published file."""
    with DeepNetsFile(path) as file:
        stored = file[split]
        return describe(len(stored), num, stored.architecture, f"{path.name}, {split}", channels)


def compare(ours: list[NetworkStatistics], theirs: list[NetworkStatistics]) -> str:
    """Means of two samples side by side with the p-values of two-sample tests."""
    rows = [
        (name, [getattr(s, field) for s in ours], [getattr(s, field) for s in theirs])
        for field, name in QUANTITIES.items()
        if field != "channels"
    ]
    shares = type_shares(ours), type_shares(theirs)
    rows += [(f"share of {name}", shares[0][:, i], shares[1][:, i]) for i, name in enumerate(NODE_TYPES)]
    lines = [f"{'mean of a network':20}{'here':>10}{'compared':>10}{'p-value':>10}"]
    for name, here, there in rows:
        _, pvalue = stats.ks_2samp(here, there)
        lines.append(f"{name:20}{np.mean(here):10.4f}{np.mean(there):10.4f}{pvalue:10.3f}")
    return "\n".join(lines)


def draw(path: Path, groups: dict[str, list[NetworkStatistics]]) -> None:
    """Draws histograms of every figure and the shares of types of nodes."""
    with extra("plot"):
        import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(12, 6.4), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, field in zip(panels, ("nodes", "params", "cells", "degree", "path"), strict=False):
        _draw_histogram(axes, field, groups)
    _draw_types(panels[-1], groups)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)


def _draw_histogram(axes: Any, field: str, groups: dict[str, list[NetworkStatistics]]) -> None:
    """Draws how a figure is distributed, in percent of the networks."""
    samples = [np.array([getattr(s, field) for s in group], np.float64) for group in groups.values()]
    everything = np.concatenate(samples)
    if field == "params":
        bins = np.geomspace(everything.min(), everything.max() * 1.001, 31)
        axes.set_xscale("log")
    elif field == "cells":
        bins = np.arange(everything.min() - 0.5, everything.max() + 1)
    else:
        bins = np.linspace(everything.min(), everything.max() + 1e-9, 31)
    for label, sample, color in zip(groups, samples, COLORS, strict=False):
        weights = np.full(len(sample), 100 / len(sample))
        axes.hist(sample, bins, weights=weights, histtype="stepfilled", color=color, alpha=0.25)
        axes.hist(sample, bins, weights=weights, histtype="step", color=color, label=label)
    axes.set(xlabel=QUANTITIES[field], ylabel="networks, %")


def _draw_types(axes: Any, groups: dict[str, list[NetworkStatistics]]) -> None:
    """Draws the shares of types of nodes as bars."""
    names = list(STYLES)
    positions, width = np.arange(len(names)), 0.8 / len(groups)
    for number, (group, color) in enumerate(zip(groups.values(), COLORS, strict=False)):
        counts = np.sum([s.types for s in group], axis=0)
        shares = [100 * counts[NODE_TYPES.index(name)] / counts.sum() for name in names]
        axes.bar(positions + (number - (len(groups) - 1) / 2) * width, shares, width, color=color)
    axes.set_xticks(positions, names, rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="nodes, %", xlabel="type of node")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax deepnets describe ARGUMENTS`."""
    args = parse_args(arguments)
    out = args.out or Path(f"deepnets_{args.split}.png")
    refuse_existing(out, args.overwrite)
    channels = None if args.compare is None else 32
    if args.file is None:
        draw_one = functools.partial(sample_architecture, args.split)
        found = describe(split_size(args.split), args.num, draw_one, args.split, channels)
    else:
        found = from_file(args.file, args.split, args.num, channels)
    groups = {f"{args.split}, {len(found)} networks": found}
    text = f"{args.split}: {table(found)}"
    if args.compare is not None:
        split = args.compare_split or args.split
        other = from_file(args.compare, split, None, channels)
        groups[f"{args.compare.name}: {split}, {len(other)} networks"] = other
        text += f"\n\n{compare(found, other)}"
    print(text)
    with replacing(out) as temporary:
        draw(temporary, groups)
    print(f"\nwritten: {out}")
