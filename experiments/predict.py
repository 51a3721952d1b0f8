"""Predicts the parameters of a model and writes them to a file, without a line of Python.

    python experiments/predict.py --model=examples.models.resnet:resnet50 --input=1,224,224,3 --out=params.npz
    python experiments/predict.py --model=examples.models.nnx_models:vit --input=1,32,32,3 --out=params
    python experiments/predict.py --model=examples.models.gpt:gpt_small --input=1,64:int32 --out=params.npz
    python experiments/predict.py --arch=resnet50 --out=params.npz
    python experiments/predict.py --arch=test/7 --out=params.npz

A factory is called without arguments and returns a Linen or NNX module, or a function and its parameters.  Modules are
looked for in the current folder too.  `--out` ending in `.npz` writes one array for every parameter, named by its path;
anything else is a folder in the format of Orbax.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ghn_jax.deepnets.sampler import SPLITS, sample_architecture
from ghn_jax.ghn.model import GHN
from ghn_jax.graphs.graph import Graph, GraphError
from ghn_jax.networks.architecture import ArchitectureError, Task, named
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.prediction.predict import predict_params
from ghn_jax.prediction.report import report
from ghn_jax.runtime import use_compilation_cache
from ghn_jax.tracing import TraceError, trace
from ghn_jax.weights import loading, pretrained
from ghn_jax.weights.checkpoint import CheckpointError


class ArgumentError(ValueError):
    """A command line that makes no sense."""


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="package.module:factory")
    what.add_argument("--arch", help="an architecture of DeepNets-1M: its name (resnet50), or split/index (test/7)")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        help="shape of an input of the model, 1,32,32,3 or 1,64:int32; once each",
    )
    parser.add_argument(
        "--arg", action="append", default=[], help="another argument of its call, as in --arg=train=false; once each"
    )
    parser.add_argument("--out", type=Path, help="params.npz, or a folder; nothing is written without")
    parser.add_argument("--checkpoint", help="what ghn_jax.load takes (the one shipped with the package)")
    parser.add_argument("--strict", action="store_true", help="fail if a parameter cannot be predicted")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    parser.add_argument("--seed", type=int, default=0, help="of the model's own initialisers")
    args = parser.parse_args(arguments)
    if args.model and not args.input:
        parser.error("--model needs the shape of an --input")
    if args.arch and (args.input or args.arg):
        parser.error("--input and --arg are for --model, an architecture knows its inputs")
    return args


def parse_input(text: str) -> jax.ShapeDtypeStruct:
    """The shape and type of "1,32,32,3" or "1,64:int32"."""
    sizes, _, dtype = text.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
        if min(shape, default=1) < 1:
            raise ValueError
        return jax.ShapeDtypeStruct(shape, np.dtype(dtype or "float32"))
    except (TypeError, ValueError):
        raise ArgumentError(
            f"--input={text}: expected positive sizes and perhaps a type, as 1,32,32,3 or 1,64:int32"
        ) from None


def parse_arg(text: str) -> tuple[str, Any]:
    """Name and value of "train=false"; a value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentError(f"--arg={text}: expected name=value")
    try:
        return name, json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        return name, value


def make_model(text: str) -> tuple[Any, ...]:
    """What the factory called `text` makes: a module, or a function and parameters."""
    module_name, colon, factory_name = text.partition(":")
    if not colon:
        raise ArgumentError(f"--model={text}: expected package.module:factory")
    sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"--model={text}: {error}") from error
    try:
        made = factory()
    except Exception as error:
        raise ArgumentError(f"--model={text}: the factory fails: {type(error).__name__}: {error}") from error
    return made if isinstance(made, tuple) else (made,)


def make_graph(args: argparse.Namespace, task: Task) -> Graph:
    """The graph of the model or architecture."""
    if args.model:
        inputs = [parse_input(text) for text in args.input]
        kwargs = dict(parse_arg(text) for text in args.arg)
        model = make_model(args.model)
        return trace(*model, *inputs, strict=args.strict, **kwargs)
    split, slash, index = args.arch.partition("/")
    if not slash:
        return build_graph(named(args.arch), task)
    if split not in SPLITS or not index.isdigit():
        raise ArgumentError(f"--arch={args.arch}: expected a name, or an index of one of {', '.join(sorted(SPLITS))}")
    try:
        architecture = sample_architecture(split, int(index))
    except ValueError as error:
        raise ArgumentError(f"--arch={args.arch}: {error}") from error
    return build_graph(architecture, task)


def load_hypernetwork(what: str | None) -> tuple[GHN, Task]:
    """A hypernetwork, by default the one in the package, and what it was trained for."""
    what = pretrained.DEFAULT if what is None else what
    ghn = loading.load(what)
    return ghn, loading.task(what, ghn.config)


def write(path: Path, arrays: dict[str, jax.Array]) -> None:
    """Writes arrays by name, under a temporary name first."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    if path.suffix == ".npz":
        standard = {name: np.asarray(values) for name, values in arrays.items()}
        # NumPy's files know no bfloat16.
        standard = {n: v.astype(np.float32) if v.dtype.kind == "V" else v for n, v in standard.items()}
        np.savez(temporary, **standard)
        temporary.replace(path)
        return
    from orbax.checkpoint import v1 as ocp

    shutil.rmtree(temporary, ignore_errors=True)
    ocp.save(temporary, traverse_util.unflatten_dict(arrays, sep="/"))
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    use_compilation_cache()
    if args.out and args.out.exists() and not args.overwrite:
        sys.exit(f"--out={args.out} exists; --overwrite replaces it")
    try:
        ghn, task = load_hypernetwork(args.checkpoint)
        begin = time.perf_counter()
        graph = make_graph(args, task)
        traced = time.perf_counter()
        params = predict_params(graph, ghn, seed=args.seed, strict=args.strict)
        jax.block_until_ready(params)
        predicted = time.perf_counter()
    except (ArgumentError, ArchitectureError, CheckpointError, GraphError, IndexError, TraceError) as error:
        sys.exit(str(error))
    names = list(params) if graph.tree is None else [leaf.name for leaf in graph.tree.leaves]
    leaves = list(params.values()) if graph.tree is None else graph.tree.arrays(params)
    print(report(graph, ghn))
    count = sum(leaf.size for leaf in leaves)
    print(
        f"graph {1e3 * (traced - begin):.0f} ms, prediction {1e3 * (predicted - traced):.0f} ms, {count:,} parameters"
    )
    if args.out:
        write(args.out, dict(zip(names, leaves, strict=True)))
        print(f"written: {args.out}")


if __name__ == "__main__":
    main()
