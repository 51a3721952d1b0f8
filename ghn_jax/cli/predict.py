"""Predicts the parameters of a model and writes them to a file, without a line of Python.

    ghn-jax predict --model=examples.models.resnet:resnet50 --input=1,224,224,3 --out=params.npz
    ghn-jax predict --model=examples.models.nnx_models:vit --input=1,32,32,3 --out=params
    ghn-jax predict --model=examples.models.gpt:gpt_small --input=1,64:int32 --out=params.npz
    ghn-jax predict --arch=resnet50 --out=params.npz
    ghn-jax predict --arch=resnet50 --out=params.safetensors --layout=torch
    ghn-jax predict --arch=test/7 --out=params.npz

A factory is called without arguments and returns a Linen or NNX module, or a function and its parameters.  Modules are
looked for in the current folder too.  `--out` ends in `.npz` or
`.safetensors` (one array for every parameter, named by its path), in `.pt` (a state dictionary of PyTorch, with
`--layout=torch`, for architectures), or in nothing: a folder in the format of Orbax.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from ghn_jax.cli.common import add_hypernetwork, load_hypernetwork, make_parser, refuse_existing
from ghn_jax.cli.model import add_model, check_model, make_graph
from ghn_jax.prediction.predict import predict_params
from ghn_jax.prediction.report import report
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.weights import saving


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", "predict")
    add_model(parser)
    parser.add_argument("--out", type=Path, help="params.npz, or a folder; nothing is written without")
    parser.add_argument("--layout", choices=saving.LAYOUTS, default="jax", help="of what is written (%(default)s)")
    add_hypernetwork(parser)
    parser.add_argument("--strict", action="store_true", help="fail if a parameter cannot be predicted")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    parser.add_argument("--seed", type=int, default=0, help="of the model's own initialisers")
    args = parser.parse_args(arguments)
    check_model(parser, args)
    if args.out is None and (args.overwrite or args.layout != "jax"):
        parser.error("--overwrite and --layout are for what --out writes: expected --out too")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `ghn-jax predict ARGUMENTS`."""
    args = parse_args(arguments)
    refuse_existing(args.out, args.overwrite, folder=args.out is not None and not args.out.suffix)
    if args.out:
        saving.check_name(args.out, args.layout)
    use_compilation_cache()
    ghn, task = load_hypernetwork(args.checkpoint)
    begin = time.perf_counter()
    graph = make_graph(args, task, args.strict)
    traced = time.perf_counter()
    params = predict_params(graph, ghn, seed=args.seed, strict=args.strict)
    jax.block_until_ready(params)
    predicted = time.perf_counter()
    leaves = list(params.values()) if graph.tree is None else graph.tree.arrays(params)
    print(report(graph, ghn))
    count = sum(leaf.size for leaf in leaves)
    print(
        f"graph {1e3 * (traced - begin):.0f} ms, prediction {1e3 * (predicted - traced):.0f} ms, {count:,} parameters"
    )
    if args.out:
        saving.save(params, args.out, layout=args.layout, graph=graph, overwrite=args.overwrite)
        print(f"written: {args.out}")
