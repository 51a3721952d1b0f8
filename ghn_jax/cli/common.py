"""What commands share: options, loading a hypernetwork with images that fit, the end of a program, writing results.

Importing this module loads no numerical library.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ghn_jax.errors import GHNError

if TYPE_CHECKING:
    from ghn_jax.ghn.model import GHN
    from ghn_jax.images import Dataset
    from ghn_jax.networks.architecture import Task


PICTURES = (".png", ".pdf", ".svg", ".jpg")
"""Endings of names of pictures."""


class CommandError(GHNError):
    """A command line that makes no sense; the message names the option, its value and what was expected."""


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Ends the program without a traceback where its user can mend what went wrong.

    | cause | on stderr | exit status |
    |---|---|---|
    | an error of this package or of the system | its message | 1 |
    | Ctrl-C | "interrupted" | 130 |
    | the reader of a pipe is gone, as in `ghn-jax models | head -1` | nothing | 141 |
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (GHNError, OSError) as error:
        sys.exit(str(error))


def make_parser(description: str, command: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring.

    Args:
      description: the docstring.
      command: what is typed after `ghn-jax`, None for a script.
    """
    return argparse.ArgumentParser(
        prog=None if command is None else f"ghn-jax {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_hypernetwork(parser: argparse.ArgumentParser) -> None:
    """Adds the option --checkpoint."""
    from ghn_jax.weights import pretrained

    parser.add_argument("--checkpoint", default=pretrained.DEFAULT.stem, help="what ghn_jax.load takes (%(default)s)")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds --dataset and --data_dir, for the images of a hypernetwork."""
    parser.add_argument("--dataset", help="another data set than the hypernetwork was trained on")
    parser.add_argument("--data_dir", help="where its files are")


def picture(text: str) -> Path:
    """The path of a picture to be written, for `type=` of an option.

    Raises:
      ArgumentTypeError: a name that does not say in which format.
    """
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text}: expected a name ending in {', '.join(PICTURES)}")
    return path


def add_several(parser: argparse.ArgumentParser) -> None:
    """Adds several hypernetworks with titles, and the images that they are compared on."""
    parser.add_argument("hypernetworks", nargs="+", metavar="TITLE=WHAT", help="a title and what ghn_jax.load takes")
    parser.add_argument("--dataset", required=True, help="images to classify")
    parser.add_argument("--data_dir", help="where its files are")


def load_hypernetwork(what: str) -> tuple[GHN, Task]:
    """A hypernetwork and the task of the networks that it predicts.

    Raises:
      CheckpointError: as for `ghn_jax.load`.
    """
    from ghn_jax.weights import loading

    ghn = loading.load(what)
    return ghn, loading.task(what, ghn.config)


class Setting(NamedTuple):
    """A hypernetwork, the task of the networks that it predicts, images for it, and where it comes from."""

    ghn: GHN
    task: Task
    dataset: Dataset
    provenance: dict[str, Any]


def load_setting(what: str, dataset: str | None, data_dir: str | None) -> Setting:
    """A hypernetwork with images that fit.

    Args:
      what: as for `ghn_jax.load`.
      dataset: name of a data set, None for the one that the hypernetwork was trained on.
      data_dir: where its files are, None for where the hypernetwork's run found them, or the usual places.

    Raises:
      CheckpointError, ImageError: as for `ghn_jax.load` and `images.load`.
      CommandError: nobody knows which data set, or it is for another task.
    """
    from ghn_jax import images
    from ghn_jax.weights import checkpoint, loading

    ghn, task = load_hypernetwork(what)
    provenance = loading.provenance(what)
    if dataset is None:
        dataset = provenance.get("dataset")
        if dataset is None:
            raise CommandError(f"{what} does not say what it was trained on: give --dataset")
    if data_dir is None and Path(what).is_dir():
        stored = checkpoint.describe(what).train_config
        data_dir = stored.get("data_dir") if stored.get("dataset") == dataset else None
    data = images.load(dataset, data_dir)
    if data.task != task:
        raise CommandError(f"{dataset} is for {data.task}, the hypernetwork predicts networks for {task}")
    return Setting(ghn, task, data, provenance)


def load_several(entries: Iterable[str], dataset: str, data_dir: str | None) -> tuple[dict[str, GHN], Dataset]:
    """Hypernetworks by title, and the images that they are compared on.

    Raises:
      CheckpointError, ImageError: as for `loading.load_titled` and `images.load`.
    """
    from ghn_jax import images
    from ghn_jax.weights import loading

    data = images.load(dataset, data_dir)
    return loading.load_titled(entries, data.num_classes), data


def refuse_existing(path: Path | None, overwrite: bool) -> None:
    """Checks that nothing would be replaced unasked.

    Raises:
      CommandError: there is something at `path`.
    """
    if path is not None and path.exists() and not overwrite:
        raise CommandError(f"--out={path} exists; --overwrite replaces it")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name of the same suffix, for a file or folder that takes the place of `path` when it is complete."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
