"""Converts a checkpoint of the original PyTorch implementation into a file of this package.

    ghn-jax import ghn2_cifar10.pt                       # says what it is
    ghn-jax import ghn2_cifar10.pt --out=ghn2_cifar10.npz
    ghn-jax import ghn1_imagenet.pt --out=weights --dataset=imagenet

PyTorch is not needed, and nothing in the file is run.  The weights are kept exactly, as float32.  `--out` is a file
ending in `.npz`, or a folder; `ghn_jax.load` reads what is written, and `ghn-jax predict --checkpoint` takes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ghn_jax.cli.common import make_parser, refuse_existing
from ghn_jax.ghn.config import title
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import conversion, loading, pretrained
from ghn_jax.weights.conversion import Published


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "import")
    parser.add_argument("file", type=Path, metavar="FILE.pt", help="checkpoint written by the original")
    parser.add_argument("--out", type=Path, help="ghn.npz, or a folder; nothing is written without")
    parser.add_argument("--dataset", help="what it was trained on, to be written down: the file does not say")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    args = parser.parse_args(arguments)
    if args.out is None and (args.overwrite or args.dataset):
        parser.error("--overwrite and --dataset are for what --out writes: expected --out too")
    return args


def destination(args: argparse.Namespace) -> Path | None:
    """The file to write."""
    if args.out is None or args.out.suffix == ".npz":
        return args.out
    return args.out / f"{args.file.stem}.npz"


def describe(path: Path, published: Published) -> str:
    """The contents of a checkpoint, a line each."""
    config = published.config
    leaves = jax.tree.leaves(published.params)
    switches = {"virtual edges": config.ve, "normalised weights": config.weight_norm, "layer norm": config.layernorm}
    used = ", ".join(name for name, on in switches.items() if on) or "none of virtual edges, normalisation, layer norm"
    out, inputs, height, width = config.max_shape
    lines = [
        ("kind", f"{title(config)}: {config.hypernet}, {config.decoder} decoder, {config.hid} features a node"),
        ("with", used),
        ("predicts", f"networks for {config.num_classes:,} classes"),
        ("decodes", f"tensors of up to {out}x{inputs}x{height}x{width}, larger ones are tiled"),
        ("epochs", "not recorded" if published.epochs is None else str(published.epochs)),
        ("parameters", f"{sum(leaf.size for leaf in leaves):,} in {len(leaves)} arrays"),
    ]
    return "\n".join([f"{path} ({path.stat().st_size:,} bytes)", *(f"  {name:<11} {text}" for name, text in lines)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax import ARGUMENTS`."""
    args = parse_args(arguments)
    out = destination(args)
    refuse_existing(out, args.overwrite)
    published = conversion.load_checkpoint(args.file)
    print(describe(args.file, published))
    if out is None:
        return
    provenance = loading.of_published(args.file, published)
    if args.dataset:
        provenance = {"dataset": args.dataset} | provenance
    out.parent.mkdir(parents=True, exist_ok=True)
    pretrained.write(out, GHN(published.config, published.params), provenance, np.float32)
    print(f"written: {out}")
