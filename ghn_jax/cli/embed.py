"""Prints a model or architecture as a vector, the mean of the embeddings of its nodes, or writes it to a file.

ghn-jax embed --arch=resnet50
ghn-jax embed --arch=test/7 --out=embedding.npy
ghn-jax embed --model=examples.models.resnet:resnet50 --input=1,224,224,3 --checkpoint=ghn2_cifar10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ghn_jax.checks.files import replacing
from ghn_jax.cli.common import add_hypernetwork, load_hypernetwork, make_parser, refuse_existing
from ghn_jax.cli.model import add_model, check_model, make_graph
from ghn_jax.prediction.embed import embed
from ghn_jax.runtime import use_compilation_cache


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "embed")
    add_model(parser)
    add_hypernetwork(parser)
    parser.add_argument("--out", type=Path, help="an .npy file; without it the numbers are printed")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    args = parser.parse_args(arguments)
    check_model(parser, args)
    if args.out is None and args.overwrite:
        parser.error("--overwrite is for what --out writes: expected --out too")
    if args.out and args.out.suffix != ".npy":
        parser.error(f"--out={args.out}: expected a name ending in .npy")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax embed ARGUMENTS`."""
    args = parse_args(arguments)
    refuse_existing(args.out, args.overwrite)
    use_compilation_cache()
    ghn, task = load_hypernetwork(args.checkpoint)
    embedding = embed(make_graph(args, task), ghn)
    if args.out is None:
        print(" ".join(f"{value:.6g}" for value in embedding))
        return
    with replacing(args.out) as temporary, open(temporary, "wb") as file:
        np.save(file, embedding)
    print(f"written: {args.out}")
