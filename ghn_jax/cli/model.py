"""The model or architecture of a command line, and its graph."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

import jax
import numpy as np

from ghn_jax.checks import files
from ghn_jax.cli.common import CommandError, cut
from ghn_jax.deepnets import lookup
from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.architecture import Task
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.tracing import trace


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model or --arch, and what a model is called with."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="package.module:factory")
    what.add_argument("--arch", help="an architecture: its name (resnet50), split/index (test/7), or a JSON file")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        help="shape of an input of the model, 1,32,32,3 or 1,64:int32; once each",
    )
    parser.add_argument(
        "--arg", action="append", default=[], help="another argument of its call, as in --arg=train=false; once each"
    )


def check_model(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if the options of `add_model` do not go together."""
    if args.model and not args.input:
        parser.error("--model needs the shape of an --input")
    if args.arch and (args.input or args.arg):
        parser.error("--input and --arg are for --model, an architecture knows its inputs")


def parse_input(text: str) -> jax.ShapeDtypeStruct:
    """The shape and type of "1,32,32,3" or "1,64:int32"."""
    sizes, _, dtype = text.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
        if min(shape, default=1) < 1:
            raise ValueError
        kind = np.dtype(dtype or "float32")
        if kind.kind in "OSUMm" or kind.type is np.void:
            raise ValueError
        return jax.ShapeDtypeStruct(shape, kind)
    except (TypeError, ValueError, SyntaxError):  # NumPy reads a list of types as Python
        raise CommandError(
            f"--input={cut(text)}: expected positive sizes and perhaps a type, as 1,32,32,3 or 1,64:int32"
        ) from None


def parse_arg(text: str) -> tuple[str, Any]:
    """Name and value of "train=false"; a value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise CommandError(f"--arg={cut(text)}: expected name=value")
    try:
        return name, files.parse_json(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return name, value


def make_model(text: str) -> tuple[Any, ...]:
    """The module, or the function and parameters, that the factory called `text` makes."""
    module_name, colon, factory_name = text.partition(":")
    if not colon:
        raise CommandError(f"--model={cut(text)}: expected package.module:factory")
    sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"--model={cut(text)}: {error}") from error
    except Exception as error:  # of a user's module, or of a name that no module can have
        raise CommandError(f"--model={cut(text)}: {type(error).__name__}: {error}") from error
    try:
        made = factory()
    except Exception as error:
        raise CommandError(f"--model={cut(text)}: the factory fails: {type(error).__name__}: {error}") from error
    return made if isinstance(made, tuple) else (made,)


def make_graph(args: argparse.Namespace, task: Task, strict: bool = False) -> Graph:
    """The graph of the model or architecture.

    Args:
      args: of `add_model`.
      task: for which an architecture is built.
      strict: fail if a parameter of the model cannot be predicted.

    Raises:
      CommandError, ArchitectureError, GraphError, TraceError: naming the option or place.
    """
    if args.model:
        inputs = [parse_input(text) for text in args.input]
        kwargs = dict(parse_arg(text) for text in args.arg)
        model = make_model(args.model)
        return trace(*model, *inputs, strict=strict, **kwargs)
    return build_graph(lookup.find_architecture(args.arch, large_images=task.large_images).architecture, task)
