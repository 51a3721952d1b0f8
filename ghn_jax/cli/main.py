"""The console command `ghn-jax`: finds the command that is asked for and runs it.

A command's module is imported when that command runs, so help and errors are immediate.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import ghn_jax
from ghn_jax.cli.common import clean_exit
from ghn_jax.cli.interrupts import ends_at_once, ends_at_second


class Command(NamedTuple):
    """A command: its module in `ghn_jax.cli`, which has a function `main`, and a line of help."""

    module: str
    help: str


COMMANDS = {
    "predict": Command("predict", "predict the parameters of a model or architecture and write them to a file"),
    "report": Command("report", "print how each parameter of a model or architecture would be predicted"),
    "embed": Command("embed", "print a model or architecture as a vector"),
    "evaluate": Command("evaluate", "measure the accuracy of predicted networks beside He initialization"),
    "train": Command("train", "train a hypernetwork"),
    "plot": Command("plot", "draw training runs into one picture"),
    "visualize": Command("visualize", "draw the graph of an architecture"),
    "models": Command("models", "list the hypernetworks in the package"),
    "import": Command("import_checkpoint", "convert a checkpoint of the PyTorch original"),
    "pack": Command("pack", "make one file of a training run, with its provenance"),
    "deepnets make": Command("make_deepnets", "write splits of DeepNets-1M to files"),
    "deepnets describe": Command("describe_deepnets", "print and draw statistics of a split of DeepNets-1M"),
}
"""By what is typed after `ghn-jax`."""

GROUPS = frozenset(name.partition(" ")[0] for name in COMMANDS if " " in name)
"""First words of commands of two words."""


def main(arguments: Sequence[str] | None = None, program: bool = False) -> None:
    """Runs the command line `ghn-jax ARGUMENTS`.

    Args:
      arguments: by default those of this process.
      program: this process does nothing else (`ghn_jax.__main__`).
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    with clean_exit(at_once=program):
        if words == ["--version"]:
            print(f"ghn_jax {ghn_jax.__version__}")
            return
        name = _split(words)
        if name in COMMANDS:
            with ends_at_once():
                module = importlib.import_module(f"ghn_jax.cli.{COMMANDS[name].module}")
            with ends_at_second() if program else contextlib.nullcontext():
                module.main(words[len(name.split()) :])
            return
        if set(words[len(name.split()) :]) <= {"-h", "--help"} and (not name or name in GROUPS):
            print(overview(known for known in COMMANDS if known.startswith(name)))
            return
        print(unknown(" ".join(words[:2]) if name in GROUPS else name or words[0]), file=sys.stderr)
        sys.exit(2)


def overview(names: Iterable[str]) -> str:
    """Help for these commands, a line each."""
    names = list(names)
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {COMMANDS[name].help}" for name in names]
    return "\n".join(
        [
            "usage: ghn-jax COMMAND [OPTION...]",
            "",
            "Graph hypernetworks: predict all parameters of a network in one forward pass.",
            "",
            *lines,
            "",
            "ghn-jax COMMAND --help explains a command.",
        ]
    )


def unknown(name: str) -> str:
    """The error for a command that there is none of."""
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {close[0]!r}? There are " if close else ": there are "
    return f"ghn-jax: no command {name!r}{hint}{', '.join(COMMANDS)}"


def _split(words: Sequence[str]) -> str:
    """The words in front that name a command: two in a group of commands, none if there are only options."""
    if not words or words[0].startswith("-"):
        return ""
    if words[0] in GROUPS and len(words) > 1 and not words[1].startswith("-"):
        return " ".join(words[:2])
    return words[0]
