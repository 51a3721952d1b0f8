"""Hypernetworks from wherever they are: the package, a checkpoint folder, a file of ours or of the original's."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

from ghn_jax.ghn.config import HypernetConfig, title
from ghn_jax.ghn.model import GHN
from ghn_jax.networks.architecture import CIFAR10, IMAGENET, Task
from ghn_jax.runtime import outside_of_traces
from ghn_jax.weights import checkpoint, conversion, hypernetwork_file, pretrained
from ghn_jax.weights.errors import CheckpointError

EXPECTED = (
    "the name of a hypernetwork in the package, a checkpoint folder of experiments/train.py, an .npz or "
    ".safetensors file, or a .pt file of the original implementation"
)


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A hypernetwork that comes with the package.

    Attributes:
      name: what `load` takes.
      config: of the hypernetwork.
      provenance: where it comes from, as it is stored beside the weights.
    """

    name: str
    config: HypernetConfig
    provenance: Mapping[str, Any]

    @property
    def dataset(self) -> str | None:
        """The images it was trained on."""
        return self.provenance.get("dataset")

    @property
    def steps(self) -> int | None:
        """Updates it has seen."""
        return self.provenance.get("steps")

    @property
    def accuracy(self) -> float | None:
        """Mean accuracy of networks that it predicts, 0 to 1; `provenance["accuracy"]` says of which, and has more."""
        means = [
            figures["mean"] for figures in pretrained.measured_accuracies(self.provenance).values() if "mean" in figures
        ]
        return means[0] if means else None


class Shelf(Mapping[str, Shipped]):
    """The hypernetworks in the package, by name."""

    def __init__(self, shipped: Mapping[str, Shipped]):
        self._shipped = dict(shipped)

    def __getitem__(self, name: str) -> Shipped:
        return self._shipped[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shipped)

    def __len__(self) -> int:
        return len(self._shipped)

    def __repr__(self) -> str:
        rows = [("name", "kind", "data set", "steps", "accuracy")]
        for name, one in self.items():
            steps = "" if one.steps is None else f"{one.steps:,}"
            accuracy = "" if one.accuracy is None else f"{one.accuracy:.1%}"
            rows.append((name, title(one.config), one.dataset or "", steps, accuracy))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines)


@overload
def load(what: None = None) -> Shelf: ...


@overload
def load(what: str | os.PathLike[str]) -> GHN: ...


@outside_of_traces()
def load(what: str | os.PathLike[str] | None = None) -> GHN | Shelf:
    """A hypernetwork, or without an argument what there is in the package.

    Args:
      what: the name of a hypernetwork in the package ("ghn2_fashion_mnist"), a checkpoint folder
        ("runs/digits"), an `.npz` or `.safetensors` file of `ghn_jax.save`, `ghn-jax pack` or `ghn-jax import`, or any
        other file, which must be a checkpoint of the original PyTorch implementation ("ghn2_cifar10.pt"; nothing in it
        is run, PyTorch is not needed).  A name in the package wins over a file ("./ghn2_fashion_mnist" is a file).

    Raises:
      CheckpointError: nothing there, a damaged file, or one of another kind.

    >>> ghn = ghn_jax.load('ghn2_fashion_mnist')
    >>> ghn.config.hypernet
    'gatedgnn'
    """
    if what is None:
        return Shelf({name: Shipped(name, *pretrained.read_about(path)) for name, path in pretrained.paths().items()})
    path = _find(what)
    if path.is_dir():
        return checkpoint.load_ghn(path)
    if path == pretrained.DEFAULT:
        return pretrained.load()
    if path.suffix == ".npz":
        return pretrained.read(path)[0]
    if path.suffix == ".safetensors":
        return hypernetwork_file.read(path)[0]
    published = conversion.load_checkpoint(path)
    return GHN(published.config, published.params)


def load_titled(entries: Iterable[str], num_classes: int) -> dict[str, GHN]:
    """Hypernetworks to be compared, by title.

    Args:
      entries: a title and what `load` takes, such as "GHN-2=ghn2_fashion_mnist".
      num_classes: of the networks that they are to predict.

    Raises:
      CheckpointError: an entry of another form, one that predicts networks of other classes, or as for `load`.
    """
    entries = list(entries)
    for entry in entries:
        if not all(entry.partition("=")[::2]):
            raise CheckpointError(f"{entry!r}: expected TITLE=WHAT, such as GHN-2=ghn2_fashion_mnist")
    found = {}
    for name, _, what in (entry.partition("=") for entry in entries):
        found[name] = load(what)
        classes = found[name].config.num_classes
        if classes != num_classes:
            raise CheckpointError(f"{name} predicts networks of {classes} classes, expected {num_classes}")
    return found


def provenance(what: str | os.PathLike[str]) -> dict[str, Any]:
    """What is known of where a hypernetwork comes from, to be stored with it (`pretrained.write`, `push_to_hub`).

    Args:
      what: as for `load`.

    Returns:
      For names, `.npz` and `.safetensors` files what is stored in them; for checkpoint folders data set, steps, task
      and configuration of the run (without paths of this machine); for files of the original their name, SHA-256 and
      the number of epochs.

    Raises:
      CheckpointError: as for `load`.

    >>> sorted(ghn_jax.provenance('ghn2_cifar10'))[:3]
    ['accuracy', 'architectures_seen', 'command']
    """
    path = _find(what)
    if path.is_dir():
        description = checkpoint.describe(path)
        run = {name: value for name, value in description.train_config.items() if name not in ("data_dir", "workdir")}
        known = {"dataset": run.get("dataset"), "steps": description.step}
        return known | {"task": dataclasses.asdict(description.task), "train_config": run}
    if path.suffix == ".npz":
        return pretrained.read_about(path)[1]
    if path.suffix == ".safetensors":
        return hypernetwork_file.read_about(path)[1]
    return of_published(path, conversion.load_checkpoint(path))


def of_published(path: str | os.PathLike[str], published: conversion.Published) -> dict[str, Any]:
    """Provenance of what was read from a file of the original implementation."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"converted_from": Path(path).name, "sha256": sha256, "epochs": published.epochs}


def task(what: str | os.PathLike[str], config: HypernetConfig) -> Task:
    """The task of the networks that a hypernetwork predicts.

    A checkpoint folder says; for others it follows from the size of the decoded tensors, which the original chose by
    the size of images.

    Args:
      what: as for `load`.
      config: of the hypernetwork.

    Raises:
      CheckpointError: as for `load`.
    """
    path = _find(what)
    if path.is_dir():
        return checkpoint.describe(path).task
    usual = IMAGENET if config.max_kernel > 11 else CIFAR10
    return dataclasses.replace(usual, num_classes=config.num_classes)


def _find(what: str | os.PathLike[str]) -> Path:
    """The file or folder that `what` is."""
    if not isinstance(what, (str, os.PathLike)) or not os.fspath(what):
        raise CheckpointError(f"{what!r}: expected {EXPECTED}")
    shipped = pretrained.paths()
    if isinstance(what, str) and what in shipped:
        return shipped[what]
    path = Path(what)
    try:
        if path.exists():
            return path
        beside = [str(path.parent / entry.name) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError) as error:  # a name that no file can have
        raise CheckpointError(f"{str(what)[:200]!r}: expected {EXPECTED} ({error})") from error
    close = difflib.get_close_matches(str(path), [*shipped, *beside], cutoff=0.5)
    hint = f"; close to it: {', '.join(close)}" if close else f"; in the package: {', '.join(shipped)}"
    raise CheckpointError(f"there is no {str(what)[:200]!r}: expected {EXPECTED}{hint}")
